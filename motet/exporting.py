"""From a finished run to what others can load: the learned product, and the export of a stored run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aggregation.serialize import sha256_hex, to_bytes
from aggregation.table import refusal
from client.adapters import fed_sb_bases
from client.personal import PersonalParts
from coordinator.export import CardFacts, export_merged, export_peft
from coordinator.storage.artifacts import ArtifactStore
from coordinator.storage.store import Store
from motet.errors import MotetError
from motet.modeling import load_base
from motet.recipe import Recipe, from_canonical_json, round_event
from motet.recipe.method import method_of
from privacy.accounting import epsilon_pld

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from aggregation.adapter import AdapterState, FactorPair


class NothingToExportError(MotetError):
    """The run has no adapter yet."""

    exit_code = 9


def has_personal_part(recipe: Recipe) -> bool:
    """Whether each client keeps a part of the model, so that there is one model a client."""
    return recipe.method.train_adapter and refusal(recipe.method.name, "personal_part") is None


def export_personal(home: Path, run_id: str, out_dir: Path, *, merged: bool = False) -> dict[str, Any]:
    """Export a client's own model of a run whose method keeps a part of it at the client.

    Args:
      home: the client's folder.
      run_id: the run.
      out_dir: see ``coordinator.export``.
      merged: a whole model instead of an adapter folder.

    Returns:
      ``run_id``, ``out_dir``, ``rounds``, ``merged``.

    Raises:
      ClientError: nothing personal was kept of that run.
      MotetError: ``out_dir`` can not be written.
    """
    state, recipe_json, rounds = PersonalParts(home / "personal").model(run_id)
    recipe = from_canonical_json(recipe_json)
    event = round_event(recipe)
    delta = recipe.privacy.target_delta if recipe.privacy else 0.0
    facts = CardFacts(
        run_id=run_id,
        rounds=rounds,
        clients=len(recipe.cohort.clients or ()) or 1,
        adapter_sha256=sha256_hex(to_bytes(state)),
        epsilons={"this client": epsilon_pld([event] * rounds, delta)} if event else {},
    )
    write = export_merged if merged else export_peft
    write(recipe, dict(method_of(recipe).product(state)), state.dense, out_dir, facts)
    return {"run_id": run_id, "out_dir": str(out_dir), "rounds": rounds, "merged": merged}


def learned_product(recipe: Recipe, state: AdapterState) -> dict[str, FactorPair]:
    """Layer name -> factors of the whole learned change; Fed-SB's frozen bases are made from the base model here."""
    if not recipe.method.train_adapter:
        return {}
    method = method_of(recipe)
    if has_personal_part(recipe):
        raise NothingToExportError(
            f"{recipe.method.name} has no model for all: a part of each client's stays with it",
            hint="each client exports its own: motet client export RUN",
        )
    if method.trains == "core":
        rank = next(iter(state.cores.values())).shape[0]
        bases = fed_sb_bases(load_base(recipe), recipe, rank)
        return dict(method.product(state, bases=bases, scale=recipe.scale_of(rank)))
    return dict(method.product(state))


def epsilons_of(store: Store, run_id: str, recipe: Recipe, clients: Iterable[str]) -> dict[str, float]:
    """Client id -> epsilon that this run has charged to it, from the recorded events; empty without privacy.

    Charges of attempts that failed count in full. What other runs charged on the same data is not in it.
    """
    if recipe.privacy is None:
        return {}
    delta = recipe.privacy.target_delta
    return {client: epsilon_pld(store.spent_events(client, run_id), delta) for client in clients}


def export_run(home: Path, run_id: str, out_dir: Path, *, merged: bool = False) -> dict[str, Any]:
    """Export the newest closed round of a stored run.

    Args:
      home: the coordinator's state folder (``motet.db`` and ``artifacts/``).
      run_id: the run.
      out_dir: see ``coordinator.export``.
      merged: a whole model instead of an adapter folder.

    Returns:
      ``run_id``, ``out_dir``, ``adapter_sha256``, ``rounds``, ``merged``.

    Raises:
      NothingToExportError: no round of the run has closed.
      MotetError: no such run, or ``out_dir`` can not be written.
    """
    store = Store.open(home / "motet.db", create=False)
    try:
        run = store.get_run(run_id)
        closed = store.closed_rounds(run_id)
        asked = sorted({c.client_id for c in store.contributions(run_id)})
        clients = {c.client_id for c in store.contributions(run_id) if c.state == "RECEIVED"}
        recipe = from_canonical_json(run.recipe_json)
        epsilons = epsilons_of(store, run_id, recipe, asked)
    finally:
        store.close()
    if not closed:
        raise NothingToExportError(
            f"run {run_id} has no closed round yet (state {run.state})",
            hint=f"motet run watch {run_id} --home {home}",
        )
    state: AdapterState = ArtifactStore(home / "artifacts").load_state(closed[-1].adapter_sha256)
    facts = CardFacts(
        run_id=run_id,
        rounds=len(closed),
        clients=len(clients),
        adapter_sha256=closed[-1].adapter_sha256,
        epsilons=epsilons,
    )
    write = export_merged if merged else export_peft
    write(recipe, learned_product(recipe, state), state.dense, out_dir, facts)
    return {
        "run_id": run_id,
        "out_dir": str(out_dir),
        "adapter_sha256": facts.adapter_sha256,
        "rounds": facts.rounds,
        "merged": merged,
    }
