"""From a finished run to what others can load: the learned product, and the export of a stored run."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aggregation.errors import MalformedUpdateError
from aggregation.ranks import truncated
from aggregation.serialize import from_bytes, sha256_hex, to_bytes
from aggregation.table import refusal
from client.base import loaded_base
from client.ledger import ClientLedger
from client.personal import PersonalParts
from coordinator.engine.client_unit import is_client_unit
from coordinator.export import THIS_CLIENT, CardFacts, ExportError, export_merged, export_peft
from coordinator.storage.artifacts import ArtifactStore
from coordinator.storage.where import open_store
from motet.errors import MotetError
from motet.recipe import Recipe, from_canonical_json
from motet.recipe.method import method_of
from privacy.accounting import epsilon_pld

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import torch

    from aggregation.adapter import AdapterState, FactorPair
    from coordinator.storage.store import Store
    from motet.connection.connection import Connection


class NothingToExportError(MotetError):
    """The run has no adapter yet."""

    exit_code = 9


def has_personal_part(recipe: Recipe) -> bool:
    """Whether each client keeps a part of the model, so that there is one model a client."""
    return recipe.method.train_adapter and refusal(recipe.method.name, "personal_part") is None


def write_export(
    recipe: Recipe,
    product: Mapping[str, FactorPair],
    dense: Mapping[str, torch.Tensor],
    out_dir: Path,
    facts: CardFacts,
    *,
    merged: bool = False,
    lora_rank: int | None = None,
) -> CardFacts:
    """Write an adapter folder, cut to the serving rank, or a whole model.

    Args:
      recipe: of the run; its ``adapter.serving_lora_rank`` is the cap unless ``lora_rank`` says another.
      product: layer -> everything learned.
      dense: heads.
      out_dir: see ``coordinator.export``.
      facts: for the model card.
      merged: a whole model, which no cap applies to.
      lora_rank: the most that the server of the adapter takes.

    Returns:
      ``facts`` with what was cut.

    Raises:
      ExportError: a rank is asked for a merged model, or ``out_dir`` can not be written.
    """
    if merged and lora_rank is not None:
        raise ExportError(
            "a merged model has no rank to cut", hint="leave out --merged, or leave out --lora-rank"
        )
    cap = lora_rank or recipe.adapter.serving_lora_rank
    learned = max((pair.lora_rank for pair in product.values()), default=0)
    if merged or cap is None or learned <= cap:
        (export_merged if merged else export_peft)(recipe, product, dense, out_dir, facts)
        return facts
    cut = truncated(product, cap)
    facts = replace(facts, learned_rank=learned, truncation_error=cut.relative_error)
    export_peft(recipe, cut.product, dense, out_dir, facts)
    return facts


def export_personal(
    home: Path, run_id: str, out_dir: Path, *, merged: bool = False, lora_rank: int | None = None
) -> dict[str, Any]:
    """Export a client's own model of a run whose method keeps a part of it at the client.

    Args:
      home: the client's folder.
      run_id: the run.
      out_dir: see ``coordinator.export``.
      merged: a whole model instead of an adapter folder.
      lora_rank: as in ``write_export``.

    Returns:
      ``run_id``, ``out_dir``, ``rounds``, ``merged``, ``learned_rank``, ``truncation_error``.

    The epsilon on its card counts every charge of the run in the client's own ledger, attempts that failed among them.

    Raises:
      ClientError: nothing personal was kept of that run, or the ledger is damaged.
      MotetError: ``out_dir`` can not be written.
    """
    state, recipe_json, rounds = PersonalParts(home / "personal").model(run_id)
    recipe = from_canonical_json(recipe_json)
    epsilons = _own_epsilon(home, run_id, recipe)
    facts = CardFacts(
        run_id=run_id,
        rounds=rounds,
        clients=len(recipe.cohort.clients or ()) or 1,
        adapter_sha256=sha256_hex(to_bytes(state)),
        epsilons=epsilons,
        num_epsilons_unknown=int(recipe.privacy is not None and not epsilons),
    )
    product = dict(method_of(recipe).product(state))
    facts = write_export(recipe, product, state.dense, out_dir, facts, merged=merged, lora_rank=lora_rank)
    return {"run_id": run_id, "out_dir": str(out_dir), "rounds": rounds, "merged": merged} | cut_of(facts)


def _own_epsilon(home: Path, run_id: str, recipe: Recipe) -> dict[str, float]:
    """What a run has cost this client, by its own ledger; empty without privacy, or where the ledger has nothing."""
    spent = [
        charge.event for charge in ClientLedger(home / "ledger.jsonl").charges() if charge.run_id == run_id
    ]
    if recipe.privacy is None or not spent:
        return {}
    return {THIS_CLIENT: epsilon_pld(spent, recipe.privacy.target_delta)}


def cut_of(facts: CardFacts) -> dict[str, Any]:
    """What a serving cap cut, as plain values; zeros where nothing was."""
    return {"learned_rank": facts.learned_rank, "truncation_error": facts.truncation_error}


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
        if not state.cores:
            raise NothingToExportError(
                "the run has looked for its bases so far and learned nothing", hint="wait for its third round"
            )
        rank = next(iter(state.cores.values())).shape[0]
        base = loaded_base(recipe)
        with base.lock:
            bases = base.bases_for(recipe, state)
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


def export_run(
    home: Path, run_id: str, out_dir: Path, *, merged: bool = False, lora_rank: int | None = None
) -> dict[str, Any]:
    """Export the newest closed round of a stored run.

    Args:
      home: the coordinator's state folder (``motet.db`` and ``artifacts/``).
      run_id: the run.
      out_dir: see ``coordinator.export``.
      merged: a whole model instead of an adapter folder.
      lora_rank: as in ``write_export``.

    Returns:
      ``run_id``, ``out_dir``, ``adapter_sha256``, ``rounds``, ``merged``; ``learned_rank`` and ``truncation_error``,
      both 0 where nothing was cut.

    Raises:
      NothingToExportError: no round of the run has closed.
      MotetError: no such run, or ``out_dir`` can not be written.
    """
    store = open_store(home, create=False)
    try:
        run = store.get_run(run_id)
        closed = store.closed_rounds(run_id)
        contributions = store.contributions(run_id)
        recipe = from_canonical_json(run.recipe_json)
        learned = _Learned(
            run_id=run_id,
            recipe=recipe,
            rounds=len(closed),
            asked={c.client_id for c in contributions},
            counted={c.client_id for c in contributions if c.state == "RECEIVED"},
            epsilons=epsilons_of(store, run_id, recipe, sorted({c.client_id for c in contributions})),
        )
    finally:
        store.close()
    if not closed:
        raise _nothing_yet(run_id, run.state, f"--home {home}")
    state = ArtifactStore(home / "artifacts").load_state(closed[-1].adapter_sha256)
    return _written(learned, state, closed[-1].adapter_sha256, out_dir, merged=merged, lora_rank=lora_rank)


def export_from(
    connection: Connection,
    run_id: str,
    out_dir: Path,
    *,
    merged: bool = False,
    lora_rank: int | None = None,
    on_bytes: Callable[[int, int], None] = lambda _came, _of: None,
) -> dict[str, Any]:
    """As ``export_run``, of a coordinator that is reached over its control API.

    Epsilons are those that the coordinator counts; a client of several runs with different deltas is left out. What is
    returned tells the run's state and rounds as well: an unfinished run gives the adapter of its last closed round.

    Raises:
      NothingToExportError: no round of the run has closed.
      MotetError: no such run, the caller may not have it, or ``out_dir`` can not be written.
    """
    run = connection.runs.get(run_id)
    rounds = connection.rounds.list(run_id)
    closed = [r for r in rounds if r.state == "CLOSED"]
    if not closed:
        raise _nothing_yet(run_id, run.state, "")
    recipe = from_canonical_json(connection.recipes.get(run.recipe_sha256).recipe_json)
    contributions = [c for r in rounds for c in r.contributions]
    asked = {c.client_id for c in contributions}
    learned = _Learned(
        run_id=run_id,
        recipe=recipe,
        rounds=len(closed),
        asked=asked,
        counted={c.client_id for c in contributions if c.state == "RECEIVED"},
        epsilons=told_epsilons(connection, run_id, recipe, asked),
    )
    state = downloaded_state(connection, closed[-1].adapter_sha256, on_bytes)
    facts = _written(learned, state, closed[-1].adapter_sha256, out_dir, merged=merged, lora_rank=lora_rank)
    return facts | {"state": run.state, "rounds_total": run.rounds_total}


def downloaded_state(
    connection: Connection, sha256: str, on_bytes: Callable[[int, int], None] = lambda _came, _of: None
) -> AdapterState:
    """An adapter state of a coordinator that is reached over its control API.

    Raises:
      ExportError: what came is none.
      MotetError: there is no such artifact, or the caller may not have it.
    """
    with tempfile.TemporaryDirectory(prefix="motet-") as folder:
        path = connection.artifacts.download(sha256, Path(folder) / "state", on_bytes=on_bytes)
        try:
            return from_bytes(path.read_bytes())
        except MalformedUpdateError as e:
            raise ExportError(f"what came is no adapter state: {e.reason}", hint="ask the operator") from e


@dataclass(frozen=True, slots=True, kw_only=True)
class _Learned:
    """What an export tells of a run."""

    run_id: str
    recipe: Recipe
    rounds: int
    asked: set[str]
    counted: set[str]
    epsilons: dict[str, float]


def told_epsilons(connection: Connection, run_id: str, recipe: Recipe, clients: set[str]) -> dict[str, float]:
    """Client id -> epsilon of this run, as the coordinator tells it."""
    if recipe.privacy is None:
        return {}
    return {
        budget.client_id: run.epsilon
        for budget in connection.budgets.list()
        for run in budget.runs
        if run.run_id == run_id
        and budget.client_id in clients
        and budget.target_delta == recipe.privacy.target_delta
    }


def _nothing_yet(run_id: str, state: str, where: str) -> NothingToExportError:
    return NothingToExportError(
        f"run {run_id} has no closed round yet (state {state})",
        hint=f"motet run watch {run_id} {where}".rstrip(),
    )


def _written(
    learned: _Learned,
    state: AdapterState,
    adapter_sha256: str,
    out_dir: Path,
    *,
    merged: bool,
    lora_rank: int | None,
) -> dict[str, Any]:
    recipe = learned.recipe
    facts = CardFacts(
        run_id=learned.run_id,
        rounds=learned.rounds,
        clients=len(learned.asked if is_client_unit(recipe) else learned.counted),  # who was drawn stays here
        adapter_sha256=adapter_sha256,
        epsilons=learned.epsilons,
        num_epsilons_unknown=len(learned.asked - learned.epsilons.keys()) if recipe.privacy else 0,
    )
    product = learned_product(recipe, state)
    facts = write_export(recipe, product, state.dense, out_dir, facts, merged=merged, lora_rank=lora_rank)
    return {
        "run_id": learned.run_id,
        "out_dir": str(out_dir),
        "adapter_sha256": facts.adapter_sha256,
        "rounds": facts.rounds,
        "merged": merged,
    } | cut_of(facts)
