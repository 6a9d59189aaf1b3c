"""A client that compresses: after the noise, with a memory that survives a restart and is not spent twice."""

import dataclasses

import pytest
import torch

from aggregation.changes import moves, with_moves
from aggregation.compression import decompress
from aggregation.serialize import from_bytes
from client.worker import ClientWorker
from motet.modeling import layer_shapes
from motet.recipe.method import local_start, method_of, scheme_of
from privacy.noise import SeededNoise

PRIVATE = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.2}\n"
INT4 = "compression: {kind: int4}\n"


def worker_for(data_file, tmp_path, name="state", **options):
    return ClientWorker("a", data_file, tmp_path / name, **options)


def start_of(recipe, order):
    method = method_of(recipe)
    held = local_start(
        recipe, method, from_bytes(order.payload), layer_shapes=layer_shapes(recipe),
        lora_rank=order.lora_rank, round_index=order.round_index, client_id=order.client_id,
    )  # fmt: skip
    return method.trained_part(held, order.round_index)


def read(recipe, order, reply):
    """What the coordinator makes of a reply."""
    start = start_of(recipe, order)
    shapes = {k: tuple(v.shape) for k, v in moves(start, start).items()}
    return with_moves(start, decompress(reply.payload, shapes, scheme_of(recipe)))


@pytest.mark.parametrize("method", ["flora", "fedit", "fed-sb", "ffa", "rolora", "fedsa", "product"])
@pytest.mark.parametrize("kind", ["bf16", "int8", "int4", "compeft"])
def test_a_compressed_reply_is_smaller_and_reads_as_what_was_trained_up_to_the_error_it_tells(
    recipe_of, order_of, data_file, tmp_path, method, kind
):
    plain = recipe_of(method=method)
    recipe = recipe_of(method=method, extra=f"compression: {{kind: {kind}, density: 0.25}}\n")
    order = order_of(recipe)
    whole = worker_for(data_file, tmp_path, "whole").handle(order_of(plain))
    reply = worker_for(data_file, tmp_path, "small").handle(order)
    assert reply.error_message == ""
    assert len(reply.payload) < 0.55 * len(whole.payload)
    trained, start = from_bytes(whole.payload), start_of(recipe, order)
    sent, got = moves(trained, start), moves(read(recipe, order, reply), start)
    norm = sum(float(v.square().sum()) for v in sent.values()) ** 0.5
    miss = sum(float((sent[k] - got[k]).square().sum()) for k in sent) ** 0.5 / norm
    assert miss == pytest.approx(reply.compression_error, rel=0.05, abs=1e-5)
    assert 0 < reply.compression_error < {"bf16": 0.005, "int8": 0.02, "int4": 0.2, "compeft": 0.9}[kind]


def test_what_one_message_left_out_goes_with_the_next_also_after_a_restart(
    recipe_of, order_of, data_file, tmp_path
):
    recipe = recipe_of(method="fedit", extra=INT4)
    first, second = order_of(recipe), order_of(recipe, round_index=1)
    kept = worker_for(data_file, tmp_path)
    kept.handle(first)
    together = kept.handle(second)
    worker_for(data_file, tmp_path, "two").handle(first)
    restarted = worker_for(data_file, tmp_path, "two").handle(second)
    alone = worker_for(data_file, tmp_path, "three").handle(second)
    assert together.payload == restarted.payload
    assert alone.payload != together.payload  # positive control: the first message left something


def test_a_round_that_is_asked_again_starts_from_the_same_residual(recipe_of, order_of, data_file, tmp_path):
    recipe = recipe_of(method="fedit", extra=INT4)
    worker = worker_for(data_file, tmp_path)
    worker.handle(order_of(recipe))
    second = order_of(recipe, round_index=1)
    one = worker.handle(second)
    again = worker.handle(dataclasses.replace(second, attempt=1))
    assert one.payload == again.payload


@pytest.mark.parametrize(
    ("method", "section", "kept"),
    [
        ("fedit", "{kind: int8}", True),
        ("fedit", "{kind: int8, error_feedback: false}", False),
        ("flora", "{kind: int8}", False),
        ("product", "{kind: int8}", False),
    ],
)
def test_nothing_is_kept_where_feedback_is_off_or_would_not_fit(
    recipe_of, order_of, data_file, tmp_path, method, section, kept
):
    recipe = recipe_of(method=method, extra=f"compression: {section}\n")
    worker_for(data_file, tmp_path).handle(order_of(recipe))
    assert bool(list((tmp_path / "state").glob("residuals/*/*"))) == kept


def test_compression_comes_after_the_noise_so_that_all_of_it_is_post_processing(
    recipe_of, order_of, data_file, tmp_path
):
    """With the same noise, payload, residual and error are functions of the noised values that a whole reply has."""
    from client.packing import Residuals, packed

    plain, recipe = recipe_of(extra=PRIVATE, method="fedit"), recipe_of(extra=PRIVATE + INT4, method="fedit")
    replies = [
        worker_for(data_file, tmp_path, name, noise=SeededNoise(5), allows_test_noise=True).handle(
            order_of(r)
        )
        for name, r in (("whole", plain), ("small", recipe))
    ]
    order = order_of(recipe)
    noised = from_bytes(replies[0].payload)
    message, left = packed(noised, start_of(recipe, order), scheme_of(recipe), {})
    assert replies[1].payload == message.payload
    assert replies[1].compression_error == message.error
    kept = Residuals(tmp_path / "small/residuals").before("r-1", 1)
    assert kept.keys() == left.keys()
    assert all(torch.equal(kept[k], left[k]) for k in left)
