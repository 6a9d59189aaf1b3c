"""Dealing examples to simulated clients."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet.data import DataError, Example, partition, read_examples, write_jsonl, write_shards
from motet.data.examples import HELD_OUT
from motet.data.partition import deal_dirichlet, deal_iid, hold_out
from motet.recipe import parse_recipe
from motet.recipe.model import Recipe


def recipe(path, *, num_labels=2, test=10, seed=0, cohort=None, **partition):
    kind = "causal-lm" if num_labels is None else "sequence-classification"
    return Recipe.model_validate(
        {
            "name": "t",
            "base_model": {"tiny": "tiny-bert"},
            "task": {"kind": kind, "num_labels": num_labels},
            "data": {"path": str(path), "partition": partition, "test_examples": test},
            "method": {"name": "fedit"},
            "cohort": cohort or {},
            "seed": seed,
        }
    )


@pytest.fixture
def corpus(tmp_path):
    """90 examples of 30 documents in 3 groups, 2 classes."""
    rows = [
        Example(text=f"{group} {doc} {i}", label=(doc + i) % 2, group=group, source=f"{group}/{doc}")
        for group in ("north", "south side", "west")
        for doc in range(10)
        for i in range(3)
    ]
    return write_jsonl(rows, tmp_path / "all.jsonl")


def sources(examples):
    return {e.source for e in examples}


@pytest.mark.parametrize("by", ["natural", "iid", "dirichlet"])
@pytest.mark.parametrize("seed", range(5))
def test_no_source_is_on_both_sides_of_the_split(corpus, by, seed):
    dealt = partition(recipe(corpus, by=by, seed=seed, num_clients=3, alpha=1.0))
    assert len(dealt.test) == 10
    train = [e for part in dealt.train.values() for e in part]
    assert not sources(train) & sources(dealt.test)
    assert len(train) == len(set(train))  # nobody gets the same example twice


def test_a_split_that_ignores_sources_would_put_some_on_both_sides(corpus):
    """Control of the test above: the same examples, dealt one by one."""
    order = np.random.default_rng(0).permutation(90)
    examples = read_examples(corpus)
    assert sources(examples[i] for i in order[:10]) & sources(examples[i] for i in order[10:])


@pytest.mark.parametrize("by", ["natural", "iid", "dirichlet"])
def test_equal_recipes_give_equal_bytes_and_another_seed_other_ones(corpus, tmp_path, by):
    def shards(seed, name):
        files = write_shards(
            partition(recipe(corpus, by=by, num_clients=3, alpha=1.0, seed=seed)), tmp_path / name
        )
        return {c: f.read_bytes() for c, f in files.items()} | {
            "test": (tmp_path / name / "test.jsonl").read_bytes()
        }

    assert shards(1, "a") == shards(1, "b")
    assert shards(1, "a") != shards(2, "c")


def test_natural_gives_one_client_a_group_and_tests_all_groups_alike(corpus):
    dealt = partition(recipe(corpus, test=12, examples_per_client=9))
    assert sorted(dealt.train) == ["north", "south-side", "west"]
    assert Counter(e.group for e in dealt.test) == {"north": 4, "south side": 4, "west": 4}
    for client, part in dealt.train.items():
        assert len(part) == 9
        assert {e.group.replace(" ", "-") for e in part} == {client}


def test_natural_keeps_the_groups_that_the_cohort_or_the_count_names(corpus):
    assert sorted(partition(recipe(corpus, cohort={"clients": ["west", "north"]})).train) == ["north", "west"]
    assert sorted(partition(recipe(corpus, num_clients=2)).train) == ["north", "south-side"]


def test_ids_of_dealt_clients(corpus):
    assert sorted(partition(recipe(corpus, by="iid", num_clients=2)).train) == ["client-1", "client-2"]
    named = partition(recipe(corpus, by="iid", cohort={"clients": ["b", "a"]}))
    assert sorted(named.train) == ["a", "b"]
    assert "client-01" in partition(recipe(corpus, by="iid", num_clients=10)).train


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test": 60}, r"test_examples: 60 would hold out 20 of the 30 examples of 'north'; at most 15"),
        ({"by": "iid"}, "num_clients: by: iid needs it"),
        ({"by": "dirichlet", "num_clients": 3, "cohort": {"clients": ["a"]}}, r"cohort\.clients names 1"),
        ({"num_clients": 4}, "natural has one a group, 3"),
        ({"cohort": {"clients": ["east"]}}, "east is no group"),
        ({"by": "iid", "cohort": {"clients": ["a", "a"]}}, "names a client twice"),
        ({"by": "iid", "cohort": {"clients": ["a", "test"]}}, "can not be called 'test'"),
        ({"by": "iid", "num_clients": 200}, "can not be dealt to 200 clients"),
        ({"by": "dirichlet", "num_clients": 70, "alpha": 0.01}, "some client gets no example"),
    ],
)
def test_what_can_not_be_dealt_is_refused(corpus, settings, message):
    with pytest.raises(DataError, match=message):
        partition(recipe(corpus, **settings))


def test_natural_without_groups_is_refused(tmp_path):
    rows = [Example(text=f"t{i}", source=f"s{i}") for i in range(40)]
    with pytest.raises(DataError, match="needs a 'group'"):
        partition(recipe(write_jsonl(rows, tmp_path / "a.jsonl")))
    clash = [Example(text=f"t{i}", group="a b" if i % 2 else "a-b", source=f"s{i}") for i in range(40)]
    with pytest.raises(DataError, match="distinct client ids"):
        partition(recipe(write_jsonl(clash, tmp_path / "b.jsonl")))


def test_a_publishers_test_part_is_never_trained_on():
    rows = [Example(text=f"t{i}", source=(HELD_OUT if i % 3 == 0 else "") + f"s{i}") for i in range(90)]
    train, test = hold_out(rows, 12, np.random.default_rng(0), per_group=False)
    assert len(test) == 12
    assert all(e.source.startswith(HELD_OUT) for e in test)
    assert len(train) == 60
    assert not any(e.source.startswith(HELD_OUT) for e in train)
    with pytest.raises(DataError, match="at most 30"):
        hold_out(rows, 31, np.random.default_rng(0), per_group=False)


@given(st.integers(1, 12), st.integers(12, 80), st.integers(0, 9))
def test_an_iid_deal_is_a_partition_of_even_hands(num_clients, num_examples, seed):
    rows = [Example(text=str(i)) for i in range(num_examples)]
    hands = deal_iid(rows, num_clients, np.random.default_rng(seed))
    assert sorted(e.text for hand in hands for e in hand) == sorted(e.text for e in rows)
    assert max(map(len, hands)) - min(map(len, hands)) <= 1


def skew(alpha, seed):
    """Mean total variation distance of the clients' class shares from the shares of all."""
    rows = [Example(text=str(i), label=i % 4) for i in range(800)]
    hands = deal_dirichlet(rows, [str(e.label) for e in rows], 5, alpha, np.random.default_rng(seed))
    assert sorted(e.text for hand in hands for e in hand) == sorted(e.text for e in rows)
    shares = [np.bincount([e.label for e in hand], minlength=4) / len(hand) for hand in hands]
    return np.mean([abs(share - 0.25).sum() / 2 for share in shares])


@pytest.mark.parametrize("seed", range(3))
def test_a_dirichlet_deal_is_a_partition_and_small_alpha_is_skewed(seed):
    assert skew(1000.0, seed) < 0.05 < skew(1.0, seed) < skew(0.1, seed)


def folder_of(tmp_path, **files):
    for name, texts in files.items():
        write_jsonl([Example(text=t, label=0) for t in texts], tmp_path / f"{name}.jsonl")
    return tmp_path


def test_a_folder_brings_its_own_clients_and_test(tmp_path):
    folder = folder_of(tmp_path, b=["x", "y"], a=["z"], test=["t", "u", "v"])
    dealt = partition(recipe(folder, test=2))
    assert {c: sorted(e.text for e in part) for c, part in dealt.train.items()} == {
        "a": ["z"],
        "b": ["x", "y"],
    }
    assert len(dealt.test) == 2
    assert list(partition(recipe(folder, cohort={"clients": ["b"]})).train) == ["b"]


def test_a_folder_with_an_example_on_both_sides_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.jsonl: 1 sources stand in test\.jsonl as well"):
        partition(recipe(folder_of(tmp_path, a=["same  Text", "z"], test=["same text"])))


def test_a_folder_that_lacks_files_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"lacks <client_id>\.jsonl, test\.jsonl"):
        partition(recipe(tmp_path))
    with pytest.raises(DataError, match=r"lacks c\.jsonl"):
        partition(recipe(folder_of(tmp_path, a=["z"], test=["t"]), cohort={"clients": ["c"]}))


def test_causal_lm_reads_texts_without_labels_and_skews_by_group(tmp_path):
    rows = [Example(text=f"t{i}", group="abcdefgh"[i % 8], source=f"s{i}") for i in range(800)]
    path = write_jsonl(rows, tmp_path / "a.jsonl")

    def distance(by):
        dealt = partition(recipe(path, num_labels=None, by=by, num_clients=2, alpha=0.1))
        shares = [
            [np.mean([e.group == g for e in part]) for g in "abcdefgh"] for part in dealt.train.values()
        ]
        return np.abs(np.subtract(*shares)).sum() / 2

    assert distance("iid") < 0.15 < 0.4 < distance("dirichlet")


def test_shards_keep_the_recipes_column_names(tmp_path):
    rows = [Example(text=f"t{i}", label=i % 2, group="g", source=f"s{i}") for i in range(40)]
    path = write_jsonl(rows, tmp_path / "a.jsonl", text_column="body", label_column="stars")
    base = recipe(path)
    named = base.model_copy(
        update={"data": base.data.model_copy(update={"text_column": "body", "label_column": "stars"})}
    )
    dealt = partition(named)
    (file,) = write_shards(dealt, tmp_path / "out").values()
    assert read_examples(file, text_column="body", label_column="stars", num_labels=2) == list(
        dealt.train["g"]
    )


def test_a_folders_files_train_in_their_own_order(tmp_path):
    for name in ("a", "b", "test"):
        write_jsonl(
            [Example(text=f"{name} {i}", label=0, group="", source=f"{name}{i}") for i in range(30)],
            tmp_path / f"{name}.jsonl",
        )
    text = (
        f"name: t\nbase_model: {{tiny: tiny-bert}}\ntask: {{kind: sequence-classification, num_labels: 2}}\n"
        f"data: {{path: {tmp_path}, partition: {{examples_per_client: MOST}}}}\nadapter: {{targets: [query]}}\n"
        "method: {name: flora}\n"
    )
    whole = partition(parse_recipe(text.replace("MOST", "99"))).train["a"]
    assert [e.text for e in whole] == [f"a {i}" for i in range(30)]
    part = [e.text for e in partition(parse_recipe(text.replace("MOST", "9"))).train["a"]]
    assert part == sorted(part, key=lambda t: int(t.split()[1]))
    assert len(part) == 9
    assert part != [f"a {i}" for i in range(9)]  # drawn, not the first
