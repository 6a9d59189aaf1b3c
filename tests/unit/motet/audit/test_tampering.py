"""Whatever is done to a bundle by somebody without the key is found, and the row is named."""

from __future__ import annotations

import functools
import hashlib

import pytest
from audit_houses import CLIENTS, house_at

from motet.audit import rows as rows_module
from motet.audit.bundle import row_bytes
from motet.audit.rows import read_row
from motet.audit.verify import verify_bundle
from privacy.ledger.canonical import parse_canonical

SHARDS = 16


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> bytes:
    """200 entries: one genesis, four keys, one run, 193 of a run; countersigned."""
    house = house_at(tmp_path_factory.mktemp("home"))
    for index in range(16):
        house.play(range(index, index + 1))
    house.play(range(16, 17), clients=("a",))  # 6 + 16 * 12 + 3 entries
    signed = [house.receipts(client, range(17 if client == "a" else 16)) for client in CLIENTS]
    return house.bundle(countersignatures=signed)


def flipped(data: bytes, position: int) -> bytes:
    altered = bytearray(data)
    altered[position] ^= 1 << (position % 8)
    return bytes(altered)


def row_at(data: bytes, position: int) -> int:
    """Number of the row that holds a byte; a newline belongs to the row that it ends."""
    return data.count(b"\n", 0, position) + 1


def assert_named(data: bytes, position: int) -> None:
    row = row_at(data, position)
    named = {f.row for f in verify_bundle(flipped(data, position)).findings}
    assert row in named, (position, row, sorted(n for n in named if n))


def test_the_bundle_has_two_hundred_entries_and_holds_when_nothing_is_done_to_it(bundle):
    result = verify_bundle(bundle)
    assert result.is_ok, result.findings
    assert result.summary["entries"] == 201


def test_a_flipped_byte_anywhere_is_found_and_its_row_named_sample(bundle):
    newlines = [i for i, byte in enumerate(bundle) if byte == 10]
    sample = [*range(0, len(bundle), 2503), *newlines[::60], newlines[-1], len(bundle) - 2]
    for position in sample:
        assert_named(bundle, position)


def test_each_flipped_byte_of_each_row_is_found_by_that_row_alone(bundle):
    for number, line in enumerate(bundle.split(b"\n")[:-1], 1):
        for position in range(len(line)):
            _, findings = read_row(number, flipped(line, position))
            assert [f.row for f in findings][:1] == [number]


def test_what_a_row_alone_shows_the_whole_verification_tells(bundle, monkeypatch):
    """With the test above: no byte of the file can be flipped without its row being named."""
    read_once = functools.lru_cache(maxsize=4096)(read_row)
    for number in range(1, bundle.count(b"\n") + 1):

        def accuse(at, line, number=number):
            row, findings = read_once(at, line)
            said = [rows_module.Finding(row=at, code="altered", message="accused")] if at == number else []
            return row, [*findings, *said]

        with monkeypatch.context() as patch:
            patch.setattr(rows_module, "read_row", accuse)
            assert [f.row for f in rows_module.read_bundle(bundle).findings] == [number]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_flipped_byte_anywhere_is_found_and_its_row_named_all(bundle, shard, monkeypatch):
    # Rows that were not touched are read once; everything else is as in a whole verification.
    monkeypatch.setattr(rows_module, "read_row", functools.lru_cache(maxsize=4096)(read_row))
    for position in range(shard, len(bundle), SHARDS):
        row = row_at(bundle, position)
        named = {f.row for f in rows_module.read_bundle(flipped(bundle, position)).findings}
        assert row in named


def test_without_the_row_hash_a_flip_in_an_entry_would_be_put_on_its_neighbour(bundle, monkeypatch):
    """Positive control: the naming rests on the hash of the row."""
    position = bundle.index(b'"at_ms":', len(bundle) // 3) + 12
    row = row_at(bundle, position)
    altered = bytearray(bundle)
    altered[position] ^= 1  # another digit
    assert row in {f.row for f in verify_bundle(bytes(altered)).findings}

    def blind(number, line):
        found, findings = read_row(number, line)
        return found, [f for f in findings if f.code != "altered"]

    monkeypatch.setattr(rows_module, "read_row", blind)
    named = {f.row for f in verify_bundle(bytes(altered)).findings}
    assert row not in named
    assert row + 1 in named  # the chain still sees it


@pytest.fixture
def findings_of(monkeypatch):
    """``read_bundle``'s findings; rows that were not touched are read once, everything else is as always."""
    monkeypatch.setattr(rows_module, "read_row", functools.lru_cache(maxsize=4096)(read_row))
    return lambda lines: rows_module.read_bundle(b"\n".join(lines)).findings


def test_each_deleted_row_is_found_and_its_place_named(bundle, findings_of):
    lines = bundle.split(b"\n")
    for index in range(len(lines) - 1):
        findings = findings_of(lines[:index] + lines[index + 1 :])
        named = {f.row for f in findings}
        is_last = index == len(lines) - 2
        assert (index if is_last else index + 1) in named, index


def test_each_pair_of_swapped_rows_is_found_and_both_are_named(bundle, findings_of):
    lines = bundle.split(b"\n")
    for first in range(len(lines) - 2):
        swapped = [*lines[:first], lines[first + 1], lines[first], *lines[first + 2 :]]
        assert {first + 1, first + 2} <= {f.row for f in findings_of(swapped)}, first


@pytest.mark.parametrize("where", ["at once", "later"])
def test_each_replayed_row_is_found_and_its_second_place_named(bundle, findings_of, where):
    lines = bundle.split(b"\n")
    for index in range(len(lines) - 1):
        place = index + 1 if where == "at once" else len(lines) - 2
        replayed = [*lines[:place], lines[index], *lines[place:]]
        assert place + 1 in {f.row for f in findings_of(replayed)}, index


def test_a_replayed_entry_is_called_so(bundle):
    lines = bundle.split(b"\n")
    lines.insert(150, lines[100])
    findings = verify_bundle(b"\n".join(lines)).findings
    assert {"replayed", "chain", "moved"} <= {f.code for f in findings if f.row == 151}


def renumbered(lines: list[bytes]) -> bytes:
    """Rows as a careful forger writes them: numbers and hashes of rows are right again."""
    made = []
    for number, line in enumerate(lines, 1):
        fields = parse_canonical(line)
        made.append(row_bytes(number, fields["kind"], fields["body"]))
    return b"".join(line + b"\n" for line in made)


def test_a_forger_who_mends_row_numbers_and_hashes_is_found_by_the_chain(bundle):
    lines = bundle.split(b"\n")[:-1]
    del lines[100]
    result = verify_bundle(renumbered(lines))
    assert any(f.row == 101 and f.code == "chain" for f in result.findings)
    assert {"root", "seal"} <= {f.code for f in result.findings}


def test_a_forger_who_mends_the_chain_as_well_is_found_by_the_signed_checkpoints(bundle):
    lines = bundle.split(b"\n")[:-1]
    made, previous = [], "0" * 64
    for number, line in enumerate(lines, 1):
        fields = parse_canonical(line)
        kind, body = fields["kind"], fields["body"]
        if kind == "entry":
            body["previous"] = previous
            if number == 100:
                body["at_ms"] += 1
            made.append(row_bytes(number, kind, body))
            from privacy.ledger.canonical import canonical_bytes

            previous = hashlib.sha256(canonical_bytes(body)).hexdigest()
        else:
            made.append(line)
    result = verify_bundle(b"".join(line + b"\n" for line in made))
    assert {"root", "unsigned", "seal"} == {f.code for f in result.findings}
    named = next(f for f in result.findings if f.code == "unsigned").row
    assert named <= 100 < named + 12  # the entries under one checkpoint
    assert any("one of the rows" in f.message for f in result.findings)


@pytest.mark.parametrize("cut", [1, 2, 100, 5_000, 60_000])
def test_a_cut_file_is_found(bundle, cut):
    assert not verify_bundle(bundle[:-cut]).is_ok


@pytest.mark.parametrize("data", [b"", b"\n", b"{}\n", b"\x00" * 1000, b"[]\n" * 50, b'{"row":1}\n'])
def test_a_file_that_is_no_bundle_is_found_and_nothing_is_raised(data):
    assert not verify_bundle(data).is_ok
