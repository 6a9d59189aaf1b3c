"""What is added to a gradient beside the data reads no data, and does what its paper says."""

import pytest
import torch

from aggregation.serialize import flatten, from_bytes
from client.corrections import correct, proximal
from client.worker import ClientWorker
from privacy.dpsgd import DpSgd
from privacy.noise import SeededNoise

NORM, EXPECTED, RATE = 0.5, 4.0, 0.1


def linear(seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, 2, bias=False).train()
    return model, {"weight": model.weight}


def examples(count):
    g = torch.Generator().manual_seed(9)
    return torch.randn(8, 3, generator=g)[:count] * 5, torch.randn(8, 2, generator=g)[:count]


def private_step(count, pull=0.0, *, counts_examples=False, away=2.0):
    """What one DP-SGD step without noise does to a weight that is ``away`` from the round's start."""
    model, parameters = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    towards_start = proximal(parameters, pull)

    def correction(name, value):  # the broken one adds the pull once for each example drawn
        return towards_start(name, value) * (count if counts_examples else 1)

    correct(optimizer, parameters, correction)
    with torch.no_grad():
        model.weight.add_(away)
    before = model.weight.detach().clone()
    engine = DpSgd(
        model,
        optimizer,
        clipping_norm=NORM,
        noise_multiplier=0.0,
        expected_batch_size=EXPECTED,
        noise=SeededNoise(0),
    )
    x, y = examples(count)
    if count:
        engine.accumulate((model(x) - y).square().sum(1))
    engine.step()
    engine.close()
    return model.weight.detach() - before


def test_the_pull_is_the_gradient_of_the_proximal_term():
    model, parameters = linear()
    pull = proximal(parameters, 0.3)
    start = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(torch.arange(6.0).reshape(2, 3))
    term = 0.15 * (model.weight - start).square().sum()
    term.backward()
    torch.testing.assert_close(pull("weight", model.weight.detach()), model.weight.grad)


def test_one_example_moves_a_private_step_by_no_more_than_without_the_pull():
    bound = RATE * NORM / EXPECTED
    plain = private_step(5) - private_step(4)
    rounding = 4e-7  # of weights near 2 in float32
    assert 0.5 * bound < float(plain.norm()) <= bound * (1 + 1e-5) + rounding
    for pull in (0.1, 1.0, 10.0):
        with_pull, without_it = private_step(5, pull), private_step(4, pull)
        assert float((with_pull - private_step(5)).norm()) > 0.01  # the pull is at work
        torch.testing.assert_close(with_pull - without_it, plain, rtol=0, atol=2e-6)


def test_the_same_bound_fails_where_the_pull_counts_the_examples():
    broken = private_step(5, 1.0, counts_examples=True) - private_step(4, 1.0, counts_examples=True)
    assert float(broken.norm()) > 2 * RATE * NORM / EXPECTED


def test_an_empty_batch_is_a_step_by_the_noise_and_the_pull():
    torch.testing.assert_close(private_step(0, 1.0), torch.full((2, 3), -RATE * 2.0))
    model, parameters = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    correct(optimizer, parameters, proximal(parameters, 1.0))
    with torch.no_grad():
        model.weight.add_(2.0)
    before = model.weight.detach().clone()
    optimizer.zero_grad(set_to_none=True)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach() - before, torch.full((2, 3), -RATE * 2.0))


def moved(recipe, order_of, data_file, folder, **options):
    order = order_of(recipe)
    reply = ClientWorker("a", data_file, folder, **options).handle(order)
    assert reply.error_message == ""
    start, end = flatten(from_bytes(order.payload)), flatten(from_bytes(reply.payload))
    return sum(float((end[k] - start[k]).square().sum()) for k in end if k in start) ** 0.5, reply.payload


@pytest.mark.parametrize("method", ["fedit", "fed-sb", "ffa"])
def test_a_stronger_pull_ends_nearer_to_the_rounds_start(recipe_of, order_of, data_file, tmp_path, method):
    far = [
        moved(
            recipe_of("bert", method, training=t, local_steps=12, rate="5"),
            order_of,
            data_file,
            tmp_path / str(i),
        )
        for i, t in enumerate(
            (
                ", optimizer: sgd",
                ", optimizer: sgd, algorithm: fedprox, proximal_weight: 1.0e-9",
                ", optimizer: sgd, algorithm: fedprox, proximal_weight: 0.1",
            )
        )
    ]
    assert far[1][0] == pytest.approx(far[0][0], rel=1e-4)
    assert far[2][0] < 0.9 * far[0][0]


def test_a_private_client_takes_the_pull_as_well(recipe_of, order_of, data_file, tmp_path):
    private = "privacy: {noise_multiplier: 0.5, sampling_rate: 0.2}\n"
    sgd = ", optimizer: sgd"
    plain, pulled = (
        moved(
            recipe_of("bert", "fedit", extra=private, training=t, local_steps=12, rate="5"),
            order_of,
            data_file,
            tmp_path / str(i),
            noise=SeededNoise(1),
            allows_test_noise=True,
        )
        for i, t in enumerate((sgd, sgd + ", algorithm: fedprox, proximal_weight: 0.1"))
    )
    assert pulled[0] < 0.9 * plain[0]
