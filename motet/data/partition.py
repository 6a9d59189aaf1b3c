"""Deal one data set to simulated clients, and hold examples out. The recipe's seed decides everything."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from motet.data.corpora import CLASS_NAMES, load_material
from motet.data.errors import DataError
from motet.data.examples import HELD_OUT, Example, write_jsonl
from motet.data.reading import is_one_data_set, read_data

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from motet.recipe.model import Recipe

_TAG = 0x6D6F7465  # keeps these draws apart from others that use the recipe's seed
TEST_FILE = "test"
"""Stem of the file with the held-out examples; no client may be called so."""

_REDRAWS = 200
_WORDS_PER_TOKEN = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """Training examples by client id, and the held-out ones; no source is on both sides.

    ``text_column``, ``label_column`` and ``person_column`` are the recipe's: files of the examples are written with
    these names, so that a client reads them as its own data.
    """

    train: Mapping[str, Sequence[Example]]
    test: Sequence[Example]
    text_column: str = "text"
    label_column: str = "label"
    person_column: str | None = None


def partition(recipe: Recipe) -> Partition:
    """Load the recipe's data and deal it; equal recipes give equal partitions, in equal order.

    Test: whole sources drawn at random until ``test_examples`` are there, the same number from each group
    with ``by: natural``; where the publisher names a test part, from that part only. A folder brings its own
    ``test.jsonl`` and one file a client, and is not dealt.

    Training: ``natural`` gives one client a group; ``dirichlet`` splits each class (each group where there
    are no classes) by one draw of client proportions; ``iid`` deals a shuffled pack.
    ``examples_per_client`` is the most that a client keeps, drawn at random.

    Raises:
      DataError: the data can not be read, or not be dealt as asked.
      MaterialError: the material is not fetched.
    """
    data, rng = recipe.data, np.random.default_rng([_TAG, recipe.seed % 2**63])
    path = None if data.path is None else Path(data.path).expanduser()
    if path is not None and path.is_dir() and not is_one_data_set(recipe, path):
        return _from_folder(recipe, path, rng)
    examples = examples_of(recipe, path)
    natural = data.partition.by == "natural"
    if natural:
        examples = _wanted_groups(recipe, examples)
    train, test = hold_out(examples, data.test_examples, rng, per_group=natural)
    if natural:
        dealt = {_client_id(group): part for group, part in _by_group(train).items()}
    else:
        clients = _client_ids(recipe)
        if data.partition.by == "iid":
            hands = deal_iid(train, len(clients), rng)
        else:
            classes = [e.group if recipe.task.num_labels is None else str(e.label) for e in train]
            hands = deal_dirichlet(train, classes, len(clients), data.partition.alpha, rng)
        dealt = dict(zip(clients, hands, strict=True))
    if TEST_FILE in dealt:
        raise DataError(f"a client can not be called {TEST_FILE!r}: that file holds the held-out examples")
    most = data.partition.examples_per_client
    return Partition(
        train={c: _at_most(dealt[c], most, rng) for c in sorted(dealt)},
        test=test,
        text_column=data.text_column,
        label_column=data.label_column,
        person_column=_person_column(recipe),
    )


def _person_column(recipe: Recipe) -> str | None:
    return None if recipe.privacy is None else recipe.privacy.unit_column


def write_shards(dealt: Partition, folder: Path, *, with_test: bool = True) -> dict[str, Path]:
    """Write ``<client_id>.jsonl`` for each client and ``test.jsonl``; return the clients' files.

    Raises:
      DataError: the folder can not be written.
    """

    def write(examples: Sequence[Example], name: str) -> Path:
        path = folder / f"{name}.jsonl"
        return write_jsonl(
            examples,
            path,
            text_column=dealt.text_column,
            label_column=dealt.label_column,
            person_column=dealt.person_column,
        )

    if with_test:
        write(dealt.test, TEST_FILE)
    return {client: write(dealt.train[client], client) for client in sorted(dealt.train)}


def hold_out(
    examples: Sequence[Example], num_test: int, rng: np.random.Generator, *, per_group: bool
) -> tuple[list[Example], list[Example]]:
    """Split by whole sources.

    Args:
      examples: all.
      num_test: exact number of held-out examples; what is left of the last drawn source is dropped, not
        trained on.
      rng: draws the sources.
      per_group: take equally many from each group (the first groups by name get the remainder).

    Returns:
      Training examples in the given order, held-out ones in drawn order.

    Raises:
      DataError: more than half of a group, or more than its publisher's test part, would be held out.
    """
    pools = _by_group(examples) if per_group else {"": list(examples)}
    test: list[Example] = []
    closed: set[str] = set()
    for index, (group, pool) in enumerate(sorted(pools.items())):
        wanted = num_test // len(pools) + (index < num_test % len(pools))
        official = [e for e in pool if e.source.startswith(HELD_OUT)]
        most = len(official) if official else len(pool) // 2
        if wanted > most:
            raise DataError(
                f"data.test_examples: {num_test} would hold out {wanted} of the {len(pool)} examples"
                + (f" of {group!r}" if group else "")
                + f"; at most {most} can be",
                hint="lower data.test_examples in the recipe",
            )
        by_source: dict[str, list[Example]] = defaultdict(list)
        for example in official or pool:
            by_source[example.source].append(example)
        sources = sorted(by_source)
        drawn: list[Example] = []
        for position in rng.permutation(len(sources)):
            if len(drawn) >= wanted:
                break
            drawn += by_source[sources[position]]
            closed.add(sources[position])
        test += drawn[:wanted]
    train = [e for e in examples if e.source not in closed and not e.source.startswith(HELD_OUT)]
    return train, test


def deal_iid(examples: Sequence[Example], num_clients: int, rng: np.random.Generator) -> list[list[Example]]:
    """A shuffled deal, one example after the other: client sizes differ by at most one.

    Raises:
      DataError: fewer examples than clients.
    """
    if len(examples) < num_clients:
        raise DataError(f"{len(examples)} examples can not be dealt to {num_clients} clients")
    order = rng.permutation(len(examples))
    return [[examples[int(i)] for i in order[client::num_clients]] for client in range(num_clients)]


def deal_dirichlet(
    examples: Sequence[Example],
    classes: Sequence[str],
    num_clients: int,
    alpha: float,
    rng: np.random.Generator,
) -> list[list[Example]]:
    """Split each class by proportions over the clients, p ~ Dirichlet(alpha, ..., alpha), one draw a class.

    The scheme of Yurochkin et al. 2019, section 4 (Hsu et al. 2019 draw once a client instead).

    Args:
      examples: n of them.
      classes: the class of each, n of them.
      num_clients: clients.
      alpha: small is skewed, large is even.
      rng: draws.

    Raises:
      DataError: after many draws some client still got nothing.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for index, cls in enumerate(classes):
        members[cls].append(index)
    for _ in range(_REDRAWS):
        hands: list[list[int]] = [[] for _ in range(num_clients)]
        for cls in sorted(members):
            order = rng.permutation(members[cls])
            cuts = np.cumsum(rng.dirichlet(np.full(num_clients, alpha)))[:-1] * len(order)
            for hand, part in zip(hands, np.split(order, np.round(cuts).astype(int)), strict=True):
                hand.extend(int(i) for i in part)
        if all(hands):
            return [[examples[i] for i in rng.permutation(hand)] for hand in hands]
    raise DataError(
        f"data.partition: with alpha {alpha} and {num_clients} clients some client gets no example",
        hint="raise data.partition.alpha or lower data.partition.num_clients",
    )


def _at_most(examples: Sequence[Example], most: int | None, rng: np.random.Generator) -> list[Example]:
    order = rng.permutation(len(examples))[:most]
    return [examples[int(i)] for i in order]


def _by_group(examples: Sequence[Example]) -> dict[str, list[Example]]:
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.group].append(example)
    return dict(groups)


def examples_of(recipe: Recipe, path: Path | None) -> list[Example]:
    """All examples that ``data`` names, in a fixed order: of the file or folder at ``path``, else of the material.

    Raises:
      DataError: they can not be read, or are not examples of the task.
      MaterialError: the material is not fetched.
    """
    data, task = recipe.data, recipe.task
    if path is not None:
        return read_data(recipe, path)
    name = str(data.material)
    examples = load_material(name, passage_words=max(8, int(task.max_length * _WORDS_PER_TOKEN)))
    if data.classes is not None:
        examples = _only_classes(examples, data.classes, name)
    if task.num_labels is not None:
        classes = 1 + max(e.label for e in examples)
        if classes == 1:
            raise DataError(
                f"data.material: {name!r} has no classes", hint="use task.kind: causal-lm with it"
            )
        if classes != task.num_labels:
            raise DataError(f"task.num_labels: {task.num_labels}, but {name!r} has {classes} classes")
    return _with_persons(examples, _person_column(recipe), name)


def _with_persons(examples: list[Example], column: str | None, name: str) -> list[Example]:
    """A data set by name knows documents and groups; either may stand for persons."""
    if column is None:
        return examples
    if column not in ("source", "group"):
        raise DataError(
            f"privacy.unit_column: {name!r} has no column {column!r}", hint="use source (a document) or group"
        )
    return [replace(e, person=e.source if column == "source" else e.group) for e in examples]


def _only_classes(examples: list[Example], classes: Sequence[str], material: str) -> list[Example]:
    """Examples of these classes of a data set, numbered in the order given.

    Groups of ``newsgroups`` become the classes, which lie within them; groups of pictures stay.
    """
    known = CLASS_NAMES.get(material, ())
    unknown = [name for name in classes if name not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        raise DataError(
            f"data.classes: {material} has no class {unknown[0]!r}",
            hint=f"did you mean {near[0]}?"
            if near
            else f"it has: {', '.join(known) or 'no names of classes'}",
        )
    number = {known.index(name): i for i, name in enumerate(classes)}
    return [
        replace(e, label=number[e.label], group=known[e.label] if material == "newsgroups" else e.group)
        for e in examples
        if e.label in number
    ]


def _wanted_groups(recipe: Recipe, examples: list[Example]) -> list[Example]:
    """Examples of groups that become clients: those in ``cohort.clients``, or the first ``num_clients``."""
    groups = sorted({e.group for e in examples})
    if "" in groups or len({_client_id(g) for g in groups}) != len(groups):
        raise DataError(
            "data.partition.by: natural needs a 'group' for every example, and distinct client ids of them",
            hint="add a column 'group' to the data, or set by: iid",
        )
    clients, count = recipe.cohort.clients, recipe.data.partition.num_clients
    known = {_client_id(group): group for group in groups}
    if clients is not None:
        unknown = sorted(set(clients) - set(known))
        if unknown:
            raise DataError(
                f"cohort.clients: {', '.join(unknown)} is no group of the data",
                hint=f"groups are {', '.join(sorted(known))}",
            )
        kept = {known[client] for client in clients}
    elif count is not None and count > len(groups):
        raise DataError(
            f"data.partition.num_clients: {count}, but by: natural has one a group, {len(groups)}",
            hint=f"lower num_clients to {len(groups)}, or set by: iid or by: dirichlet",
        )
    else:
        kept = set(groups[:count])
    return [e for e in examples if e.group in kept]


def _client_id(group: str) -> str:
    """A group's name as a client id: letters, digits, dot, dash and underscore, at most 63."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", group).strip("-._")[:63] or "unnamed"


def _client_ids(recipe: Recipe) -> list[str]:
    """Ids of dealt clients: ``cohort.clients``, or client-1 ... client-n (padded to sort)."""
    clients, count = recipe.cohort.clients, recipe.data.partition.num_clients
    if clients is not None:
        if count is not None and count != len(clients):
            raise DataError(f"data.partition.num_clients: {count}, but cohort.clients names {len(clients)}")
        if len(set(clients)) != len(clients):
            raise DataError("cohort.clients: names a client twice")
        return list(clients)
    if count is None:
        raise DataError(
            f"data.partition.num_clients: by: {recipe.data.partition.by} needs it",
            hint="set it, or name cohort.clients",
        )
    return [f"client-{i:0{len(str(count))}d}" for i in range(1, count + 1)]


def _from_folder(recipe: Recipe, folder: Path, rng: np.random.Generator) -> Partition:
    """One file a client (of pictures: or one folder), in its own order; a source on both sides is refused."""
    data = recipe.data
    files = {
        path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in {".jsonl", ".csv"}
    }
    if recipe.task.reads_images:
        files |= {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()}
    test_file = files.pop(TEST_FILE, None)
    wanted = recipe.cohort.clients or sorted(files)[: data.partition.num_clients]
    missing = sorted(set(wanted) - set(files))
    if test_file is None or not wanted or missing:
        lacking = [f"{client}.jsonl" for client in missing or ([] if wanted else ["<client_id>"])]
        lacking += ["test.jsonl"] if test_file is None else []
        raise DataError(
            f"{folder}: lacks {', '.join(lacking)}", hint="one file a client, and test.jsonl held out"
        )

    test = read_data(recipe, test_file, with_persons=False)
    held_out = {e.source for e in test}
    most = data.partition.examples_per_client
    train: dict[str, list[Example]] = {}
    for client in sorted(wanted):
        examples = read_data(recipe, files[client])
        both = sorted({e.source for e in examples} & held_out)
        if both:
            raise DataError(
                f"{files[client]}: {len(both)} sources stand in {test_file.name} as well, first {both[0]!r}",
                hint="remove these examples from one of the two files (equal texts count as one source)",
            )
        train[client] = _thinned(examples, most, rng)
    return Partition(
        train=train,
        test=_thinned(test, data.test_examples, rng),
        text_column=data.text_column,
        label_column=data.label_column,
        person_column=_person_column(recipe),
    )


def _thinned(examples: Sequence[Example], most: int | None, rng: np.random.Generator) -> list[Example]:
    """At most so many, drawn at random, in the file's own order: whole files train as their owners' would."""
    return [examples[i] for i in sorted(rng.permutation(len(examples))[:most].tolist())]
