"""Reading and writing files of examples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet.data import DataError, Example, read_examples, write_jsonl
from motet.data.examples import text_source


def put(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_jsonl_is_read(tmp_path):
    path = put(
        tmp_path / "a.jsonl", '{"text": "good", "label": 1, "group": "g", "source": "s"}\n\n{"text": "bad"}\n'
    )
    first, second = read_examples(path)
    assert first == Example(text="good", label=1, group="g", source="s")
    assert second == Example(text="bad", label=0, group="", source=text_source("bad"))


def test_csv_is_read_with_named_columns_and_a_byte_order_mark(tmp_path):
    path = put(tmp_path / "a.csv", '\ufeffbody,stars,group\r\n"a, ""b""\nc",1,x\r\nd,0,y\r\n')
    rows = read_examples(path, text_column="body", label_column="stars", num_labels=2)
    assert [(e.text, e.label, e.group) for e in rows] == [('a, "b"\nc', 1, "x"), ("d", 0, "y")]


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(
    st.lists(
        st.builds(
            Example,
            text=texts,
            label=st.integers(0, 10**9),
            group=st.text("ab", max_size=3),
            source=st.text("xyz", min_size=1),
        ),
        min_size=1,
    )
)
def test_what_is_written_is_read_back(tmp_path_factory, examples):
    path = tmp_path_factory.mktemp("x") / "deep" / "a.jsonl"
    assert read_examples(write_jsonl(examples, path)) == examples


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            '{"text": "x", "label": 0}\n{"text": "x", "lable": 0}\n',
            r"a\.jsonl:2: no column 'label'; .*'lable'",
        ),
        (
            "a.jsonl",
            '{"text": "x", "label": 0}\n{"text": " ", "label": 0}\n',
            r"a\.jsonl:2: column 'text' holds no text",
        ),
        ("a.jsonl", '{"text": 5, "label": 0}\n', r":1: column 'text' holds no text"),
        ("a.jsonl", '{"text": "a \\ud83d", "label": 0}\n', r":1: column 'text' holds half a character"),
        ("a.jsonl", '{"text": "x", "label": 2}\n', r":1: label 2 is not below num_labels = 2"),
        ("a.jsonl", '{"text": "x", "label": true}\n', r":1: label True is not a class index"),
        ("a.jsonl", '{"text": "x", "label": 1.0}\n', r":1: label 1\.0 is not a class index"),
        ("a.jsonl", '{"text": "x", "label": -1}\n', r":1: label -1 is not a class index"),
        ("a.jsonl", '{"text": "x", "label": "pos"}\n', r":1: label 'pos' is not a class index"),
        ("a.jsonl", '{"text": "x", "label": 0}\nnonsense\n', r":2: not JSON"),
        ("a.jsonl", "[1]\n", r":1: a list, not an object"),
        ("a.jsonl", "[" * 100_000, r":1: not JSON"),
        ("a.jsonl", "\n\n", "holds no example"),
        ("a.csv", "", "holds no example"),
        ("a.csv", "text,label\n", "holds no example"),
        ("a.csv", "text,label\na,0\nb,c,0\n", r"a\.csv:3: more fields than columns"),
        ("a.csv", "text,label\na,\n", r"a\.csv:2: label '' is not a class index"),
        ("a.csv", "words,label\na,0\n", r"a\.csv:2: no column 'text'; there are 'words', 'label'"),
        ("a.csv", 'text,label\n"a,0\n', "not CSV"),
        ("a.txt", "x", r"come as \.jsonl or \.csv"),
    ],
)
def test_a_line_that_does_not_fit_is_named(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message) as caught:
        read_examples(put(tmp_path / name, content), num_labels=2)
    assert caught.value.exit_code == 4


def test_a_missing_file_and_a_foreign_encoding_are_errors_for_people(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_examples(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="not UTF-8"):
        read_examples(put(tmp_path / "a.csv", "text,label\ncaf\u00e9,0\n", "latin-1"))


def test_a_folder_that_can_not_be_written_is_an_error_for_people(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="can not be written"):
        write_jsonl([], tmp_path / "file" / "a.jsonl")
