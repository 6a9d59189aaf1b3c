"""Two neighbouring data sets give the same wire message, but for the noised tensors."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregation.methods import get_method
from aggregation.serialize import read_manifest, sha256_hex, to_bytes
from client.lineage import Lineages
from client.policy import Policy
from client.protect import DATA_UNUSABLE, release
from client.worker import ClientWorker
from motet.data import DataError
from motet.modeling import initial_dense, layer_shapes
from motet.recipe import canonical_json, parse_recipe, recipe_sha256
from motet.wire.codec import decode_reply, encode_reply
from motet.wire.messages import TrainOrder
from privacy.dpsgd import DpSgd
from privacy.noise import SystemNoise

RECIPE = """
name: t
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2, max_length: 16}
data: {path: x.jsonl}
adapter: {lora_rank: 2}
method: {name: fedit}
training: {rounds: 1, local_steps: 2, expected_batch_size: 4}
privacy: {PRIVACY noise_multiplier: 1.0, sampling_rate: 0.5}
"""
UNITS = {"example": "", "person": "unit: person, unit_column: who, max_examples_per_person: 3,"}
ROWS = [{"text": f"some words of row {i}", "label": i % 2, "who": f"p{i // 3}"} for i in range(9)]
WIDE = "word " * 400


def order_for(unit):
    recipe = parse_recipe(RECIPE.replace("PRIVACY", UNITS[unit]))
    method = get_method(recipe.method.name)
    state = method.initial_state(
        layer_shapes(recipe), lora_rank=2, scale=2.0, dense=initial_dense(recipe), seed=recipe.seed
    )
    payload = to_bytes(method.starting_point(state))
    return TrainOrder(
        run_id="r",
        round_index=0,
        attempt=0,
        client_id="a",
        recipe_json=canonical_json(recipe),
        recipe_sha256=recipe_sha256(recipe),
        lora_rank=2,
        reservation_id="",
        payload=payload,
        payload_sha256=sha256_hex(payload),
    )


class _CountingNoise(SystemNoise):
    """What is noised is counted: how much work a round does beside its examples."""

    def __init__(self):
        super().__init__()
        self.drawn = []

    def normal(self, shape, std):
        self.drawn.append((tuple(shape), std))
        return super().normal(shape, std)


def sent(order, rows, folder, monkeypatch):
    """The bytes on the wire, and what the round's fixed work was: steps taken, noise drawn."""
    folder.mkdir(parents=True)
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    noise, steps = _CountingNoise(), []
    step = DpSgd.step
    with monkeypatch.context() as patch:
        patch.setattr(DpSgd, "step", lambda self: (steps.append(1), step(self))[1])
        reply = ClientWorker("a", path, folder / "home", noise=noise).handle(order)
    return encode_reply(reply), (len(steps), noise.drawn)


def differences(one, two):
    """What tells two messages apart beside the numbers in their tensors; empty if nothing does."""
    (bytes_one, work_one), (bytes_two, work_two) = one, two
    left, right = decode_reply(bytes_one), decode_reply(bytes_two)
    found = [
        f.name
        for f in dataclasses.fields(left)
        if f.name not in ("payload", "payload_sha256") and getattr(left, f.name) != getattr(right, f.name)
    ]
    if left.payload and right.payload and read_manifest(left.payload) != read_manifest(right.payload):
        found.append("keys and shapes")
    if len(bytes_one) != len(bytes_two):
        found.append("size")
    if work_one != work_two:
        found.append("timing class")
    return found


@st.composite
def neighbours(draw, unit):
    """A data set, and the same with one more unit of any content at any place."""
    rows = draw(st.lists(st.sampled_from(ROWS), max_size=6))
    rows = [row for row in rows if row["who"] != "p2"]
    text = st.one_of(st.sampled_from([WIDE, "x", "\u0000 \u2028", "\U0001f600"]), st.text(min_size=1))
    one = st.fixed_dictionaries(
        {
            "text": text.filter(lambda t: t.strip() and t.isprintable()),
            "label": st.integers(0, 1),
            "who": st.just("p2"),
        }
    )
    extra = draw(st.lists(one, min_size=1, max_size=1 if unit == "example" else 5))
    place = draw(st.integers(0, len(rows)))
    return rows, rows[:place] + extra + rows[place:]


def compare(data, unit, folder, monkeypatch):
    order = order_for(unit)
    fewer, more = data.draw(neighbours(unit))
    return differences(
        sent(order, fewer, folder / "fewer", monkeypatch), sent(order, more, folder / "more", monkeypatch)
    )


ONE_BY_ONE = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("unit", UNITS)
@ONE_BY_ONE
@given(data=st.data())
def test_neighbouring_data_sets_give_the_same_wire_message_apart_from_the_noised_tensors(
    tmp_path_factory, monkeypatch, unit, data
):
    assert compare(data, unit, tmp_path_factory.mktemp("wire"), monkeypatch) == []


def _num_examples(reply, _state, count):
    return dataclasses.replace(reply, num_examples=count)


def _weight(reply, _state, count):
    return dataclasses.replace(reply, aggregation_weight=float(count))


def _loss(reply, state, count):
    """A loss is a sum over the examples; here it is told to the fourth digit."""
    return dataclasses.replace(reply, error_message=f"loss {0.69 * count:.4f}")


def _held_out(reply, _state, count):
    """What a run without privacy may tell, told by a private one."""
    return dataclasses.replace(reply, held_out_examples=count // 2, held_out_loss=0.69 + count / 1000)


def _steps(reply, _state, count):
    return dataclasses.replace(reply, num_steps=1 + count // 4)


def _an_extra_tensor(reply, state, count):
    import torch

    dense = {**state.dense, "seen": torch.zeros(1 + count)}
    payload = to_bytes(dataclasses.replace(state, dense=dense))
    return dataclasses.replace(reply, payload=payload, payload_sha256=sha256_hex(payload))


@pytest.mark.parametrize(
    ("leak", "told"),
    [
        (_num_examples, "num_examples"),
        (_weight, "aggregation_weight"),
        (_loss, "error_message"),
        (_held_out, "held_out_loss"),
        (_steps, "num_steps"),
        (_an_extra_tensor, "keys and shapes"),
    ],
)
def test_a_leak_of_the_count_or_the_loss_is_seen(tmp_path, monkeypatch, leak, told):
    """Positive control: one line more in the module from which values leave, and the property fails."""

    def leaking(order, recipe, message, **values):
        return leak(release(order, recipe, message, **values), message.read, values["num_examples"])

    order, rows = order_for("example"), ROWS[:8]
    honest = [sent(order, r, tmp_path / f"honest{len(r)}", monkeypatch) for r in (rows[:7], rows)]
    assert differences(*honest) == []
    monkeypatch.setattr("client.worker.release", leaking)
    leaky = [sent(order, r, tmp_path / f"leaky{len(r)}", monkeypatch) for r in (rows[:7], rows)]
    assert told in differences(*leaky)


def test_work_that_follows_the_data_is_seen(tmp_path, monkeypatch):
    """Positive control of the timing class: a step for each example would tell their number."""
    from client import training

    order = order_for("example")

    def eager(privacy, ready, noise):
        yield from ()
        noise.normal((len(ready),), 1.0)

    monkeypatch.setattr(training, "private_batches", eager)
    pair = [sent(order, ROWS[:n], tmp_path / str(n), monkeypatch) for n in (5, 6)]
    assert differences(*pair) == ["timing class"]


def test_a_client_without_any_example_sends_noise_like_the_others(tmp_path, monkeypatch):
    order = order_for("example")
    none, one = (sent(order, ROWS[:n], tmp_path / str(n), monkeypatch) for n in (0, 1))
    assert differences(none, one) == []
    assert decode_reply(none[0]).payload != b""


def test_a_mistake_in_private_data_is_told_in_the_clients_log_alone(tmp_path, monkeypatch, caplog):
    bad = [*ROWS, {"text": "the name of a patient", "label": "HIV", "who": "p9"}]
    reply = decode_reply(sent(order_for("example"), bad, tmp_path / "bad", monkeypatch)[0])
    assert (reply.error_code, reply.error_message) == ("client_failed", DATA_UNUSABLE)
    assert "HIV" in caplog.text


def test_a_mistake_that_only_the_lineage_finds_is_told_in_the_clients_log_alone(
    tmp_path, monkeypatch, caplog
):
    def finds(*_arguments, **_options):
        raise DataError("row 7: HIV", hint="of the patient in bed 3")

    monkeypatch.setattr(Lineages, "identify", finds)
    reply = decode_reply(sent(order_for("example"), ROWS, tmp_path / "bad", monkeypatch)[0])
    assert (reply.error_code, reply.error_message) == ("client_failed", DATA_UNUSABLE)
    assert "HIV" in caplog.text


# -- which data set of before the data is ------------------------------------------------------------------------------

OLD = [{"text": f"an older letter of bed {i}, long gone", "label": i % 2, "who": f"q{i}"} for i in range(6)]
FEWER, MORE = ROWS, [*ROWS, OLD[0]]  # neighbours; the one more row was in another data set, trained on before


def answers_with_a_past(folder, monkeypatch, *, epsilon_cap=None):
    """The same owner, who trained on OLD before, answers the same order with each of two neighbours."""
    order = order_for("example")
    past = folder / "past"
    sent(order, OLD, past, monkeypatch)
    told = []
    for name, rows in (("fewer", FEWER), ("more", MORE)):
        home = folder / name
        shutil.copytree(past / "home", home)
        path = home / "data.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        noise = _CountingNoise()
        worker = ClientWorker("a", path, home, Policy(max_epsilon=epsilon_cap), noise=noise)
        reply = worker.handle(dataclasses.replace(order, run_id="r-2"))
        told.append((encode_reply(reply), noise.drawn))
    return told


def test_a_row_that_stood_in_an_older_data_set_does_not_show_in_the_message(tmp_path, monkeypatch):
    assert differences(*answers_with_a_past(tmp_path, monkeypatch)) == []


def test_a_lineage_in_the_message_would_tell_of_one_row(tmp_path, monkeypatch):
    """Positive control: why the coordinator is never told which data set an update is of."""
    handle = ClientWorker.handle

    def naming(self, order):
        reply = handle(self, order)
        return dataclasses.replace(reply, error_message=self._lineage[1].name)

    monkeypatch.setattr(ClientWorker, "handle", naming)
    assert differences(*answers_with_a_past(tmp_path, monkeypatch)) == ["error_message"]


def test_a_cap_that_is_reached_is_told_without_a_figure(tmp_path, monkeypatch, caplog):
    """One run costs 4.9 and two 6.7: with the older data set's charge the cap of 6 is passed."""
    fewer, more = (decode_reply(b) for b, _ in answers_with_a_past(tmp_path, monkeypatch, epsilon_cap=6.0))
    assert (fewer.error_code, more.error_code) == ("", "policy_refused")  # the one bit, see client.protect
    assert not any(c.isdigit() for c in more.error_message)
    assert "would reach epsilon" in caplog.text
