"""A browser checks a coordinator's ledger by itself: what holds holds, and every lie is told loudly."""

import json
import random
import shutil

import pytest
from audit_houses import WritingLedger, house_at
from browser import axe_faults
from ledger_pages import LedgerSite
from serving import served

from privacy.ledger.canonical import canonical_bytes, parse_canonical
from privacy.ledger.chain import FIRST_PREVIOUS, chained, entry_from_bytes, entry_hash
from privacy.ledger.errors import LedgerFormatError, SignatureError
from privacy.ledger.merkle import MerkleTree, leaf_hash, verify_consistency, verify_inclusion
from privacy.ledger.notes import Verifier, open_checkpoint

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory):
    """Of one coordinator: as it was, as it grew, and another history under the same key; and somebody else's."""
    folder = tmp_path_factory.mktemp("ledgers")
    house = house_at(folder / "grown")
    house.play(range(2))
    shutil.copytree(folder / "grown", folder / "old")
    shutil.copytree(folder / "grown", folder / "fork")
    house.play(range(2, 5))
    fork = house_at(folder / "fork", clients=("x",))
    fork.play(range(7, 12))
    other = house_at(folder / "other")
    other.play(range(9))
    names = ("old", "grown", "fork", "other")
    return {name: WritingLedger(folder / name / "ledger") for name in names}


@pytest.fixture
def site(ledgers):
    return LedgerSite(ledgers["grown"])


@pytest.fixture
def page(browser_page, site):
    with served(site.app) as url:
        page = browser_page()
        page.address = url
        yield page


def look(page):
    """Open the page, or look again on it; what it says of the head."""
    if page.url == "about:blank":
        page.goto(page.address)
    else:
        page.get_by_role("button", name="Check the head again").click()
    page.wait_for_selector("[data-ledger]:not([data-state=checking])[data-state]")
    return page.get_attribute("[data-ledger]", "data-state")


def check_all(page):
    page.get_by_role("button", name="Check every entry").click()
    page.wait_for_selector("[data-ledger]:not([data-state=checking])")
    return page.get_attribute("[data-ledger]", "data-state")


def step(page, name):
    row = page.locator(f"li[data-step={json.dumps(name)}]").last
    return row.get_attribute("data-state"), row.inner_text()


def test_a_good_ledger_holds_in_the_browser_and_every_figure_is_that_of_python(page, site):
    assert look(page) == "holds"
    head = open_checkpoint(site.ledger.newest_note(), site.ledger.verifier())
    assert site.ledger.verifier().to_text() in step(page, "Key")[1]
    assert f"{head.size} entries, root {head.root.hex()}" in step(page, "Signature")[1]
    assert check_all(page) == "whole"
    state, text = step(page, "Entries")
    kinds = [entry_from_bytes(leaf).body.kind for leaf in site.ledger.leaves()]
    assert (state, f"{head.size} read" in text) == ("holds", True)
    assert all(f"{kind} {kinds.count(kind)}" in text for kind in kinds)
    assert "compare the head" in page.inner_text("main").lower()
    assert axe_faults(page) == []


def test_each_look_is_held_against_the_head_that_this_browser_saw_last(page, site, ledgers):
    site.ledger = ledgers["old"]
    assert look(page) == "holds"
    assert step(page, "Growth")[0] == "note"
    assert look(page) == "holds"
    size = ledgers["old"].size()
    assert f"the same {size} entries" in step(page, "Growth")[1]
    site.ledger = ledgers["grown"]
    assert look(page) == "holds"
    assert f"the {size} entries seen before are unchanged" in step(page, "Growth")[1]


@pytest.mark.parametrize(
    ("later", "words"),
    [("old", "the ledger went back"), ("fork", "are not the beginning"), ("other", "another ledger")],
)
def test_a_ledger_that_is_not_the_one_seen_before_grown_is_told_loudly_and_not_remembered(
    page, site, ledgers, later, words
):
    assert look(page) == "holds"
    site.ledger = ledgers[later]
    for _ in range(2):
        assert look(page) == "fault"
        assert words in step(page, "Growth")[1]
    assert "Do not rely" in page.get_by_role("alert").inner_text()
    before = page.get_by_label("Head seen before").inner_text()
    assert before.strip() == ledgers["grown"].newest_note().strip()  # what an auditor wants
    assert page.get_by_role("button", name="Check every entry").is_disabled()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Forget what this browser saw").click()
    page.wait_for_selector("[data-ledger][data-state=holds]")


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def without(number):
    return lambda body: b"".join(line + b"\n" for n, line in enumerate(body.splitlines()) if n != number)


def swapped(body):
    lines = body.splitlines()
    lines[5], lines[6] = lines[6], lines[5]
    return b"".join(line + b"\n" for line in lines)


def mended(body):
    """An entry is left out, and the chain is made anew behind it: only the signed root tells."""
    bodies = [entry_from_bytes(line).body for line in body.splitlines()]
    made = chained([*bodies[:7], *bodies[8:]], sequence=0, previous=FIRST_PREVIOUS, at_ms=1)
    extra = chained([bodies[7]], sequence=len(made), previous=entry_hash(made[-1]), at_ms=1)
    return b"".join(line + b"\n" for line in [*made, *extra])


def altered(body):
    return body.replace(b'"client_id":"a"', b'"client_id":"b"', 1)


def spelled_otherwise(body):
    return body.replace(b'":', b'": ', 1)


def end_altered(body):
    head, name, tail = body.rpartition(b'"payload_sha256":"')
    return head + name + b"00" + tail


ENTRY_LIES = [
    (altered, "altered or replaced"),
    (spelled_otherwise, "not in canonical form"),
    (end_altered, "do not make the root that was signed"),
    (without(6), "stands where entry 6 belongs"),
    (lambda body: b"".join(body.splitlines(keepends=True)[:-1]), "of them 0 came"),
    (swapped, "stands where entry 5 belongs"),
    (mended, "do not make the root that was signed"),
    (lambda body: body + b"{}\n", "were signed; after 0"),
    (lambda body: body[:-1], "half an entry"),
    (lambda body: b"", "of them 0 came"),
]
HEAD_LIES = [
    ({"note": lambda note: note.replace("\n6", "\n7", 1)}, "Signature", "does not fit"),
    ({"note": lambda note: note.split("\n\n")[0] + "\n\n"}, "Signature", "no signature line"),
    ({"note": "no note"}, "Signature", "no signed note"),
    ({"note": None}, "Key", "no ledger is shown any more"),
    ({"key": lambda key: key.replace("motet/", "motes/")}, "Key", "the hash in the key"),
    ({"key": 7}, "Key", "no Ed25519 key"),
]


def test_entries_that_are_not_those_that_were_signed_are_found(page, site):
    assert look(page) == "holds"
    for lie, words in ENTRY_LIES:
        site.lies["entries.jsonl"] = lie
        assert check_all(page) == "fault"
        state, text = step(page, "Entries")
        assert state == "fault"
        assert words in text
    site.lies.clear()
    assert look(page) == "holds"
    assert check_all(page) == "whole"


def test_a_head_that_the_ledger_s_key_did_not_sign_is_found(page, site):
    assert look(page) == "holds"
    for lie, name, words in HEAD_LIES:
        site.lie_in("checkpoint.json", **lie)
        assert look(page) == "fault"
        state, text = step(page, name)
        assert state == "fault"
        assert words in text


def test_growth_that_is_not_proven_is_a_fault(page, site, ledgers):
    site.ledger = ledgers["old"]
    assert look(page) == "holds"
    site.ledger = ledgers["grown"]
    for proof in (lambda hashes: hashes[:-1], lambda hashes: [*hashes[1:], hashes[0]], "none", ["0"], None):
        site.lie_in("consistency.json", hashes=proof)
        assert look(page) == "fault"
        assert step(page, "Growth")[0] == "fault"


def test_a_coordinator_that_does_not_answer_is_no_fault_and_nothing_is_said_to_hold(page, browser_page):
    browser_page.expect("Failed to load resource")
    assert look(page) == "holds"
    page.route("**/ledger/checkpoint.json*", lambda route: route.abort())
    assert look(page) == "unable"
    assert "does not answer" in step(page, "Key")[1]
    page.unroute("**/ledger/checkpoint.json*")
    page.route("**/ledger/checkpoint.json*", lambda route: route.fulfill(status=503, body="away"))
    assert look(page) == "unable"
    page.unroute("**/ledger/checkpoint.json*")
    assert look(page) == "holds"


def ask_entry(page, number):
    page.get_by_label("Number of the entry").fill(str(number))
    page.get_by_role("button", name="Check this entry").click()
    page.wait_for_selector(f"li[data-step='Entry {number}']")
    return step(page, f"Entry {number}")


def test_a_single_entry_is_shown_with_its_proof_and_a_forged_one_is_found(page, site):
    look(page)
    assert ask_entry(page, 9)[0] == "holds"
    shown = json.loads(page.get_by_label("Entry", exact=True).inner_text())
    assert canonical_bytes(shown) == site.ledger.leaves()[9]
    assert ask_entry(page, 10_000)[0] == "unable"
    for lie in (
        {"hashes": lambda hashes: [*hashes[:-1], "00" * 32]},
        {"entry": lambda text: text.replace('"sequence":7', '"sequence":8')},
        {"entry": lambda text: text.replace("1.1", "9.1")},
    ):
        look(page)
        site.lie_in("inclusion.json", **lie)
        assert ask_entry(page, 7)[0] == "fault"
        assert page.get_attribute("[data-ledger]", "data-state") == "fault"


def test_whoever_may_not_read_entries_checks_their_hashes(page, site):
    site.may_read = False
    assert look(page) == "holds"
    assert check_all(page) == "whole"
    assert step(page, "Hashes of entries")[0] == "holds"
    assert ask_entry(page, 3)[0] == "holds"
    assert page.get_by_label("Entry", exact=True).is_hidden()
    site.lies["hashes.bin"] = lambda body: flipped(body, 40)
    look(page)
    assert check_all(page) == "fault"


def test_another_s_head_is_compared_with_the_present_one(page, site, ledgers):
    def compare(text):
        page.get_by_label("A signed checkpoint").fill(text)
        page.get_by_role("button", name="Compare").click()
        page.wait_for_selector("button:has-text('Compare'):not([disabled])")
        return step(page, "Another's head")[0]

    look(page)
    old = ledgers["old"].newest_note()
    assert compare(old) == "holds"
    assert compare(json.dumps({"checkpoint": old, "key": "-", "proofs": {}})) == "holds"
    assert compare(ledgers["fork"].newest_note()) == "fault"
    assert compare(ledgers["other"].newest_note()) == "fault"


def test_a_browser_without_the_signature_says_so_and_does_not_say_that_all_holds(page):
    page.add_init_script(
        "crypto.subtle.importKey = async () => { throw new DOMException('no Ed25519', 'NotSupportedError'); }"
    )
    assert look(page) == "unable"
    state, text = step(page, "Signature")
    assert state == "unable"
    assert "motet audit verify" in text


# ---- the same arithmetic as privacy.ledger, which knows nothing of it ------------------------------------------------


def accepted(work):
    try:
        work()
    except (LedgerFormatError, SignatureError):
        return False
    return True


def test_trees_and_proofs_are_those_of_python(page):
    chance = random.Random(5)
    leaves = [chance.randbytes(chance.randrange(60)) for _ in range(40)]
    hashes, tree = [leaf_hash(leaf).hex() for leaf in leaves], MerkleTree(leaves)
    cases, expected = [], []
    for size in range(1, 41):
        for first in range(size):
            for old in (False, True):
                root, start = tree.root(size), tree.root(first + 1) if old else leaf_hash(leaves[first])
                proof = tree.consistency_proof(first + 1, size) if old else tree.inclusion_proof(first, size)
                if chance.random() < 0.5:  # a forgery: another root, another place, another proof
                    root = chance.choice([root, tree.root(max(size - 1, 1))])
                    proof = chance.choice([proof, proof[1:], proof[::-1], [*proof, root]])
                fits = (
                    verify_consistency(old_size=first + 1, size=size, proof=proof, old_root=start, root=root)
                    if old
                    else verify_inclusion(leaf=start, index=first, size=size, proof=proof, root=root)
                )
                cases.append([old, first, size, [h.hex() for h in proof], start.hex(), root.hex()])
                expected.append(fits)
    cuts = sorted(chance.randrange(41) for _ in range(6))
    page.goto(page.address)
    answers, roots, cut_root = page.evaluate(
        """async ([cases, hashes, cuts]) => {
          const l = await import("/static/ledger.js"), bytes = hashes.map(l.fromHex), answers = [], roots = [];
          for (const [old, first, size, told, start, end] of cases) {
            const [proof, begin, root] = [told.map(l.fromHex), l.fromHex(start), l.fromHex(end)];
            answers.push(old
              ? await l.verifyConsistency({oldSize: first + 1, size, proof, oldRoot: begin, root})
              : await l.verifyInclusion({leaf: begin, index: first, size, proof, root}));
          }
          const tree = new l.Tree(), cut = new l.Tree();
          roots.push(l.hex(await tree.root()));
          for (const hash of bytes) { await tree.push([hash]); roots.push(l.hex(await tree.root())); }
          let at = 0;
          for (const next of [...cuts, bytes.length]) { await cut.push(bytes.slice(at, next)); at = next; }
          return [answers, roots, l.hex(await cut.root())];
        }""",
        [cases, hashes, cuts],
    )
    assert answers == expected
    assert 200 < sum(expected) < len(expected) - 200
    assert roots == [tree.root(size).hex() for size in range(41)]
    assert cut_root == roots[-1]


def test_canonical_bytes_and_signed_heads_are_read_and_refused_as_python_does(page, ledgers):
    values = [{"b": [1, -5, None, True], "a": 'q"\\/\n\x01\x7f\u2028ä😀', "": {}}, [], "x", 2**53 - 1, False]
    texts = [canonical_bytes(value) for value in values] + ledgers["grown"].leaves()[:12]
    texts += [
        b'{"b":1,"a":2}',
        b"1.0",
        b"1e3",
        b"-0",
        b"9007199254740992",
        b'{"a":1,"a":1}',
        b'"\\u00e4"',
        b"[1 ]",
    ]
    texts += [
        b'"\xff"',
        b"\xef\xbb\xbf1",
        b'"\\ud800"',
        b"[" * 18 + b"]" * 18,
        b"[" * 16 + b"]" * 16,
        b"NaN",
        b"",
    ]
    texts += [
        '{"ä":1}'.encode(),
        b'"a\nb"',
        b"1.5",
        b"01",
        b'{"__proto__":1}',
        b'"\\u001F"',
        b'"\\u001f"',
        b"true ",
    ]
    note, verifier = ledgers["grown"].newest_note(), ledgers["grown"].verifier()
    notes = [note, note + note, note.replace("\n", "\r\n"), note[:-1], "\n\n", ""]
    notes += [note[:at] + chr(ord(note[at]) ^ 1) + note[at + 1 :] for at in range(len(note))]
    keys = [
        verifier.to_text(),
        verifier.to_text()[:-1],
        "a+b+c",
        "",
        verifier.to_text().replace("+", "+0", 1),
    ]
    page.goto(page.address)
    answers = page.evaluate(
        """async ([texts, notes, keys]) => {
          const l = await import("/static/ledger.js");
          const accepted = async (work) => { try { await work(); return true; } catch { return false; } };
          const key = await l.readKey(keys[0]), all = async (list, work) => {
            const found = [];
            for (const one of list) found.push(await accepted(() => work(one)));
            return found;
          };
          return [
            await all(texts, async (text) => l.parseCanonical(l.fromHex(text))),
            await all(notes, (note) => l.openCheckpoint(note, key)),
            await all(keys, (text) => l.readKey(text)),
          ];
        }""",
        [[text.hex() for text in texts], notes, keys],
    )
    assert answers == [
        [accepted(lambda t=t: parse_canonical(t)) for t in texts],
        [accepted(lambda n=n: open_checkpoint(n, verifier)) for n in notes],
        [accepted(lambda k=k: Verifier.from_text(k)) for k in keys],
    ]
    assert 17 < sum(answers[0]) < len(texts)


@pytest.mark.slow
def test_ten_thousand_entries_are_checked_in_seconds_and_the_page_stays_responsive(page, site, tmp_path):
    house = house_at(tmp_path)
    house.play(range(835))
    site.ledger = house.ledger
    assert house.ledger.size() > 10_000
    look(page)
    page.evaluate(
        """() => {
          window.longest = 0;
          let last = performance.now();
          setInterval(() => {
            const now = performance.now();
            [longest, last] = [Math.max(longest, now - last), now];
          }, 10);
        }"""
    )
    assert check_all(page) == "whole"
    text = step(page, "Entries")[1]
    took_ms, longest_ms = float(text.split()[-2]), page.evaluate("longest")
    print(f"\n{house.ledger.size()} entries: {took_ms:.0f} ms, longest pause {longest_ms:.0f} ms")
    assert took_ms < 30_000
    assert longest_ms < 1_000
