"""What the report says, as plain values: after NIST SP 800-226 and the fields of the deployments registry.

NIST SP 800-226 ("Guidelines for Evaluating Differential Privacy Guarantees", March 2025) names what a claim is
incomplete without; the registry (https://registry.opendp.org) names the fields under which deployments are compared.
What software can not know (purpose, legal basis, curator) comes from a facts file, and is "not stated" without one.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import tomllib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from aggregation.sketch_rounds import clipping_words
from motet.audit.errors import BundleError
from motet.audit.report.curves import Curve, attack_curve, best_guess, epsilon_by_round
from motet.recipe.units import TRUST_WORDS, UNIT_WORDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from motet.audit.bundle import Claim
    from motet.audit.data_sets import DataSetSpending
    from motet.audit.verify import AuditResult
    from privacy.ledger.entries import Reserve
    from privacy.ledger.rules import LedgerState

NOT_STATED = "not stated"
FACT_NAMES = (
    "title",
    "data_curator",
    "intended_use",
    "product_description",
    "legal_basis",
    "region",
    "sector",
    "date",
    "data_description",
    "examples_per_person",
    "retention",
    "access",
    "utility",
    "contact",
)
_LIBRARIES = ("motet", "opacus", "dp-accounting", "torch", "transformers", "peft", "cryptography")

_ATTACKERS: Mapping[str, str] = {
    "example": "Think of somebody who sees everything that a data owner sent and the final model, and who knows all of "
    "its data but one example. They want to find out whether that example was in the data.",
    "person": "Think of somebody who sees everything that a data owner sent and the final model, and who knows all of "
    "its data but that of one person. They want to find out whether that person was in the data at all.",
    "client": "Think of somebody who sees the adapters that were released, and who knows the data of all data owners "
    "but one. They want to find out whether that data owner took part with its data. They do not see single updates, "
    "nor who was drawn; the coordinator sees both, and is trusted.",
}
_ADDING_UP: Mapping[str, tuple[str, ...]] = {
    "example": (
        "If a person's examples lie at two data owners, the epsilons of both add up for that person.",
    ),
    "person": (
        "If a person's examples lie at two data owners, the epsilons of both add up for that person.",
    ),
    "client": (),
}
_MECHANISMS: Mapping[str, str] = {
    "example": "DP-SGD: each example's gradient clipped to L2 norm {clipping_norm}, Gaussian noise in every step, "
    "Poisson sampling at rate {sampling_rate}",
    "person": "DP-SGD: the sum of each person's gradients clipped to L2 norm {clipping_norm}, Gaussian noise in every "
    "step, Poisson sampling of persons at rate {sampling_rate}",
    "client": "each data owner's change in a round clipped to L2 norm {clipping_norm}, Gaussian noise on the sum, a "
    "public divisor, Poisson sampling of data owners at rate {sampling_rate}",
}
_LARGEST_EXPONENT = 700.0  # beyond it e^epsilon is no float

UNPROTECTED = (
    "That a data owner takes part, when, and in which rounds.",
    "The recipe: base model, method, ranks, clipping norm, noise, sampling rate, number of steps.",
    "Groups: what a person with g examples reveals is bounded by about g times epsilon, not by epsilon.",
    "Facts about people in general: a model that learns that smoking harms tells that of smokers who are not in the "
    "data. That is learning, and no breach.",
    "Time: how long a step takes depends on how many examples were drawn. It is not noised.",
    "What is chosen outside the ledger: settings picked by looking at results on the same data.",
    "The low bits of floating-point noise are made unusable by four draws a value; that is a mitigation, not a proof.",
    "Data at the data owner: at rest, in memory, in backups. Differential privacy is about what leaves.",
)


def read_facts(text: str, label: str) -> dict[str, str]:
    """Read a facts file: TOML, one text for each of ``FACT_NAMES`` that is known.

    Raises:
      BundleError: not TOML, an unknown name, or a value that is no text.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise BundleError(f"{label}: {e}", hint="a facts file is TOML: name = 'text'") from e
    for name, value in table.items():
        if name not in FACT_NAMES:
            raise BundleError(f"{label}: unknown fact {name!r}", hint=f"known: {', '.join(FACT_NAMES)}")
        if not isinstance(value, str):
            raise BundleError(f"{label}: {name} is not text", hint=f'write {name} = "..."')
    return {name: str(value) for name, value in table.items()}


def build_report(
    result: AuditResult,
    *,
    facts: Mapping[str, str],
    canary: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """All that the page shows, as plain JSON values; an infinite epsilon is null.

    Args:
      result: of ``verify_bundle``.
      facts: from ``read_facts``.
      canary: output of ``motet audit canary --json``, if it was run.

    Raises:
      BundleError: the bundle is too damaged to say which run it is about.
    """
    state = result.state
    run_id = str(result.bundle.header.get("run_id", ""))
    recipe = state.runs.get(run_id)
    if recipe is None:
        raise BundleError(
            "the bundle does not say which run it is about", hint="check it first: motet audit verify"
        )
    unit = _unit_of(recipe.get("privacy"))
    of_run = [claim for claim in result.clients if claim.unit == unit]
    worst = max(of_run, key=lambda claim: claim.epsilon_pld, default=None)
    accounts = state.accounts()
    told = {name: facts.get(name, NOT_STATED) for name in FACT_NAMES}
    made_at = int(result.summary["made_at_ms"] or 0) / 1000
    return {
        "run_id": run_id,
        "name": recipe.get("name", NOT_STATED),
        "made_at": datetime.datetime.fromtimestamp(made_at, datetime.UTC).isoformat(timespec="seconds"),
        "is_private": recipe.get("privacy") is not None,
        "verdict": {
            "ok": result.is_ok,
            "findings": [{"row": f.row, "code": f.code, "message": f.message} for f in result.findings],
            "notes": list(result.notes),
        },
        "meaning": _meaning(state, worst, recipe),
        "clients": [_client(state, claim) for claim in result.clients],
        "data_sets": [_data_set(spending) for spending in result.data_sets],
        "runs": _runs(state),
        "curves": {
            "attack": _attack(state, worst),
            "by_round": {
                claim.name: epsilon_by_round(
                    accounts[claim.client_id, claim.unit], claim.target_delta
                ).to_json()
                for claim in result.clients
            },
        },
        "nist_sp_800_226": _nist(recipe, worst, state, told),
        "deployment_registry": _registry(recipe, worst, told),
        "unprotected": list(UNPROTECTED),
        "releases": _releases(recipe),
        "empirical_audit": _canary(canary),
        "ledger": {
            "entries": result.summary["entries"],
            "root": result.summary["root"],
            "key": result.summary["key"],
            "checkpoints": result.summary["checkpoints"],
            "countersignatures": result.summary["countersignatures"],
            "verify": "motet audit verify FILE --key KEY",
        },
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }


def _unit_of(privacy: object) -> str:
    """Of a recipe's privacy section; recipes of before there were others protect examples."""
    told = privacy.get("unit", "example") if isinstance(privacy, dict) else "example"
    return told if told in UNIT_WORDS else "example"


def finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed where the report was made"


def _meaning(state: LedgerState, worst: Claim | None, recipe: Mapping[str, Any]) -> list[str]:
    """The guarantee in words that a data protection officer can repeat."""
    if recipe.get("privacy") is None or worst is None:
        return [
            "This run had no differential privacy. What it released may reveal single examples; nothing bounds how "
            "much."
        ]
    if not math.isfinite(worst.epsilon_pld):
        return [
            "At least one charge is of a kind that this version does not understand, or had no noise. Nothing bounds "
            "what was revealed."
        ]
    odds = math.exp(min(worst.epsilon_pld, _LARGEST_EXPONENT))
    right = best_guess(state.accounts()[worst.client_id, worst.unit])
    return [
        _ATTACKERS[worst.unit],
        f"Whatever they knew before, their odds can change by a factor of at most {odds:.3g}, but for rare cases whose "
        f"probability is of the order of delta, {worst.target_delta:g}.",
        f"If they could only toss a coin before, they are right in at most {100 * right:.1f} of 100 cases afterwards.",
        f"These figures are for the data owner who spent most ({worst.client_id}), over all runs on the ledger. "
        "They are upper bounds: attacks that are known do far less.",
        *_ADDING_UP[worst.unit],
        "Asking for erasure takes an example out of the data; it does not take its influence out of a model that was "
        "trained. The bound above is what limits that influence.",
    ]


def _client(state: LedgerState, claim: Claim) -> dict[str, Any]:
    charges = state.charges_in(claim.client_id, claim.unit)
    return {
        "client_id": claim.client_id,
        "unit": claim.unit,
        "epsilon_pld": finite(claim.epsilon_pld),
        "epsilon_rdp": finite(claim.epsilon_rdp),
        "target_delta": claim.target_delta,
        "limit": _limit(state, charges),
        "charges": len(charges),
        "without_answer": sum(c.reservation_id not in state.settled for c in charges),
    }


def _data_set(spending: DataSetSpending) -> dict[str, Any]:
    return dataclasses.asdict(spending) | {
        "epsilon_pld": finite(spending.epsilon_pld),
        "epsilon_rdp": finite(spending.epsilon_rdp),
    }


def _limit(state: LedgerState, charges: Sequence[Reserve]) -> float | None:
    limits = [
        privacy["epsilon_limit"]
        for run_id in {c.run_id for c in charges}
        if isinstance(privacy := state.runs.get(run_id, {}).get("privacy"), dict)
        and isinstance(privacy.get("epsilon_limit"), int | float)
    ]
    return min(limits, default=None)


def _runs(state: LedgerState) -> list[dict[str, Any]]:
    rows = []
    for run_id, recipe in state.runs.items():
        charges = [c for c in state.reserves.values() if c.run_id == run_id]
        rows.append(
            {
                "run_id": run_id,
                "name": recipe.get("name", NOT_STATED),
                "is_private": recipe.get("privacy") is not None,
                "rounds": len({c.round_index for c in charges}),
                "charges": len(charges),
                "answered": sum(c.reservation_id in state.settled for c in charges),
                "charged_without_answer": sum(c.reservation_id not in state.settled for c in charges),
                "events": sorted({c.event for c in charges}),
            }
        )
    return rows


def _attack(state: LedgerState, worst: Claim | None) -> dict[str, Any] | None:
    if worst is None or not math.isfinite(worst.epsilon_pld):
        return None
    curve: Curve = attack_curve(state.accounts()[worst.client_id, worst.unit])
    return {"client_id": worst.client_id, **curve.to_json()}


def _nist(
    recipe: Mapping[str, Any], worst: Claim | None, state: LedgerState, told: Mapping[str, str]
) -> dict[str, str]:
    """What SP 800-226 asks of a claim, in its order: parameters and unit, mechanism, deployment."""
    privacy = recipe.get("privacy")
    if not isinstance(privacy, dict):
        return {"privacy parameters": "none: the run had no differential privacy"}
    unit = _unit_of(privacy)
    epsilon = "infinite" if worst is None else f"{worst.epsilon_pld:.4g}"
    delta = "" if worst is None else f" at delta {worst.target_delta:g}"
    return {
        "privacy parameters": f"epsilon {epsilon}{delta}, (epsilon, delta)-differential privacy, an upper bound",
        "unit of privacy": UNIT_WORDS[unit],
        "contribution of a person": told["examples_per_person"],
        "neighbouring data sets": f"{UNIT_WORDS[unit]}, added or removed (unbounded)"
        + ("; the number of examples is protected" if unit != "client" else "; the roster is public"),
        "scope of the total": f"everything charged to a data owner: {len(state.runs)} runs, "
        f"{len(state.reserves)} charges, attempts that failed included",
        "composition": "privacy loss distributions (reported), Renyi DP (cross-check), integer Renyi vectors (ledger)",
        "post-processing": "aggregation, server optimisation, merging and export work on released values alone",
        "mechanism": _MECHANISMS[unit].format(
            clipping_norm=clipping_words(str(privacy.get("clipping_norm", NOT_STATED)), recipe.get("method")),
            sampling_rate=privacy.get("sampling_rate", NOT_STATED),
        ),
        "trust model": TRUST_WORDS[unit],
        "randomness": "ChaCha20 keyed by the operating system, for noise and sampling; no seed, no checkpoint",
        "implementation": "Opacus' optimizer with own per-example gradients, clipping and noise; versions below",
        "side channels": "time of a step, memory and crashes are not protected",
        "utility": told["utility"],
        "data retention": told["retention"],
        "access control": told["access"],
    }


def _registry(recipe: Mapping[str, Any], worst: Claim | None, told: Mapping[str, str]) -> dict[str, str]:
    """The registry's columns; the first group is the curator's to state."""
    private = isinstance(recipe.get("privacy"), dict) and worst is not None
    unit = _unit_of(recipe.get("privacy"))
    base = recipe.get("base_model")
    method = recipe.get("method")
    return {
        "name": told["title"] if told["title"] != NOT_STATED else str(recipe.get("name", NOT_STATED)),
        "data curator": told["data_curator"],
        "intended use": told["intended_use"],
        "data product": told["product_description"],
        "date": told["date"],
        "region": told["region"],
        "sector": told["sector"],
        "legal basis": told["legal_basis"],
        "contact": told["contact"],
        "flavor": "approximate differential privacy" if private else "none",
        "privacy unit": UNIT_WORDS[unit] if private else "none",
        "privacy loss": f"epsilon {worst.epsilon_pld:.4g}, delta {worst.target_delta:g}"
        if private and worst is not None
        else "unbounded",
        "deployment model": "central: noise at the coordinator, federated training"
        if unit == "client"
        else "local: noise at each data owner, federated training",
        "accounting": "PLD by dp-accounting, cross-checked by Renyi DP",
        "data domain": told["data_description"],
        "unprotected quantities": "see below",
        "product": f"low-rank adapter for {_named(base)} by method {_named(method)}",
    }


def _named(section: object) -> str:
    if not isinstance(section, dict):
        return NOT_STATED
    for key in ("material", "hub", "path", "tiny", "name"):
        if section.get(key):
            return str(section[key])
    return NOT_STATED


def _releases(recipe: Mapping[str, Any]) -> list[str]:
    """Everything that left a data owner; see ``client.protect``."""
    if recipe.get("privacy") is None:
        told = ["the trained tensors of every round, without noise", "the number of examples"]
        asked = ["loss and accuracy on held-out examples, where the owner's policy shares them"]
        return told + (asked if recipe.get("evaluation") else [])
    if _unit_of(recipe.get("privacy")) == "client":
        return [
            "to the coordinator: the trained tensors of every round in which the data owner was drawn, without noise",
            "to everybody: the noised mean of each round, charged to the whole roster",
            "who was drawn, to readers of this ledger: for them the sampling lowers no epsilon; count its rate as 1",
        ]
    return [
        "the trained tensors of every round, clipped per unit and noised in every step: charged",
        "constants of the order and the recipe: run, round, attempt, name, number of steps: not about the data",
        "no loss, no accuracy, no gradient norm, no batch size, no number of examples, no text",
    ]


def _canary(canary: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The installed mechanism's figures of ``motet audit canary --json``; None if it was not run or not understood."""
    try:
        if canary is None:
            return None
        runs, steps = canary["one_run_audit"], canary["mechanism_test"]
        controls = [name for name in (*runs, *steps) if name != "as installed"]
        told: dict[str, Any] = {"ok": bool(canary["ok"]), "controls": sorted(set(controls))}
        if runs:
            run = runs["as installed"]
            told["one_run"] = {
                "epsilon_lower_bound": float(run["epsilon_lower_bound"]),
                "claim": float(run["claim"]),
                "ceiling": float(run["ceiling"]),
                "canaries": int(run["plan"]["canaries"]),
                "confidence": float(run["plan"]["confidence"]),
            }
        mu = steps["as installed"]["checks"][0]
        told["mechanism"] = {"mu_lower_bound": float(mu["measured"]), "claim": float(mu["bound"])}
        return told
    except (KeyError, TypeError, ValueError, IndexError) as e:
        raise BundleError(
            "the canary file is not what `motet audit canary --json` prints", hint="run it again into a file"
        ) from e
