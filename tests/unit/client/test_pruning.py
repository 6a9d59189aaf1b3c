"""HetLoRA at the client: the tail is pulled down beside the loss, and the rank is cut where it shrank."""

import dataclasses

import pytest
import torch

from aggregation.adapter import AdapterState, FactorPair
from aggregation.methods.hetlora import tail_penalty
from aggregation.serialize import flatten, from_bytes
from client.corrections import tail_pull
from client.pruning import pruned
from client.worker import ClientWorker
from motet.recipe import parse_recipe
from motet.recipe.model import SelfPruningSection

PRUNING = "hetlora, self_pruning: {decay: 0.5, penalty_weight: WEIGHT}"
PRIVATE = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.2}\n"


def pruning(weight):
    return PRUNING.replace("WEIGHT", str(weight))


def factors(seed=0, rank=4, scale=2.0):
    g = torch.Generator().manual_seed(seed)
    return FactorPair(B=torch.randn(6, rank, generator=g), A=torch.randn(rank, 5, generator=g), scale=scale)


def test_the_pull_is_the_gradient_of_the_penalty():
    pair, asked = factors(), SelfPruningSection(decay=0.6, penalty_weight=0.3)
    a, b = (torch.nn.Parameter(x.clone()) for x in (pair.A, pair.B))
    head = torch.nn.Parameter(torch.ones(2))
    (0.3 * tail_penalty(FactorPair(B=b, A=a), 0.6)).backward()
    pull = tail_pull({"A/q": a, "B/q": b, "dense/head": head}, asked)
    torch.testing.assert_close(pull("A/q", a.detach()), a.grad)
    torch.testing.assert_close(pull("B/q", b.detach()), b.grad)
    assert not pull("B/q", b.detach())[:, :2].any()  # what is never cut is not pulled
    assert pull("B/q", b.detach())[:, 2:].any()
    assert not pull("dense/head", head.detach()).any()


@pytest.mark.parametrize("side", ["A", "B"])
def test_a_tail_of_zero_or_of_no_components_pulls_nowhere(side):
    asked = SelfPruningSection(decay=0.5)
    one = factors(rank=1)
    pull = tail_pull({"A/q": torch.nn.Parameter(one.A), "B/q": torch.nn.Parameter(one.B)}, asked)
    assert not pull(f"{side}/q", getattr(one, side)).any()
    zero = FactorPair(B=torch.zeros(6, 4), A=factors().A)
    pull = tail_pull({"A/q": torch.nn.Parameter(zero.A), "B/q": torch.nn.Parameter(zero.B)}, asked)
    assert not pull(f"{side}/q", getattr(zero, side)).any()


@pytest.mark.parametrize("alpha", ["2r", "8"])
def test_what_is_kept_has_its_own_scale_and_the_product_of_its_components(recipe_of, alpha):
    recipe = recipe_of(method=pruning(0), rank=f"4, alpha: {alpha}")
    start = factors(scale=recipe.scale_of(4))
    shrunk = dataclasses.replace(start, B=0.9 * start.B)
    sent = pruned(recipe, AdapterState(lora={"q": shrunk}), AdapterState(lora={"q": start})).lora["q"]
    assert (sent.lora_rank, sent.scale) == (2, recipe.scale_of(2))
    kept = shrunk.scale * shrunk.B[:, :2] @ shrunk.A[:2]
    torch.testing.assert_close(sent.scale * sent.B @ sent.A, kept)


def test_without_the_key_nothing_is_pruned(recipe_of):
    start = AdapterState(lora={"q": factors()})
    shrunk = AdapterState(lora={"q": dataclasses.replace(factors(), B=0.9 * factors().B)})
    assert pruned(recipe_of(method="hetlora"), shrunk, start) is shrunk
    assert pruned(recipe_of(method=pruning(0)), shrunk, start) is not shrunk


def started(recipe, order_of, seed=1, **options):
    """An order whose factors are not zero, as after a few rounds."""
    from motet.modeling import initial_dense, layer_shapes

    g = torch.Generator().manual_seed(seed)
    lora = {
        layer: FactorPair(B=torch.randn(m, 4, generator=g), A=torch.randn(4, n, generator=g), scale=2.0)
        for layer, (m, n) in layer_shapes(recipe).items()
    }
    return order_of(recipe, state=AdapterState(lora=lora, dense=initial_dense(recipe)), **options)


def rank_sent(recipe, order_of, data_file, folder, **options):
    reply = ClientWorker("a", data_file, folder).handle(started(recipe, order_of, **options))
    assert reply.error_message == ""
    return {pair.lora_rank for pair in from_bytes(reply.payload).lora.values()}


def test_a_client_prunes_where_the_penalty_has_made_its_tail_small(recipe_of, order_of, data_file, tmp_path):
    pulled = rank_sent(recipe_of(method=pruning(1e3)), order_of, data_file, tmp_path / "pulled")
    assert pulled == {2}
    plain = rank_sent(recipe_of(method="hetlora"), order_of, data_file, tmp_path / "plain")
    assert plain == {4}  # positive control


def test_the_first_round_prunes_nothing_because_the_tail_began_at_zero(
    recipe_of, order_of, data_file, tmp_path
):
    reply = ClientWorker("a", data_file, tmp_path / "home").handle(order_of(recipe_of(method=pruning(1e3))))
    assert {pair.lora_rank for pair in from_bytes(reply.payload).lora.values()} == {4}


def test_the_pruned_rank_is_the_same_in_every_process(recipe_of, order_of, data_file, tmp_path):
    recipe = recipe_of(method=pruning(1e3))
    order = started(recipe, order_of)
    replies = [ClientWorker("a", data_file, tmp_path / name).handle(order) for name in ("one", "two")]
    assert replies[0].payload == replies[1].payload
    again = ClientWorker("a", data_file, tmp_path / "one").handle(order)  # after a kill: the stored reply
    assert again == replies[0]


def test_a_private_client_may_prune(recipe_of, order_of, data_file, tmp_path):
    recipe = recipe_of(method=pruning(1e3), extra=PRIVATE)
    assert rank_sent(recipe, order_of, data_file, tmp_path / "home") == {2}


def test_a_penalty_changes_what_trains_and_a_penalty_of_zero_does_not(
    recipe_of, order_of, data_file, tmp_path
):
    sent = {}
    for name, method in (("none", "hetlora"), ("zero", pruning(0)), ("some", pruning(1))):
        order = order_of(recipe_of(method=method))  # B = 0: nobody prunes
        reply = ClientWorker("a", data_file, tmp_path / name).handle(order)
        sent[name] = flatten(from_bytes(reply.payload))
    assert all(torch.equal(sent["none"][k], sent["zero"][k]) for k in sent["none"])
    assert any(not torch.equal(sent["none"][k], sent["some"][k]) for k in sent["none"])


def test_an_unknown_key_of_the_section_is_an_error():
    with pytest.raises(Exception, match="speed"):
        parse_recipe("name: x\nmethod: {name: hetlora, self_pruning: {speed: 1}}\n")
