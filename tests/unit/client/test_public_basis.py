"""Fed-SB's bases from public examples: the same everywhere, and nothing private in them."""

import hashlib
import json
import random
from pathlib import Path

import pytest
import torch

from aggregation.initial import svd_bases
from aggregation.serialize import from_bytes
from client.base import LoadedBase
from client.ledger import ClientLedger
from client.policy import Policy
from client.public_basis import PublicDataError, public_gradient_bases, public_gradients
from client.worker import ClientWorker
from motet.data import DataError, public_examples
from motet.modeling import load_base, load_tokenizer

PRIVATE = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.2}\n"


@pytest.fixture
def public_file(tmp_path):
    rng = random.Random(1)
    words = [["great", "lovely", "kind"], ["sad", "awful", "rude"]]
    rows = [{"text": " ".join(rng.choice(words[i % 2]) for _ in range(5)), "label": i % 2} for i in range(60)]
    path = tmp_path / "public.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def method(path, count=48, sha256=None):
    sha256 = sha256 or hashlib.sha256(path.read_bytes()).hexdigest()
    data = f"{{path: {path}, sha256: '{sha256}', num_examples: {count}}}"
    return f"fed-sb, basis: public_gradient, public_data: {data}"


def fresh(recipe):
    return LoadedBase(model=load_base(recipe), tokenizer=load_tokenizer(recipe))


def equal(one, two):
    return all(torch.equal(x, y) for k in one for x, y in zip(one[k], two[k], strict=True))


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_the_bases_are_orthonormal_and_span_the_leading_directions_of_the_gradient(
    recipe_of, public_file, kind
):
    recipe = recipe_of(kind, method(public_file))
    base = fresh(recipe)
    gradients, bases = public_gradients(base, recipe), public_gradient_bases(base, recipe, 4)
    assert gradients.keys() == bases.keys()
    for layer, (b, a) in bases.items():
        torch.testing.assert_close(b.T @ b, torch.eye(4), atol=1e-5, rtol=0)
        torch.testing.assert_close(a @ a.T, torch.eye(4), atol=1e-5, rtol=0)
        best = torch.linalg.svdvals(gradients[layer].double())[:4].norm()
        assert float((b.T @ gradients[layer] @ a.T).norm()) == pytest.approx(float(best), rel=1e-4)


def test_the_gradient_is_that_of_the_mean_loss(recipe_of, public_file):
    """A step of size h against it lowers the loss as a difference quotient says."""
    from client.inputs import per_example_loss, prepare

    recipe = recipe_of("llama", method(public_file))
    base = fresh(recipe)
    layer, gradient = next(iter(public_gradients(base, recipe).items()))
    ready = prepare(recipe, base, public_examples(recipe))
    weight = base.model.get_submodule(layer).weight

    def loss():
        with torch.no_grad():
            return per_example_loss(recipe, base.model, ready, range(len(ready)))[0].double().mean()

    step, start = 1e-2 * gradient / gradient.norm(), weight.data.clone()
    weight.data.copy_(start + step)
    above = loss()
    weight.data.copy_(start - step)
    below = loss()
    assert float(above - below) / 2e-2 == pytest.approx(float(gradient.norm()), rel=0.02)


def test_everyone_makes_the_same_basis_whatever_ran_before_and_on_however_many_cores(recipe_of, public_file):
    recipe = recipe_of("bert", method(public_file))
    first = public_gradient_bases(fresh(recipe), recipe, 4)
    used = fresh(recipe.model_copy(update={"seed": 99}))  # its heads are of another seed
    public_gradient_bases(used, recipe.model_copy(update={"seed": 99}), 4)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():
            second = public_gradient_bases(used, recipe, 4)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert equal(first, second)
    other = public_gradient_bases(used, recipe.model_copy(update={"seed": 99}), 4)
    assert not equal(first, other)  # positive control: heads and draw matter


def test_the_base_model_is_left_bit_for_bit_as_it_was(recipe_of, public_file):
    recipe = recipe_of("bert", method(public_file))
    base = fresh(recipe)
    before = {k: v.clone() for k, v in base.model.state_dict().items()}
    public_gradient_bases(base, recipe, 4)
    after = base.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not any(p.requires_grad or p.grad is not None for p in base.model.parameters())


def test_more_of_a_clients_gradient_is_within_the_public_basis_than_within_the_weights_own(
    recipe_of, public_file, data_file
):
    recipe = recipe_of("llama", method(public_file))
    base = fresh(recipe)
    clients = recipe_of("llama", method(data_file, count=40))
    gradient = public_gradients(base, clients)
    public = public_gradient_bases(base, recipe, 4)

    def share(bases):
        inside = sum(float((b.T @ gradient[k] @ a.T).norm()) ** 2 for k, (b, a) in bases.items())
        return inside / sum(float(g.norm()) ** 2 for g in gradient.values())

    own = {k: svd_bases(base.model.get_submodule(k).weight.data, 4) for k in public}
    assert share(public) > 2 * share(own)


def test_the_draw_is_of_the_seed_and_without_repetition(recipe_of, public_file):
    recipe = recipe_of("bert", method(public_file, count=60))
    drawn = public_examples(recipe)
    assert len({id(e) for e in drawn}) == 60
    assert drawn == public_examples(recipe) != public_examples(recipe.model_copy(update={"seed": 8}))


@pytest.mark.parametrize(
    ("count", "sha256", "said"),
    [
        (61, None, "has 60 examples, num_examples asks for 61"),
        (8, "0" * 64, "is not a file with the recipe's sha256 here"),
    ],
)
def test_too_few_examples_and_another_content_are_refused(recipe_of, public_file, count, sha256, said):
    with pytest.raises(DataError, match=said):
        public_examples(recipe_of("bert", method(public_file, count, sha256)))


def test_an_error_tells_nothing_of_the_files_that_a_machine_has(recipe_of, tmp_path):
    secret = tmp_path / "patients.jsonl"
    secret.write_text('{"text": "bed 3", "label": "HIV"}\n')
    said = set()
    for path in (secret, tmp_path / "not-there.jsonl", tmp_path, Path("/dev/zero")):
        with pytest.raises(DataError) as caught:
            public_examples(recipe_of("bert", method(path, 1, "0" * 64)))
        said.add(caught.value.message.replace(str(path), "PATH") + str(caught.value.hint))
    assert len(said) == 1


def test_a_gradient_of_too_few_directions_is_refused(recipe_of, public_file, monkeypatch):
    recipe = recipe_of("bert", method(public_file))
    thin = {"q": torch.outer(torch.arange(1.0, 7.0), torch.ones(5))}
    monkeypatch.setattr("client.public_basis.public_gradients", lambda *_: thin)
    assert public_gradient_bases(None, recipe, 1)["q"][0].shape == (6, 1)
    with pytest.raises(PublicDataError, match="has 1 directions, rank 2 needs 2"):
        public_gradient_bases(None, recipe, 2)


def test_a_client_trains_and_sends_cores_alone(recipe_of, order_of, public_file, data_file, tmp_path):
    order = order_of(recipe_of("bert", method(public_file)))
    one, two = (ClientWorker("a", data_file, tmp_path / n).handle(order) for n in ("one", "two"))
    assert one.error_message == ""
    assert one.payload == two.payload
    state = from_bytes(one.payload)
    assert all(core.shape == (4, 4) and core.any() for core in state.cores.values())
    assert not state.lora


def test_a_missing_public_file_is_told_before_anything_is_charged(
    recipe_of, order_of, public_file, data_file, tmp_path
):
    order = order_of(recipe_of("bert", method(public_file, 47), extra=PRIVATE))
    content = public_file.read_bytes()
    policy = Policy(public_files=(hashlib.sha256(content).hexdigest(),))
    public_file.unlink()
    reply = ClientWorker("a", data_file, tmp_path / "home", policy=policy).handle(order)
    assert reply.error_code == "client_failed"
    assert "public_data.path" in reply.error_message
    assert ClientLedger(tmp_path / "home/ledger.jsonl").rows() == []
    public_file.write_bytes(content)  # positive control
    assert ClientWorker("a", data_file, tmp_path / "home", policy=policy).handle(order).error_message == ""
    assert ClientLedger(tmp_path / "home/ledger.jsonl").rows() != []


def test_a_clients_own_data_is_not_public(recipe_of, order_of, data_file, tmp_path):
    reply = ClientWorker("a", data_file, tmp_path / "home").handle(
        order_of(recipe_of("bert", method(data_file, 20)))
    )
    assert (reply.error_code, reply.error_message) == (
        "bad_order",
        "the recipe calls this client's own data public",
    )


@pytest.mark.parametrize("is_checked", [True, False], ids=["clause", "without the clause"])
def test_whoever_guesses_the_private_file_learns_nothing_in_a_private_run(
    recipe_of, order_of, data_file, tmp_path, monkeypatch, is_checked
):
    order = order_of(recipe_of("bert", method(data_file, 20), extra=PRIVATE))  # the guess is right
    if not is_checked:  # positive control
        monkeypatch.setattr("client.worker.check_policy", lambda *_args, **_kwargs: None)
    right = ClientWorker("a", data_file, tmp_path / "right").handle(order)
    rows = data_file.read_text().splitlines()
    data_file.write_text("\n".join(rows[:-1]) + "\n")  # the neighbour: one example less
    wrong = ClientWorker("a", data_file, tmp_path / "wrong").handle(order)
    same = (right.error_code, right.error_message) == (wrong.error_code, wrong.error_message)
    assert same == is_checked
    if is_checked:
        assert "clause public_files" in right.error_message
