"""The data sets that a recipe can name, read from fetched materials.

* ``vader``: sentences with sentiment, 2 classes; groups amazon, movies, nyt, tweets.
* ``newsgroups``: posts, lower-case letters only, 20 classes; groups computers, forsale, politics,
  recreation, religion, science. Threads can not be told apart, so the publisher's split by date is kept.
* ``topics``: the same posts cut to passages, for language models; groups computers, cryptography,
  electronics, forsale, medicine, space, sports, vehicles (politics and religion are left out).
* ``tales``: Grimm tales cut to passages, for language models; groups anecdotes, animals, magic, realistic.
* ``fashion-mnist``, ``fashion-domains``: pictures of garments, 10 classes; see ``motet.data.fashion``.
* ``fortunes``: epigrams, from an optional material, for language models; a group a topic, without the crude.
"""

from __future__ import annotations

import csv
import html
import io
import re
import tarfile
from typing import TYPE_CHECKING

from motet.data.errors import DataError
from motet.data.examples import HELD_OUT, Example, text_source
from motet.data.fashion import FASHION, read_fashion
from motet.materials import material_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

PASSAGE_WORDS = 48
"""Default length of a passage for language models, words: about 64 tokens."""

_NEUTRAL = 0.5
_VADER_FILES = {
    "amazon": "amazonReviewSnippets",
    "movies": "movieReviewSnippets",
    "nyt": "nytEditorialSnippets",
    "tweets": "tweets",
}
_BY_DOCUMENT = frozenset({"amazon", "nyt"})  # sentence ids there are document_sentence

NEWSGROUPS = (
    "alt.atheism",
    "comp.graphics",
    "comp.os.ms-windows.misc",
    "comp.sys.ibm.pc.hardware",
    "comp.sys.mac.hardware",
    "comp.windows.x",
    "misc.forsale",
    "rec.autos",
    "rec.motorcycles",
    "rec.sport.baseball",
    "rec.sport.hockey",
    "sci.crypt",
    "sci.electronics",
    "sci.med",
    "sci.space",
    "soc.religion.christian",
    "talk.politics.guns",
    "talk.politics.mideast",
    "talk.politics.misc",
    "talk.religion.misc",
)
"""Class names of ``newsgroups``, in label order."""

CLASS_NAMES: Mapping[str, Sequence[str]] = {
    "newsgroups": NEWSGROUPS,
    "fashion-mnist": FASHION,
    "fashion-domains": FASHION,
}
"""Data set to the names of its classes, where they have names."""

_SUPER_TOPICS = {
    "alt.atheism": "religion",
    "comp": "computers",
    "misc.forsale": "forsale",
    "rec": "recreation",
    "sci": "science",
    "soc": "religion",
    "talk.politics": "politics",
    "talk.religion": "religion",
}
_TOPICS = {
    "comp": "computers",
    "misc.forsale": "forsale",
    "rec.autos": "vehicles",
    "rec.motorcycles": "vehicles",
    "rec.sport": "sports",
    "sci.crypt": "cryptography",
    "sci.electronics": "electronics",
    "sci.med": "medicine",
    "sci.space": "space",
}
_TALES = {
    "Tales of Magic": "magic",
    "Animal Tales": "animals",
    "Realistic Tales": "realistic",
    "Jokes and Anecdotes": "anecdotes",
    "Tales of the Stupid Ogre": "anecdotes",  # one tale, a comic one
}
_FORTUNES = (
    "art",
    "computers",
    "debian",
    "education",
    "food",
    "goedel",
    "law",
    "linux",
    "literature",
    "magic",
    "medicine",
    "news",
    "perl",
    "pets",
    "science",
    "songs-poems",
    "sports",
    "startrek",
    "translate-me",
    "wisdom",
    "work",
)


def load_material(name: str, *, passage_words: int = PASSAGE_WORDS) -> list[Example]:
    """All examples of a data set, in a fixed order. Nothing is downloaded.

    Args:
      name: ``vader``, ``newsgroups``, ``topics``, ``tales``, ``fortunes``, ``fashion-mnist`` or
        ``fashion-domains``.
      passage_words: longest passage of ``topics`` and ``tales``, words.

    Raises:
      DataError: no such data set.
      MaterialError: the material that carries it is not fetched.
    """
    reader = _READERS.get(name)
    if reader is None:
        raise DataError(f"data set {name!r} is not known; there are {', '.join(sorted(_READERS))}")
    return list(reader(material_path(name), passage_words))


def passages(text: str, words: int) -> Iterator[str]:
    """Cut a text into passages of at most ``words`` words, at sentence ends where it has them.

    A sentence that is longer by itself is cut at word borders. Passages shorter than a quarter of ``words``
    are dropped: they hold too little to predict.
    """
    passage: list[str] = []
    for sentence in re.split(r"(?<=[.!?;:])\s+", " ".join(text.split())):
        rest = sentence.split()
        if passage and len(passage) + len(rest) > words:
            if 4 * len(passage) >= words:
                yield " ".join(passage)
            passage = []
        while len(rest) > words:
            yield " ".join(rest[:words])
            rest = rest[words:]
        passage += rest
    if 4 * len(passage) >= words:
        yield " ".join(passage)


def _prefixed(name: str, table: Mapping[str, str]) -> str | None:
    return next(
        (value for start, value in table.items() if name == start or name.startswith(start + ".")), None
    )


def _vader(folder: Path, _words: int) -> Iterator[Example]:
    """Label 1: mean rating above 0.5; label 0: below -0.5 (ratings go from -4 to 4); others are left out."""
    archive = next(folder.rglob("hutto_ICWSM_2014.tar.gz"), None)
    if archive is None:
        raise DataError(f"{folder}: holds no rated sentences", hint="motet materials fetch vader")
    with tarfile.open(archive) as bundle:
        for group, stem in _VADER_FILES.items():
            stream = bundle.extractfile(f"hutto_ICWSM_2014/{stem}_GroundTruth.txt")
            if stream is None:
                raise DataError(f"{archive}: lacks the sentences of {group}")
            for line in io.TextIOWrapper(stream, "utf-8", "replace"):
                parts = line.rstrip("\r\n").split("\t", 2)
                if (
                    len(parts) < 3
                    or abs(float(parts[1])) <= _NEUTRAL
                    or not (text := html.unescape(html.unescape(parts[2])).strip())
                ):
                    continue
                document = f"{group}/{parts[0].split('_')[0]}" if group in _BY_DOCUMENT else text_source(text)
                yield Example(text=text, label=int(float(parts[1]) > 0), group=group, source=document)


def _table(path: Path) -> Iterator[dict[str, str]]:
    csv.field_size_limit(16 << 20)
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = csv.reader(stream, delimiter="\t")
            names = next(rows)
            next(rows), next(rows)  # two more header lines: types and roles of the columns
            for row in rows:
                if row:
                    yield dict(zip(names, row, strict=False))
    except (OSError, csv.Error, StopIteration) as error:
        raise DataError(
            f"{path}: can not be read: {error}", hint="motet materials fetch orange-text"
        ) from error


def _posts(folder: Path) -> Iterator[tuple[str, str, str]]:
    """(newsgroup, text, source) of every distinct post; the later part by date is held out."""
    seen: set[str] = set()
    for part, start in (("test", HELD_OUT), ("train", "")):
        for row in _table(folder / f"orangecontrib/text/datasets/20newsgroups-{part}.tab"):
            source = text_source(row["Text"])
            if row["Text"].strip() and source not in seen:
                seen.add(source)
                yield row["Category"], row["Text"], start + source


def _newsgroups(folder: Path, _words: int) -> Iterator[Example]:
    """Label: index in ``NEWSGROUPS``. A post in both parts counts as held out."""
    for newsgroup, text, source in _posts(folder):
        group = _prefixed(newsgroup, _SUPER_TOPICS) or newsgroup
        yield Example(text=text, label=NEWSGROUPS.index(newsgroup), group=group, source=source)


def _topics(folder: Path, words: int) -> Iterator[Example]:
    for newsgroup, text, source in _posts(folder):
        group = _prefixed(newsgroup, _TOPICS)
        if group is not None:
            for passage in passages(text, words):
                yield Example(text=passage, group=group, source=source)


def _tales(folder: Path, words: int) -> Iterator[Example]:
    for row in _table(folder / "orangecontrib/text/datasets/grimm-tales.tab"):
        for passage in passages(row["Content"], words):
            yield Example(text=passage, group=_TALES.get(row["ATU Topic"], "anecdotes"), source=row["Title"])


def _fortunes(folder: Path, _words: int) -> Iterator[Example]:
    for topic in _FORTUNES:
        path = folder / "usr/share/games/fortunes" / topic
        if path.is_file():
            for text in re.split(r"\n%\n", path.read_text("utf-8", "replace")):
                if text.strip():
                    yield Example(text=" ".join(text.split()), group=topic, source=text_source(text))


def _fashion(folder: Path, _words: int) -> Iterator[Example]:
    return read_fashion(folder, domains=False)


def _fashion_domains(folder: Path, _words: int) -> Iterator[Example]:
    return read_fashion(folder, domains=True)


_READERS: Mapping[str, Callable[[Path, int], Iterator[Example]]] = {
    "vader": _vader,
    "newsgroups": _newsgroups,
    "topics": _topics,
    "tales": _tales,
    "fortunes": _fortunes,
    "fashion-mnist": _fashion,
    "fashion-domains": _fashion_domains,
}
