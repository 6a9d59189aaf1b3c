"""The named data sets."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet.data import DataError, load_material, partition
from motet.data.corpora import NEWSGROUPS, passages
from motet.data.examples import HELD_OUT
from motet.materials import MaterialError, is_fetched
from motet.recipe import parse_recipe
from motet.recipe.model import Recipe


def load(name, **settings):
    if not is_fetched(name):
        pytest.skip(f"motet materials fetch {name}")
    return load_material(name, **settings)


def groups(examples):
    return sorted({e.group for e in examples})


@given(st.lists(st.text("ab.?; ", max_size=40)), st.integers(1, 12))
def test_passages_keep_order_and_length(parts, words):
    text = " ".join(parts)
    cut = list(passages(text, words))
    assert all(words / 4 <= len(p.split()) <= words for p in cut)
    rest = iter(text.split())
    assert all(word in rest for p in cut for word in p.split())  # a subsequence of the text


def test_passages_end_at_sentences_where_they_can():
    assert list(passages("One two. Three four five. Six seven.", 5)) == [
        "One two. Three four five.",
        "Six seven.",
    ]
    assert list(passages("a b c d e f g h i j", 4)) == ["a b c d", "e f g h", "i j"]
    assert list(passages("", 4)) == []


def test_an_unknown_data_set_and_one_that_is_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("MOTET_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="'imdb' is not known"):
        load_material("imdb")
    with pytest.raises(MaterialError, match="not on this machine") as caught:
        load_material("newsgroups")
    assert caught.value.hint == "motet materials fetch newsgroups"


@pytest.mark.materials
def test_vader():
    examples = load("vader")
    assert Counter(e.group for e in examples) == {
        "amazon": 2943,
        "movies": 10043,
        "nyt": 2788,
        "tweets": 3362,
    }
    assert {e.label for e in examples} == {0, 1}
    assert "The Rock is destined" in next(e.text for e in examples if e.group == "movies")
    assert next(e.label for e in examples if e.text.startswith("Yay. Another good phone")) == 1
    assert next(e.label for e in examples if e.text.startswith("it did lock up on me")) == 0
    documents = {e.source for e in examples if e.group == "nyt"}
    assert 300 < len(documents) <= 500
    assert not any("&amp;" in e.text for e in examples)


@pytest.mark.materials
def test_newsgroups():
    examples = load("newsgroups")
    assert len({e.source for e in examples}) == len(examples) > 18_000
    assert {e.label for e in examples} == set(range(20))
    assert groups(examples) == ["computers", "forsale", "politics", "recreation", "religion", "science"]
    assert {NEWSGROUPS[e.label] for e in examples if e.group == "religion"} == {
        "alt.atheism",
        "soc.religion.christian",
        "talk.religion.misc",
    }
    held_out = [e for e in examples if e.source.startswith(HELD_OUT)]
    assert 7000 < len(held_out) < 7600


@pytest.mark.materials
@pytest.mark.parametrize(("name", "num_groups"), [("topics", 8), ("tales", 4)])
def test_texts_for_language_models(name, num_groups):
    examples = load(name, passage_words=24)
    assert len(groups(examples)) == num_groups
    assert {e.label for e in examples} == {0}
    assert all(6 <= len(e.text.split()) <= 24 for e in examples)
    if name == "topics":
        assert not {"politics", "religion"} & set(groups(examples))


@pytest.mark.materials
def test_fortunes():
    assert "work" in groups(load("fortunes"))


@pytest.mark.materials
@pytest.mark.parametrize(
    ("name", "num_labels", "test"),
    [("vader", 2, 400), ("newsgroups", 20, 600), ("topics", None, 400), ("tales", None, 80)],
)
def test_real_data_is_split_by_source(name, num_labels, test):
    load(name)
    kind = "causal-lm" if num_labels is None else "sequence-classification"
    dealt = partition(
        Recipe.model_validate(
            {
                "name": "t",
                "base_model": {"tiny": "tiny-bert"},
                "task": {"kind": kind, "num_labels": num_labels},
                "data": {"material": name, "test_examples": test, "partition": {"examples_per_client": 100}},
                "method": {"name": "fedit"},
            }
        )
    )
    assert len(dealt.test) == test
    assert all(50 < len(part) <= 100 for part in dealt.train.values())
    assert not {e.source for e in dealt.test} & {e.source for part in dealt.train.values() for e in part}


@pytest.mark.materials
def test_a_recipe_that_counts_the_classes_wrong_is_refused():
    load("vader")
    base = {
        "name": "t",
        "base_model": {"tiny": "tiny-bert"},
        "data": {"material": "vader"},
        "method": {"name": "fedit"},
    }
    wrong = {"kind": "sequence-classification", "num_labels": 3}
    with pytest.raises(DataError, match=r"task\.num_labels: 3, but 'vader' has 2 classes"):
        partition(Recipe.model_validate(base | {"task": wrong}))
    load("tales")
    with pytest.raises(DataError, match="'tales' has no classes"):
        partition(Recipe.model_validate(base | {"task": wrong, "data": {"material": "tales"}}))


@pytest.mark.materials
def test_classes_by_name_are_numbered_in_the_order_written():
    text = (
        "name: t\nbase_model: {material: minilm}\ntask: {kind: sequence-classification, num_labels: 2}\n"
        "data: {material: newsgroups, classes: [sci.space, rec.autos], test_examples: 200, "
        "partition: {by: iid, num_clients: 2}}\nadapter: {targets: [query]}\nmethod: {name: flora}\n"
    )
    dealt = partition(parse_recipe(text))
    every = [*dealt.test, *(e for examples in dealt.train.values() for e in examples)]
    assert {(e.group, e.label) for e in every} == {("sci.space", 0), ("rec.autos", 1)}
    assert sum("orbit" in e.text for e in every if e.label == 0) > sum(
        "orbit" in e.text for e in every if e.label == 1
    )
    with pytest.raises(DataError, match=r"sci\.spce") as caught:
        partition(parse_recipe(text.replace("sci.space", "sci.spce")))
    assert caught.value.hint == "did you mean sci.space?"
