"""What travels is what the formulas say: real messages of an embedded run, encoded as they would be sent."""

import json

import pytest
from transformers import BertConfig, BertModel

from coordinator.engine.local_grid import LocalGrid
from motet.modeling import byte_tokenizer
from motet.plan import plan
from motet.recipe import parse_recipe
from motet.simulate import prepare_shards, run_engine
from motet.wire.codec import decode_order, decode_reply, encode_order, encode_reply

HIDDEN, WIDE, BLOCKS, ROUNDS = 512, 1024, 4, 3
LAYERS = [(HIDDEN, HIDDEN), (WIDE, HIDDEN)] * BLOCKS  # (m, n) of query and of intermediate.dense
HEAD = 2 * HIDDEN + 2
MIXED = {"a": 8, "b": 12, "c": 24}
ONE = {"a": 16, "b": 16, "c": 16}


def pairs(rank):
    return sum(rank * (m + n) for m, n in LAYERS)


def rows(rank, side):
    return sum(rank * (m if side == "B" else n) for m, n in LAYERS)


def folded(rank):
    return sum(min(rank, m, n) * (m + n) for m, n in LAYERS)


# Floats of one client's message in round t, as the papers count them: method -> ranks, up(r, t), down(r, R, t).
FORMULAS = {
    "fedit": (ONE, lambda r, t: pairs(r) + HEAD, lambda r, R, t: pairs(r) + HEAD),
    "dp-lora": (ONE, lambda r, t: pairs(r) + HEAD, lambda r, R, t: pairs(r) + HEAD),
    "lora-fair": (ONE, lambda r, t: pairs(r) + HEAD, lambda r, R, t: pairs(r) + HEAD),
    "zero-pad": (MIXED, lambda r, t: pairs(r) + HEAD, lambda r, R, t: pairs(r) + HEAD),
    "rank-index": (MIXED, lambda r, t: pairs(r) + HEAD, lambda r, R, t: pairs(r) + HEAD),
    "hetlora": (MIXED, lambda r, t: pairs(r) + HEAD, lambda r, R, t: pairs(r) + HEAD),
    "flexlora": (MIXED, lambda r, t: pairs(r) + HEAD, lambda r, R, t: pairs(r) + HEAD),
    "flora": (MIXED, lambda r, t: pairs(r) + HEAD, lambda r, R, t: folded(t * R) + HEAD),
    "fedex": (ONE, lambda r, t: pairs(r) + HEAD, lambda r, R, t: pairs(r) + folded(t * (R - r)) + HEAD),
    "product": (ONE, lambda r, t: pairs(r) + HEAD, lambda r, R, t: pairs(r) + folded(t * (R - r)) + HEAD),
    "ffa": (MIXED, lambda r, t: rows(r, "B") + HEAD, lambda r, R, t: rows(r, "B") + HEAD),
    "rolora": (ONE, lambda r, t: rows(r, "BA"[t % 2]) + HEAD, lambda r, R, t: pairs(r) + HEAD),
    "fedsa": ({"a": 16, "b": 24, "c": 48}, lambda r, t: rows(r, "A"), lambda r, R, t: rows(r, "A") + HEAD),
    "fed-sb": (
        dict.fromkeys("abc", 96),
        lambda r, t: len(LAYERS) * r * r + HEAD,
        lambda r, R, t: len(LAYERS) * r * r + HEAD,
    ),
}


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    config = BertConfig(
        vocab_size=300, hidden_size=HIDDEN, num_hidden_layers=BLOCKS, num_attention_heads=4,
        intermediate_size=WIDE, max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in ("a", "b", "c", "test"):
        lines = [json.dumps({"text": f"{name} {i}", "label": i % 2}) for i in range(6)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def recipe_of(base, data, method, ranks, extra=""):
    rank = ranks if isinstance(ranks, int) or len(set(ranks.values())) > 1 else ranks["a"]
    return parse_recipe(
        f"name: wire\nbase_model: {{path: {base}}}\n"
        "task: {kind: sequence-classification, num_labels: 2, max_length: 8}\n"
        f"data: {{path: {data}}}\n"
        f"adapter: {{lora_rank: {json.dumps(rank)}, targets: [query, intermediate.dense]}}\n"
        f"method: {{name: {method}}}\ncohort: {{clients: [a, b, c], minimum: 3}}\n"
        f"training: {{rounds: {ROUNDS}, local_steps: 4, expected_batch_size: 4}}\n{extra}"
    )


@pytest.fixture
def run_over_the_wire(monkeypatch, tmp_path):
    """Run a recipe; every order and reply goes through its bytes. Gives (kind, client, round) -> bytes."""
    sizes = {}
    send, collect = LocalGrid.send, LocalGrid.collect

    def sending(grid, order, *, deadline_s):
        data = encode_order(order)
        sizes["down", order.client_id, order.round_index] = len(data)
        return send(grid, decode_order(data), deadline_s=deadline_s)

    def collecting(grid, message_ids):
        found = []
        for message_id, reply in collect(grid, message_ids):
            data = encode_reply(reply)
            sizes["up", reply.client_id, reply.round_index] = len(data)
            found.append((message_id, decode_reply(data)))
        return found

    monkeypatch.setattr(LocalGrid, "send", sending)
    monkeypatch.setattr(LocalGrid, "collect", collecting)

    def run(recipe):
        shards = prepare_shards(recipe, tmp_path / "data")
        return run_engine(recipe, shards, tmp_path / "run", stage="wire", with_curve=False), sizes

    return run


def payloads(outcome):
    return {
        (way, client, row["round_index"]): figures[f"bytes_{way}"]
        for row in outcome.result.rounds
        for client, figures in row["clients"].items()
        for way in ("up", "down")
    }


def every_method():
    """All in the whole suite; by default one of each way to send: pairs, stacks, one factor, squares."""
    short = {"fedit", "flora", "ffa", "fed-sb"}
    return [m if m in short else pytest.param(m, marks=pytest.mark.slow) for m in FORMULAS]


@pytest.mark.parametrize("method", every_method())
def test_bytes_on_the_wire_are_the_papers_formula_within_two_percent_and_the_plan_to_the_byte(
    base_folder, data_folder, run_over_the_wire, method
):
    ranks, up, down = FORMULAS[method]
    recipe = recipe_of(base_folder, data_folder, method, ranks)
    outcome, sizes = run_over_the_wire(recipe)
    total = sum(ranks.values())
    wanted = {}
    for t in range(ROUNDS):
        for client, rank in ranks.items():
            wanted["up", client, t] = 4 * up(rank, t)
            wanted["down", client, t] = 4 * down(rank, total, t)
    envelope = 6_000  # ids, hashes and the recipe; all there is where nothing but a head travels
    for key, formula in wanted.items():
        slack = max(0.02 * formula, envelope if formula < 10_000 else 0)
        assert abs(sizes[key] - formula) <= slack, (key, sizes[key], formula)
    planned = {c.client_id: c for c in plan(recipe, probe=False).clients}
    found = payloads(outcome)
    for (way, client, t), size in found.items():
        one = planned[client]
        if way == "down":
            assert size == one.bytes_down[t]
    for client, one in planned.items():
        sent = [found["up", client, t] for t in range(ROUNDS)]
        assert (max(sent), sum(sent)) == (one.bytes_up, one.bytes_up_total)
    assert all(sizes[key] > size for key, size in found.items())


def test_fed_sb_sends_four_bytes_for_each_number_of_its_cores_plus_the_head(
    base_folder, data_folder, run_over_the_wire
):
    recipe = recipe_of(base_folder, data_folder, "fed-sb", 96)
    _, sizes = run_over_the_wire(recipe)
    formula = 4 * len(LAYERS) * 96**2 + 4 * HEAD
    assert all(abs(size - formula) <= 0.02 * formula for size in sizes.values())
    lora = 4 * (pairs(96) + HEAD)
    assert all(
        size < 0.1 * lora for size in sizes.values()
    )  # positive control: factors would be ten times more


def test_florist_sends_no_more_than_flora(base_folder, data_folder, run_over_the_wire):
    recipe = recipe_of(base_folder, data_folder, "florist", MIXED)
    outcome, _ = run_over_the_wire(recipe)
    planned = {c.client_id: c for c in plan(recipe, probe=False).clients}
    found = payloads(outcome)
    assert all(
        size <= planned[client].bytes_down[t] for (way, client, t), size in found.items() if way == "down"
    )
    assert all(found["up", c, 0] == planned[c].bytes_up for c in "abc")


@pytest.mark.parametrize("kind", ["bf16", pytest.param("int8", marks=pytest.mark.slow), "int4", "compeft"])
def test_compressed_uploads_are_the_planned_bytes(base_folder, data_folder, run_over_the_wire, kind):
    recipe = recipe_of(base_folder, data_folder, "fedit", ONE, f"compression: {{kind: {kind}}}\n")
    outcome, sizes = run_over_the_wire(recipe)
    numbers = pairs(16) + HEAD
    planned = plan(recipe, probe=False).clients[0].bytes_up
    sent = [size for (way, _, _), size in payloads(outcome).items() if way == "up"]
    if kind == "compeft":  # its size follows from the values; the plan is its upper bound
        assert all(0.8 * planned < size <= planned for size in sent), (planned, sent)
        assert max(sizes[k] for k in sizes if k[0] == "up") < 0.05 * numbers
    else:
        per_number = {"bf16": 2, "int8": 1 + 4 / 64, "int4": 0.5 + 4 / 64}[kind]
        assert set(sent) == {planned}
        assert all(
            abs(size - per_number * numbers) < 0.02 * per_number * numbers
            for (way, *_), size in sizes.items()
            if way == "up"
        )
    told = [c["compression_error"] for row in outcome.result.rounds for c in row["clients"].values()]
    assert all(0 < error < 1 for error in told)
