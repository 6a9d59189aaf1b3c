"""The data owner's policy: a floor that no recipe goes below. A TOML file; unknown clauses are errors.

max_epsilon = 8.0              # for a data set, over all runs
target_delta = 1e-5
min_noise_multiplier = 0.4
max_clipping_norm = 10.0
require_privacy = true
allowed_units = ["example", "person"]   # "client" trusts the coordinator with this owner's updates
allowed_base_models = ["minilm"]
allowed_methods = ["flora", "fed-sb"]
max_lora_rank = 32
max_memory_mb = 4000           # of the client's whole process, in 10^6 bytes
max_round_seconds = 600        # of training in one round
min_cohort = 2
public_files = ["9f86d081..."]  # sha256 of files that a private run may read as public data (method.public_data.path)
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from client.errors import PolicyRefusedError
from motet.errors import MotetError
from privacy.events import UNITS

if TYPE_CHECKING:
    from pathlib import Path

    from motet.recipe import Recipe


class PolicyFileError(MotetError):
    """The policy file can not be used; the client does not start without the floor that its owner wrote."""

    exit_code = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Clauses; None means that the owner sets no bound."""

    max_epsilon: float | None = None
    target_delta: float = 1e-5
    min_noise_multiplier: float | None = None
    max_clipping_norm: float | None = None
    require_privacy: bool = False
    allowed_units: tuple[str, ...] | None = None
    allowed_base_models: tuple[str, ...] | None = None
    allowed_methods: tuple[str, ...] | None = None
    max_lora_rank: int | None = None
    max_memory_mb: float | None = None
    max_round_seconds: float | None = None
    min_cohort: int | None = None
    public_files: tuple[str, ...] | None = None


def load_policy(path: Path) -> Policy:
    """Read a policy.

    Raises:
      PolicyFileError: missing, no TOML, an unknown clause (the nearest right one is named), or a value of
        another type.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise PolicyFileError(f"{path}: no such policy file") from e
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise PolicyFileError(f"{path}: {e}") from e
    known = {f.name: f for f in fields(Policy)}
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise PolicyFileError(
                f"{path}: unknown clause {key!r}" + (f". Did you mean {near[0]}?" if near else "")
            )
        if not _is_usable(key, value):
            raise PolicyFileError(f"{path}: {key} has an unusable value {value!r}")
    clauses: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    return Policy(**clauses)


def _is_usable(key: str, value: object) -> bool:
    if key == "require_privacy":
        return isinstance(value, bool)
    if key == "allowed_units":
        return isinstance(value, list) and bool(value) and all(unit in UNITS for unit in value)
    if key.startswith("allowed_") or key == "public_files":
        return isinstance(value, list) and all(isinstance(name, str) for name in value)
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _check_unit(policy: Policy, unit: str) -> None:
    """Privacy towards the coordinator is what an owner means who asks for any, unless ``client`` is named."""
    allowed = policy.allowed_units
    if allowed is None and unit == "client" and (policy.require_privacy or policy.max_epsilon is not None):
        raise PolicyRefusedError(
            "clause allowed_units: with unit client updates leave in the clear towards the coordinator; the owner has "
            "not named that unit"
        )
    if allowed is not None and unit not in allowed:
        raise PolicyRefusedError(
            f"clause allowed_units: {unit} is asked, the owner allows {', '.join(allowed)}"
        )


def _check_public_file(policy: Policy, recipe: Recipe) -> None:
    """A recipe could name the private file, and the answer would tell whether its content is what somebody guessed."""
    public = recipe.method.public_data
    if recipe.privacy is None or public is None or public.sha256 is None:
        return
    if public.sha256 not in (policy.public_files or ()):
        raise PolicyRefusedError(
            "clause public_files: a private run would read a file as public data that the owner has not named as public"
        )


def check_policy(policy: Policy, recipe: Recipe, *, lora_rank: int, noise_multiplier: float | None) -> None:
    """Refuse what the owner does not allow; the epsilon cap is checked by the ledger, in one step with its charge.

    Raises:
      PolicyRefusedError: names the clause.
    """
    privacy = recipe.privacy
    if privacy is None and (policy.require_privacy or policy.max_epsilon is not None):
        clause = "require_privacy" if policy.require_privacy else "max_epsilon"
        raise PolicyRefusedError(f"clause {clause}: the recipe has no privacy section")
    if privacy is not None:
        _check_unit(policy, privacy.unit)
    if privacy is not None and noise_multiplier is not None:
        if policy.min_noise_multiplier is not None and noise_multiplier < policy.min_noise_multiplier:
            raise PolicyRefusedError(
                f"clause min_noise_multiplier: {noise_multiplier:g} is asked, "
                f"the owner wants {policy.min_noise_multiplier:g}"
            )
        if policy.max_clipping_norm is not None and privacy.clipping_norm > policy.max_clipping_norm:
            raise PolicyRefusedError(
                f"clause max_clipping_norm: {privacy.clipping_norm:g} is asked, "
                f"the owner allows {policy.max_clipping_norm:g}"
            )
    _check_public_file(policy, recipe)
    base = recipe.base_model
    model = str(base.material or base.hub or base.path or base.tiny)
    if policy.allowed_base_models is not None and model not in policy.allowed_base_models:
        raise PolicyRefusedError(f"clause allowed_base_models: {model} is not among them")
    if policy.allowed_methods is not None and recipe.method.name not in policy.allowed_methods:
        raise PolicyRefusedError(f"clause allowed_methods: {recipe.method.name} is not among them")
    if policy.max_lora_rank is not None and lora_rank > policy.max_lora_rank:
        raise PolicyRefusedError(
            f"clause max_lora_rank: {lora_rank} is asked, the owner allows {policy.max_lora_rank}"
        )
    if policy.min_cohort is not None and recipe.cohort.minimum < policy.min_cohort:
        raise PolicyRefusedError(
            f"clause min_cohort: a round may close with {recipe.cohort.minimum} clients, "
            f"the owner wants {policy.min_cohort}"
        )
