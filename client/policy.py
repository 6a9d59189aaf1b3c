"""The data owner's policy: a floor that no recipe goes below. A TOML file; unknown clauses are errors.

``docs/policy.md`` tells what each clause does, ``examples/policies`` holds whole files. A clause that is not written
sets no bound.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import tomllib
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, get_args

from client.base_hash import base_sha256s
from client.errors import OutsideHoursError, PolicyRefusedError
from client.hours import parse_hours
from motet.errors import MotetError
from motet.recipe import recipe_sha256
from motet.recipe.model import TaskSection
from privacy.events import UNITS

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from motet.recipe import Recipe

TRUST_MODES = ("trusted_server", "honest_but_curious_server", "malicious_server")
APPROVALS = ("any", "rule", "manual")
TASKS = get_args(TaskSection.model_fields["kind"].annotation)
_SHA256 = re.compile(r"[0-9a-f]{64}")


class PolicyFileError(MotetError):
    """The policy file can not be used; the client does not start without the floor that its owner wrote."""

    exit_code = 6

    def __init__(self, message: str, *, hint: str = "mend it; every clause is in docs/policy.md") -> None:
        super().__init__(message, hint=hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Clauses; None means that the owner sets no bound.

    Attributes:
      data_sets: name of a data set, or path as given to ``--data`` -> most epsilon on it; beside ``max_epsilon``.
      max_parallel_runs: for how many runs this client may be asked at one time.
      share_metrics: False: no figure beside the update leaves, and none of this client is recorded by trackers.
      share_accuracy: True: loss and accuracy on held-out examples leave where a recipe without privacy asks for them.
      sha256: of the file; empty without one. Decisions name it.
    """

    max_epsilon: float | None = None
    target_delta: float = 1e-5
    min_noise_multiplier: float | None = None
    max_clipping_norm: float | None = None
    require_privacy: bool = False
    allowed_units: tuple[str, ...] | None = None
    allowed_base_models: tuple[str, ...] | None = None
    allowed_base_sha256: tuple[str, ...] | None = None
    allowed_methods: tuple[str, ...] | None = None
    allowed_targets: tuple[str, ...] | None = None
    allowed_tasks: tuple[str, ...] | None = None
    max_lora_rank: int | None = None
    max_memory_mb: float | None = None
    max_round_seconds: float | None = None
    min_cohort: int | None = None
    public_files: tuple[str, ...] | None = None
    hours: tuple[str, ...] = ()
    days: tuple[str, ...] = ()
    time_zone: str = "UTC"
    trust_mode: str | None = None
    approval: str = "any"
    approved_recipes: tuple[str, ...] | None = None
    max_parallel_runs: int = 1
    share_metrics: bool = True
    share_accuracy: bool = False
    data_sets: Mapping[str, float] = field(default_factory=dict)
    sha256: str = field(default="", compare=False)

    def epsilon_cap(self, *names: str) -> float | None:
        """The most epsilon on a data set that goes by any of these names or paths; None where nothing bounds it.

        Raises:
          PolicyRefusedError: the owner bounds data sets, none of them is this one, and no cap holds for all: a name
            that is written in another way would be no cap, silently.
        """
        known = {*names, *(os.path.normpath(name) for name in names)}
        caps = [cap for name, cap in self.data_sets.items() if {name, os.path.normpath(name)} & known]
        if self.data_sets and not caps and self.max_epsilon is None:
            raise PolicyRefusedError(
                "clause data_sets: the owner caps data sets by name, and this client's is not among them"
            )
        return min([*caps, *([] if self.max_epsilon is None else [self.max_epsilon])], default=None)

    @property
    def tells_scores(self) -> bool:
        """Whether loss and accuracy may leave; an owner who releases no metrics releases no such figure either."""
        return self.share_accuracy and self.share_metrics

    @property
    def wants_privacy(self) -> bool:
        """Whether the owner bounds what is spent, or asks for privacy in so many words."""
        return self.require_privacy or self.max_epsilon is not None or bool(self.data_sets)


def load_policy(path: Path) -> Policy:
    """Read a policy.

    Raises:
      PolicyFileError: missing, no TOML, empty, an unknown clause (the nearest right one is named), or a value of
        another type.
    """
    try:
        data = path.read_bytes()
        table = tomllib.loads(data.decode("utf-8"))
    except FileNotFoundError as e:
        raise PolicyFileError(f"{path}: no such policy file", hint="check --policy") from e
    except OSError as e:
        raise PolicyFileError(f"{path}: {e.strerror}", hint="check the file's rights") from e
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise PolicyFileError(f"{path}: not TOML: {e}") from e
    if not table:  # what is left of a file that could not be written, and no floor
        raise PolicyFileError(
            f"{path}: holds no clause", hint="write the clauses, or start without --policy if you mean none"
        )
    known = [f.name for f in fields(Policy) if f.name != "sha256"]
    clauses: dict[str, Any] = {}
    for key, value in table.items():
        _check_known(path, key, known, "clause")
        if key == "data_sets":
            clauses[key] = _data_sets(path, value)
            continue
        if not _is_usable(key, value):
            raise PolicyFileError(f"{path}: {key} has an unusable value {value!r}{_expected(key)}")
        clauses[key] = (value,) if key == "hours" and isinstance(value, str) else value
        if isinstance(value, list):
            clauses[key] = tuple(value)
    policy = Policy(**clauses, sha256=hashlib.sha256(data).hexdigest())
    try:
        parse_hours(policy.hours, policy.days, policy.time_zone)
    except ValueError as e:
        raise PolicyFileError(f"{path}: {e}") from e
    return policy


def _check_known(path: Path, key: str, known: Collection[str], what: str) -> None:
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        raise PolicyFileError(
            f"{path}: unknown {what} {key!r}" + (f". Did you mean {near[0]}?" if near else "")
        )


def _data_sets(path: Path, value: object) -> dict[str, float]:
    """``[data_sets."name or path"]`` tables."""
    if not isinstance(value, dict):
        raise PolicyFileError(f'{path}: data_sets is a table for each data set: [data_sets."ward-a.jsonl"]')
    caps: dict[str, float] = {}
    for name, table in value.items():
        if not isinstance(table, dict):
            raise PolicyFileError(f'{path}: data_sets.{name} is a table: [data_sets."{name}"]')
        for key in table:
            _check_known(path, key, ["max_epsilon"], f"clause of data_sets.{name}")
        if "max_epsilon" not in table or not _is_positive(table["max_epsilon"]):
            raise PolicyFileError(
                f"{path}: data_sets.{name}.max_epsilon has an unusable value{_expected('max_epsilon')}"
            )
        caps[name] = float(table["max_epsilon"])
    return caps


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _list_of(fits: Callable[[str], bool]) -> Callable[[object], bool]:
    return lambda value: (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, str) and fits(item) for item in value)
    )


_USABLE: Mapping[str, Callable[[object], bool]] = {
    "target_delta": lambda value: isinstance(value, float) and 0 < value < 1,
    "require_privacy": lambda value: isinstance(value, bool),
    "share_metrics": lambda value: isinstance(value, bool),
    "share_accuracy": lambda value: isinstance(value, bool),
    "allowed_units": _list_of(lambda unit: unit in UNITS),
    "allowed_tasks": _list_of(lambda task: task in TASKS),
    "allowed_base_sha256": _list_of(lambda text: _SHA256.fullmatch(text) is not None),
    "approved_recipes": lambda value: (
        value == [] or _list_of(lambda t: _SHA256.fullmatch(t) is not None)(value)
    ),
    "hours": lambda value: isinstance(value, str) or _list_of(lambda _: True)(value),
    "days": _list_of(lambda _: True),
    "time_zone": lambda value: isinstance(value, str),
    "trust_mode": lambda value: value in TRUST_MODES,
    "approval": lambda value: value in APPROVALS,
    "max_parallel_runs": _is_count,
}
_EXPECTED: Mapping[str, str] = {
    "target_delta": "a number between 0 and 1, such as 1e-5",
    "allowed_units": ", ".join(UNITS),
    "allowed_tasks": ", ".join(TASKS),
    "trust_mode": ", ".join(TRUST_MODES),
    "approval": ", ".join(APPROVALS),
    "allowed_base_sha256": "64 digits of 0-9 and a-f each",
    "approved_recipes": "64 digits of 0-9 and a-f each",
    "require_privacy": "true or false",
    "share_metrics": "true or false",
    "share_accuracy": "true or false",
    "hours": 'a text such as "22:00-06:00", or a list of these',
    "days": 'a list of "mon" to "sun"',
    "time_zone": 'a text such as "Europe/Berlin"',
    "max_parallel_runs": "a whole number, at least 1",
}


def _is_usable(key: str, value: object) -> bool:
    if key in _USABLE:
        return _USABLE[key](value)
    if key.startswith("allowed_") or key == "public_files":
        return isinstance(value, list) and all(isinstance(name, str) for name in value)
    return _is_positive(value)


def _expected(key: str) -> str:
    if key in _EXPECTED:
        return f"; expected: {_EXPECTED[key]}"
    is_list = key.startswith("allowed_") or key == "public_files"
    return "; expected: " + (
        'a list of texts, such as ["one", "two"]' if is_list else "a number above 0, no text"
    )


def _check_unit(policy: Policy, unit: str) -> None:
    """Privacy towards the coordinator is what an owner means who asks for any, unless ``client`` is named."""
    allowed = policy.allowed_units
    if allowed is None and unit == "client" and policy.wants_privacy:
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


def _check_base(policy: Policy, recipe: Recipe) -> None:
    base = recipe.base_model
    model = str(base.material or base.hub or base.path or base.tiny)
    if policy.allowed_base_models is not None and model not in policy.allowed_base_models:
        raise PolicyRefusedError(f"clause allowed_base_models: {model} is not among them")
    allowed = policy.allowed_base_sha256
    if allowed is not None and not base_sha256s(recipe) & set(allowed):
        raise PolicyRefusedError(
            f"clause allowed_base_sha256: the content of {model} on this machine is not among them"
        )


def _check_what_trains(policy: Policy, recipe: Recipe, lora_rank: int) -> None:
    if policy.allowed_tasks is not None and recipe.task.kind not in policy.allowed_tasks:
        raise PolicyRefusedError(
            f"clause allowed_tasks: {recipe.task.kind} is asked, the owner allows {', '.join(policy.allowed_tasks)}"
        )
    if policy.allowed_methods is not None and recipe.method.name not in policy.allowed_methods:
        raise PolicyRefusedError(f"clause allowed_methods: {recipe.method.name} is not among them")
    if policy.allowed_targets is not None and recipe.method.train_adapter:
        other = [t for t in recipe.adapter.targets if t not in policy.allowed_targets]
        if other:
            raise PolicyRefusedError(
                f"clause allowed_targets: {', '.join(other)} would be adapted, the owner allows "
                f"{', '.join(policy.allowed_targets)}"
            )
    if policy.max_lora_rank is not None and lora_rank > policy.max_lora_rank:
        raise PolicyRefusedError(
            f"clause max_lora_rank: {lora_rank} is asked, the owner allows {policy.max_lora_rank}"
        )


def _check_privacy(policy: Policy, recipe: Recipe, noise_multiplier: float | None) -> None:
    privacy = recipe.privacy
    if privacy is None:
        if policy.wants_privacy:
            clauses = (
                ("require_privacy", policy.require_privacy),
                ("max_epsilon", policy.max_epsilon is not None),
            )
            clause = next((name for name, is_set in clauses if is_set), "data_sets")
            raise PolicyRefusedError(f"clause {clause}: the recipe has no privacy section")
        return
    _check_unit(policy, privacy.unit)
    if noise_multiplier is None:
        return
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


def _check_trust(policy: Policy) -> None:
    if policy.trust_mode not in (None, "trusted_server"):
        raise PolicyRefusedError(
            f"clause trust_mode: the owner wants {policy.trust_mode}; there are no secure sums yet, so the coordinator "
            "sees each update by itself, which is trusted_server"
        )


def check_policy(policy: Policy, recipe: Recipe, *, lora_rank: int, noise_multiplier: float | None) -> None:
    """Refuse what the owner does not allow; epsilon caps are checked by the ledger, in one step with their charge.

    Hours are checked by ``check_hours``, approvals by ``client.leave``.

    Raises:
      PolicyRefusedError: names the clause.
    """
    _check_trust(policy)
    if policy.approved_recipes is not None and recipe_sha256(recipe) not in policy.approved_recipes:
        raise PolicyRefusedError("clause approved_recipes: this recipe's hash is not among them")
    _check_privacy(policy, recipe, noise_multiplier)
    _check_public_file(policy, recipe)
    _check_base(policy, recipe)
    if not policy.share_metrics and recipe.cohort.weights == "num_examples":
        raise PolicyRefusedError(
            "clause share_metrics: the recipe weighs clients by their number of examples, which the owner does not tell"
        )
    _check_what_trains(policy, recipe, lora_rank)
    if policy.min_cohort is not None and recipe.cohort.minimum < policy.min_cohort:
        raise PolicyRefusedError(
            f"clause min_cohort: a round may close with {recipe.cohort.minimum} clients, "
            f"the owner wants {policy.min_cohort}"
        )


def check_hours(policy: Policy, now: datetime.datetime) -> None:
    """Refuse what comes outside the owner's hours; work that began within them goes on.

    Raises:
      OutsideHoursError: says when they begin, in the owner's time.
    """
    if not (policy.hours or policy.days):
        return
    hours = parse_hours(policy.hours, policy.days, policy.time_zone)
    if hours.is_open(now):
        return
    opens, here = hours.opens_at(now), now.astimezone(hours.zone)
    same_day = opens.date() == here.date()
    raise OutsideHoursError(
        "clause hours: outside the owner's hours", until=opens.strftime("%H:%M" if same_day else "%a %H:%M")
    )
