"""Examples that a client keeps out of training, and the figures of them that leave it, or do not."""

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregation.methods import get_method
from aggregation.serialize import from_bytes, sha256_hex, to_bytes
from client import worker as worker_module
from client.base import loaded_base
from client.evaluation import Scores, evaluate, score_model
from client.held_out import LEAST_JUDGED, split
from client.packing import Packed
from client.personal import PersonalParts
from client.policy import Policy, PolicyFileError, load_policy
from client.policy_file import PolicyFile
from client.protect import judge, release
from client.worker import ClientWorker, build_handler
from motet.abandoned import Abandoned
from motet.data import DataError, Example, read_examples
from motet.modeling import initial_dense, layer_shapes
from motet.recipe import RecipeError, canonical_json, parse_recipe, recipe_sha256
from motet.recipe.words import in_words
from motet.wire.codec import decode_reply, encode_order, encode_reply
from motet.wire.messages import TrainOrder
from motet.wire.v1 import round_pb2

PLAIN = """
name: t
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2, max_length: 16}
data: {path: x.jsonl}
adapter: {lora_rank: 2}
method: {name: fedit}
training: {rounds: 2, local_steps: 1, expected_batch_size: 4, learning_rate: 0.01}
cohort: {clients: [a]}
"""
JUDGED = PLAIN + "evaluation: {held_out: 0.4}\n"
SHARES = Policy(share_accuracy=True)
ROWS = [{"text": f"some words of row {i}", "label": i % 2} for i in range(40)]


def start_of(recipe):
    method = get_method(recipe.method.name)
    state = method.initial_state(
        layer_shapes(recipe), lora_rank=2, scale=2.0, dense=initial_dense(recipe), seed=recipe.seed
    )
    return to_bytes(method.starting_point(state))


def order_of(recipe, payload=None, **changed):
    payload = start_of(recipe) if payload is None else payload
    told = {
        "run_id": "r", "round_index": 0, "attempt": 0, "client_id": "a", "recipe_json": canonical_json(recipe),
        "recipe_sha256": recipe_sha256(recipe), "lora_rank": 2, "reservation_id": "", "payload": payload,
        "payload_sha256": sha256_hex(payload),
    }  # fmt: skip
    return TrainOrder(**(told | changed))


@pytest.fixture
def client(tmp_path):
    """``client(policy)``: a worker on the rows, with a home of its own."""
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def made(policy=None, home="home"):
        return ClientWorker("a", path, tmp_path / home, PolicyFile.fixed(policy or Policy()))

    made.path, made.folder = path, tmp_path
    return made


def over_the_wire(worker, order):
    return decode_reply(encode_reply(worker.handle(order)))


def figures(reply):
    return (reply.held_out_examples, reply.held_out_loss, reply.held_out_accuracy)


# -- which examples ------------------------------------------------------------------------------------------------

SOURCES = st.lists(st.text(alphabet="abcdef", min_size=1, max_size=3), min_size=1, max_size=30)


def of_sources(sources):
    return [Example(text=f"{i} {s}", source=s) for i, s in enumerate(sources)]


def parts_of(recipe, examples):
    try:
        return split(recipe, examples)
    except DataError:
        return None


@settings(deadline=None, max_examples=40)
@given(sources=SOURCES, more=SOURCES, seed=st.integers(0, 5), share=st.sampled_from([0.05, 0.3, 0.5]))
def test_no_document_is_on_both_sides_and_an_example_stays_on_its_side_whatever_else_the_file_holds(
    sources, more, seed, share
):
    recipe = parse_recipe(PLAIN + f"seed: {seed}\nevaluation: {{held_out: {share}}}\n")
    examples = of_sources(sources)
    parts = parts_of(recipe, examples)
    if parts is None:
        return
    assert sorted([*parts.training, *parts.held_out], key=examples.index) == examples
    assert not {e.source for e in parts.training} & {e.source for e in parts.held_out}
    grown = parts_of(recipe, of_sources([*more, *sources])[::-1])
    assert grown is not None, "what trained before trains still"
    assert {e.source for e in parts.held_out} <= {e.source for e in grown.held_out}
    assert {e.source for e in parts.training} <= {e.source for e in grown.training}


def test_about_the_asked_share_is_held_out_and_another_seed_holds_out_others():
    examples = of_sources([f"s{i}" for i in range(4000)])
    parts = split(parse_recipe(PLAIN + "evaluation: {held_out: 0.1}\n"), examples)
    assert abs(len(parts.held_out) - 400) < 4 * (4000 * 0.1 * 0.9) ** 0.5
    other = split(parse_recipe(PLAIN + "evaluation: {held_out: 0.1}\nseed: 1\n"), examples)
    both = set(parts.held_out) & set(other.held_out)
    assert len(both) < 100


def test_where_nothing_would_be_left_to_train_on_the_client_says_so(client):
    recipe = parse_recipe(PLAIN + "evaluation: {held_out: 0.5}\n")
    held = next(
        r for r in ROWS if parts_of(recipe, [Example(text=r["text"], source=f"text:{r['text']}")]) is None
    )
    with pytest.raises(DataError, match="none is left to train on"):
        split(recipe, [Example(text=held["text"], source=f"text:{held['text']}")])


@pytest.fixture
def watched(monkeypatch):
    """Texts that each round trained on, and texts that each was judged on, read off what reaches the model."""
    texts, trained, judged = {}, [], []
    prepare, train, score = worker_module.prepare, worker_module.train_round, worker_module.score_model

    def prepared(recipe, base, examples):
        made = prepare(recipe, base, examples)
        texts[id(made)] = (made, {e.text for e in examples})
        return made

    def trains(attached, recipe, examples, **given):
        trained.append(texts[id(examples)][1])
        return train(attached, recipe, examples, **given)

    def scores_of(recipe, model, examples):
        judged.append(texts[id(examples)][1])
        return score(recipe, model, examples)

    monkeypatch.setattr(worker_module, "prepare", prepared)
    monkeypatch.setattr(worker_module, "train_round", trains)
    monkeypatch.setattr(worker_module, "score_model", scores_of)
    return trained, judged


def test_what_is_held_out_never_trains_in_any_round_and_after_a_restart(client, watched):
    trained, judged = watched
    for round_index in range(2):
        reply = over_the_wire(client(SHARES), order_of(parse_recipe(JUDGED), round_index=round_index))
        assert not reply.error_code
        client.path.write_text("".join(reversed(client.path.read_text().splitlines(keepends=True))))
    assert trained[0] == trained[1]
    assert judged[0] == judged[1]
    assert not trained[0] & judged[0]
    assert trained[0] | judged[0] == {row["text"] for row in ROWS}
    assert min(len(trained[0]), len(judged[0])) >= LEAST_JUDGED


def test_without_evaluation_everything_trains(client, watched):
    """The control: the test above would see an example that trains."""
    trained, judged = watched
    reply = over_the_wire(client(SHARES), order_of(parse_recipe(PLAIN)))
    assert (trained, judged) == ([{row["text"] for row in ROWS}], [])
    assert figures(reply) == (0, 0.0, 0.0)


# -- what leaves ---------------------------------------------------------------------------------------------------


def test_figures_leave_where_recipe_and_owner_let_them_and_are_those_of_the_rounds_start(client):
    recipe = parse_recipe(JUDGED)
    reply = over_the_wire(client(SHARES), order_of(recipe))
    held = split(recipe, read_examples(client.path, num_labels=2)).held_out
    expected = evaluate(recipe, from_bytes(start_of(recipe)), held)
    assert reply.held_out_examples == len(held) >= LEAST_JUDGED
    assert reply.held_out_loss == pytest.approx(expected["loss"], rel=1e-6)
    assert reply.held_out_accuracy == pytest.approx(expected["accuracy"])
    assert reply.num_examples == len(ROWS) - len(held)


def test_an_owner_who_does_not_share_sends_nothing_and_trains_the_same(client):
    order = order_of(parse_recipe(JUDGED))
    open_ = over_the_wire(client(SHARES, "open"), order)
    assert figures(open_)[0] > 0
    for number, policy in enumerate((Policy(), dataclasses.replace(SHARES, share_metrics=False))):
        silent = over_the_wire(client(policy, f"silent-{number}"), order)
        assert figures(silent) == (0, 0.0, 0.0)
        assert silent.payload == open_.payload


def test_at_most_so_many_are_judged_as_the_recipe_says(client):
    reply = over_the_wire(
        client(SHARES), order_of(parse_recipe(PLAIN + "evaluation: {held_out: 0.4, max_examples: 6}"))
    )
    assert reply.held_out_examples == 6
    whole = over_the_wire(client(SHARES, "other"), order_of(parse_recipe(JUDGED)))
    assert reply.payload == whole.payload != b"", "what is not judged does not train either"


def scores(count, loss=0.7):
    return Scores(
        losses=torch.full((count,), loss, dtype=torch.float64), correct=torch.ones(count, dtype=torch.float64)
    )


def released(recipe, told, **changed):
    asked = {"shares_metrics": True, "shares_accuracy": True, "scores": told} | changed
    order = order_of(recipe, b"")
    made = release(
        order, recipe, Packed(payload=b"x", error=0.0, read=None), num_steps=1, num_examples=9, **asked
    )
    if not changed:
        assert figures(judge(order, recipe, told, SHARES)) == figures(made), (
            "a question is answered by the same rule"
        )
    return figures(made)


def test_the_one_place_releases_figures_of_enough_examples(client):
    """The control of those below."""
    assert released(parse_recipe(JUDGED), scores(LEAST_JUDGED)) == (LEAST_JUDGED, pytest.approx(0.7), 1.0)


@pytest.mark.parametrize("unit", ["example", "client"])
def test_a_run_with_a_privacy_section_can_not_release_a_figure_even_if_its_recipe_slips_through(unit):
    private = parse_recipe(PLAIN + f"privacy: {{unit: {unit}, noise_multiplier: 1.0, sampling_rate: 0.5}}\n")
    slipped = private.model_copy(update={"evaluation": parse_recipe(JUDGED).evaluation})
    assert slipped.evaluation is not None
    assert released(slipped, scores(100)) == (0, 0.0, 0.0)


def test_few_examples_and_figures_that_are_no_numbers_are_not_told():
    recipe = parse_recipe(JUDGED)
    for told in (None, scores(LEAST_JUDGED - 1), scores(9, float("inf")), scores(9, float("nan"))):
        assert released(recipe, told) == (0, 0.0, 0.0)
    assert released(recipe, scores(9), shares_accuracy=False) == (0, 0.0, 0.0)
    assert released(recipe, scores(9), shares_metrics=False) == (0, 0.0, 0.0)
    assert released(parse_recipe(PLAIN), scores(9)) == (0, 0.0, 0.0)


def test_a_recipe_that_asks_for_figures_and_for_privacy_is_refused():
    with pytest.raises(RecipeError, match="no noise covers"):
        parse_recipe(JUDGED + "privacy: {noise_multiplier: 1.0, sampling_rate: 0.5}\n")


def test_a_run_without_evaluation_has_none_of_it_on_the_wire(client):
    def names(message):
        return {field.name for field, _ in message.ListFields()}

    for text, there in (
        (PLAIN, set()),
        (JUDGED, {"held_out_examples", "held_out_loss", "held_out_accuracy"}),
    ):
        order = order_of(parse_recipe(text))
        reply = encode_reply(client(SHARES, f"home-{len(there)}").handle(order))
        told = names(round_pb2.TrainOrder.FromString(encode_order(order)))
        assert "asks_score" not in told
        assert {n for n in names(round_pb2.TrainReply.FromString(reply)) if "held_out" in n} == there


def test_a_recipe_without_evaluation_keeps_its_hash():
    assert "evaluation" not in canonical_json(parse_recipe(PLAIN))
    assert json.loads(canonical_json(parse_recipe(JUDGED)))["evaluation"] == {
        "held_out": 0.4,
        "max_examples": 500,
    }


# -- the last adapter ----------------------------------------------------------------------------------------------


def test_the_question_after_the_last_round_is_answered_by_figures_alone(client):
    recipe = parse_recipe(JUDGED)
    reply = over_the_wire(client(SHARES), order_of(recipe, round_index=2, asks_score=True))
    held = split(recipe, read_examples(client.path, num_labels=2)).held_out
    assert reply.held_out_examples == len(held)
    assert reply.held_out_loss == pytest.approx(
        evaluate(recipe, from_bytes(start_of(recipe)), held)["loss"], rel=1e-6
    )
    plain = dataclasses.replace(reply, held_out_examples=0, held_out_loss=0.0, held_out_accuracy=0.0)
    assert (plain.payload, plain.num_steps, plain.num_examples, plain.error_code) == (b"", 0, 0, "")


@pytest.mark.parametrize(
    ("text", "policy", "changed", "code"),
    [
        (JUDGED, Policy(), {}, "policy_refused"),
        (JUDGED, SHARES, {"round_index": 1}, "bad_order"),
        (PLAIN, SHARES, {}, "bad_order"),
        (JUDGED, Policy(share_accuracy=True, allowed_methods=("flora",)), {}, "policy_refused"),
    ],
)
def test_the_question_is_refused_where_it_may_not_be_asked(client, text, policy, changed, code):
    asked = {"round_index": 2, "asks_score": True} | changed
    reply = over_the_wire(client(policy), order_of(parse_recipe(text), **asked))
    assert reply.error_code == code
    assert figures(reply) == (0, 0.0, 0.0)


def test_a_question_that_was_taken_back_is_not_worked_on(client):
    asked = order_of(parse_recipe(JUDGED), round_index=2, asks_score=True)
    Abandoned(client.folder / "home").mark("r/2/0")
    assert over_the_wire(client(SHARES), asked).error_code == "cancelled"


def test_the_part_that_stays_with_a_client_is_in_what_it_judges(client):
    recipe = parse_recipe(JUDGED.replace("fedit", "fedsa"))
    worker = client(SHARES)
    first = over_the_wire(worker, order_of(recipe))
    assert not first.error_code
    own = PersonalParts(client.folder / "home" / "personal").model("r")[0]
    held = split(recipe, read_examples(client.path, num_labels=2)).held_out
    # Its only client: the mean is what it sent.
    reply = over_the_wire(worker, order_of(recipe, first.payload, round_index=2, asks_score=True))
    assert reply.held_out_loss == pytest.approx(evaluate(recipe, own, held)["loss"], rel=1e-6)
    assert reply.held_out_loss != pytest.approx(first.held_out_loss, rel=1e-6)


def test_judging_draws_no_random_number(client):
    recipe = parse_recipe(JUDGED)
    worker = client(SHARES)
    _, held = worker._prepared(recipe, worker._stamp())
    before = torch.random.get_rng_state()
    score_model(recipe, loaded_base(recipe).model, held)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_simulated_client_shares_unless_it_has_a_policy_file(client):
    order = order_of(parse_recipe(JUDGED))
    spec = {"client_id": "a", "data_path": client.path, "state_dir": client.folder / "simulated"}
    assert figures(build_handler(spec)(order))[0] > 0
    path = client.folder / "policy.toml"
    path.write_text("max_lora_rank = 8\n")
    spec |= {"policy_path": path, "state_dir": client.folder / "with-policy"}
    assert figures(build_handler(spec)(order)) == (0, 0.0, 0.0)


def test_an_owner_reads_before_approving_what_is_held_out_and_what_leaves():
    told = " ".join(in_words(parse_recipe(JUDGED)))
    assert "About 40% of your documents are kept out of training" in told
    assert "only if your policy says share_accuracy = true" in told
    assert "share_accuracy" not in " ".join(in_words(parse_recipe(PLAIN)))


def test_the_clause_is_read_from_the_file(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text("share_accuracy = true\n")
    assert load_policy(path).tells_scores
    path.write_text("share_accuracy = true\nshare_metrics = false\n")
    assert not load_policy(path).tells_scores
    path.write_text("max_lora_rank = 8\n")
    assert not load_policy(path).tells_scores
    path.write_text('share_accuracy = "yes"\n')
    with pytest.raises(PolicyFileError, match="share_accuracy"):
        load_policy(path)
