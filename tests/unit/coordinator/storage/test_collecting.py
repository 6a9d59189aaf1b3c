"""What the collector removes, what it keeps, and that a run goes on after it as if nothing had been removed."""

import dataclasses
import os
import time

import pytest
import torch
from small_federation import RECIPE, SHAPE, honest_reply

from aggregation.changes import moves, with_moves
from aggregation.serialize import from_bytes, sha256_hex, to_bytes
from coordinator.engine.round_engine import EngineStoppedError
from coordinator.storage.artifacts import open_artifacts
from coordinator.storage.collecting import ADAPTER, UNFINISHED, UNNAMED, UPDATE, Retention, collect
from coordinator.storage.models import Base
from coordinator.storage.sharing import check_may_lead
from motet.recipe import from_canonical_json
from motet.recipe.method import local_start, method_of

NOW = time.time() + 10 * 86_400.0  # every file that a test writes is ten days old
MOMENTUM = (
    RECIPE.replace("{a: 1, b: 2, c: 3}", "2").replace("flora", "ffa") + "server_optimizer: {rule: fedavgm}\n"
)


@pytest.fixture
def sealed(federation, tmp_path):
    """The federation with encrypted artifacts."""
    federation.artifacts = open_artifacts(tmp_path)
    return federation


def gc(federation, *, dry_run=False, now=NOW, **kept):
    return collect(
        federation.artifacts, federation.store._database, Retention(**kept), dry_run=dry_run, now=now
    )


def held(federation):
    return {sha256 for sha256, _ in federation.artifacts.files()}


def work_until(federation, run, rounds):
    """Work on a run; the service is stopped when so many rounds have closed."""
    with pytest.raises(EngineStoppedError):
        federation.engine(is_stopping=lambda: len(federation.store.closed_rounds(run)) >= rounds).run(run)


def trained_reply(order):
    """A step from where the client starts, for methods that train one half."""
    recipe = from_canonical_json(order.recipe_json)
    method = method_of(recipe)
    start = local_start(
        recipe, method, from_bytes(order.payload), layer_shapes=SHAPE.layer_shapes, lora_rank=order.lora_rank,
        round_index=order.round_index, client_id=order.client_id,
    )  # fmt: skip
    part = method.trained_part(start, order.round_index)
    generator = torch.Generator().manual_seed(order.round_index * 100 + sum(order.client_id.encode()))
    moved = {k: torch.randn(v.shape, generator=generator) for k, v in moves(part, part).items()}
    payload = to_bytes(with_moves(part, moved))
    return dataclasses.replace(honest_reply(order), payload=payload, payload_sha256=sha256_hex(payload))


@pytest.mark.parametrize(
    ("recipe", "stop_after"), [(RECIPE, 0), (RECIPE, 1), (MOMENTUM, 2)], ids=["fresh", "plain", "momentum"]
)
def test_a_run_that_is_collected_and_resumed_ends_with_the_same_adapter(sealed, recipe, stop_after):
    if recipe is MOMENTUM:
        sealed.grid.handlers = dict.fromkeys("abc", trained_reply)
    whole = sealed.engine().run(sealed.submit(recipe, run_id="whole")).adapter_sha256
    run = sealed.submit(recipe, run_id="cut")
    work_until(sealed, run, stop_after)
    gc(sealed, updates_for_rounds=1, adapters=0)
    assert sealed.engine().run(run).adapter_sha256 == whole
    assert not gc(sealed, updates_for_rounds=1, adapters=0, dry_run=True).missing
    memories = [r.optimizer_sha256 for r in sealed.store.closed_rounds(run)]
    assert all(memories) == (recipe is MOMENTUM)


def test_an_update_that_its_open_round_still_needs_is_kept(sealed, recipes):
    run = sealed.submit(recipes["plain"])
    sealed.grid.handlers["c"] = None
    answered = lambda: sum(c.state == "RECEIVED" for c in sealed.store.contributions(run, 0))  # noqa: E731
    with pytest.raises(EngineStoppedError):
        sealed.engine(is_stopping=lambda: answered() == 2).run(run)
    done = gc(sealed, updates_for_rounds=1, adapters=0)
    assert done.garbage == ()
    for row in sealed.store.contributions(run, 0):
        if row.state == "RECEIVED":
            assert sealed.artifacts.get(row.payload_sha256)
    sealed.grid.handlers = {}
    assert sealed.engine().run(run).state == "FINISHED"


def test_updates_go_after_as_many_rounds_as_was_said(sealed, recipes):
    run = sealed.submit(recipes["plain"].replace("rounds: 3", "rounds: 5"))
    work_until(sealed, run, 4)
    of_round = {
        i: {c.payload_sha256 for c in sealed.store.contributions(run, i) if c.payload_sha256}
        for i in range(5)
    }
    assert [len(of_round[i]) for i in range(4)] == [3, 3, 3, 3]
    assert set().union(*of_round.values()) <= held(sealed)
    done = gc(sealed, updates_for_rounds=2)
    assert done.by_reason() == {UPDATE: 6}
    assert held(sealed) >= of_round[2] | of_round[3]
    assert not held(sealed) & (of_round[0] | of_round[1])
    gc(sealed, updates_for_rounds=1)
    assert held(sealed) & set().union(*(of_round[i] for i in range(4))) == of_round[3]
    check_may_lead(sealed.store, sealed.artifacts, sealed.artifacts.folder.parent)  # what a standby needs


def test_of_an_ended_run_no_update_stays_and_its_adapter_always_does(sealed, recipes):
    run = sealed.submit(recipes["plain"])
    result = sealed.engine().run(run)
    rounds = [r.adapter_sha256 for r in sealed.store.closed_rounds(run)]
    starts = {r.start_sha256 for r in sealed.store.rounds(run)}
    gc(sealed)
    assert held(sealed) == {*rounds, *starts}
    gc(sealed, adapters=2)
    assert held(sealed) == set(rounds[1:])
    done = gc(sealed, adapters=0)
    assert done.by_reason() == {ADAPTER: 1}
    assert held(sealed) == {result.adapter_sha256}
    assert sealed.artifacts.load_state(result.adapter_sha256).base_delta


def test_a_rehearsal_says_what_would_go_and_removes_nothing(sealed, recipes):
    sealed.engine().run(sealed.submit(recipes["plain"]))
    before = held(sealed)
    told = gc(sealed, dry_run=True)
    assert len(told.garbage) == 9
    assert told.num_bytes == sum(sealed.artifacts.path_of(g.sha256).stat().st_size for g in told.garbage)
    assert held(sealed) == before
    assert gc(sealed).garbage == told.garbage
    assert held(sealed) == before - {g.sha256 for g in told.garbage}


def test_a_young_file_is_left_alone_also_when_it_is_stored_a_second_time(sealed):
    stray = sealed.artifacts.put(b"its row is not written yet")
    (half := sealed.artifacts.path_of(stray).with_name("half.1.tmp")).write_bytes(b"half")
    assert gc(sealed, now=time.time()).garbage == ()
    path = sealed.artifacts.path_of(stray)
    for file in (path, half):
        os.utime(file, (0, 0))
    assert sealed.artifacts.put(b"its row is not written yet") == stray  # a run is about to name it
    assert gc(sealed, now=time.time()).by_reason() == {UNFINISHED: 1}
    os.utime(path, (0, 0))
    assert gc(sealed, now=time.time()).by_reason() == {UNNAMED: 1}  # positive control
    assert not path.exists()


def test_a_file_that_is_stored_again_while_the_collector_looks_is_kept(sealed, monkeypatch):
    stray = sealed.artifacts.put(b"stray")
    path = sealed.artifacts.path_of(stray)
    os.utime(path, (0, 0))
    locked = sealed.artifacts.locked

    def put_first(*args, **kwargs):
        monkeypatch.undo()
        sealed.artifacts.put(b"stray")
        return locked(*args, **kwargs)

    monkeypatch.setattr(sealed.artifacts, "locked", put_first)
    assert gc(sealed, now=time.time()).garbage == ()
    assert path.exists()


def test_an_artifact_that_is_named_and_missing_is_told(sealed, recipes):
    run = sealed.submit(recipes["plain"])
    adapter = sealed.engine().run(run).adapter_sha256
    sealed.artifacts.path_of(adapter).unlink()
    assert gc(sealed, dry_run=True, adapters=0).missing == (adapter,)


def test_every_column_of_a_hash_is_ruled_on_or_keeps_what_it_names():
    """A new column of that name pins its artifact; one of another name would not, and is to be thought of here."""
    hashes = {
        (t.name, c.name)
        for t in Base.metadata.sorted_tables
        for c in t.columns
        if getattr(c.type, "length", None) == 64 and "sha256" in c.name
    }
    assert {n for _, n in hashes if not n.endswith("sha256")} == set()
    assert len(hashes) >= 8
