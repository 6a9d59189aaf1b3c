"""A recipe, the shape of its model, and what an honest client would answer: nothing is trained."""

from __future__ import annotations

import dataclasses

import torch

from aggregation.adapter import AdapterState
from aggregation.initial import fresh_factors
from aggregation.serialize import sha256_hex, to_bytes
from coordinator.engine.shape import ModelShape
from motet.recipe import from_canonical_json
from motet.wire.messages import TrainReply

SHAPE = ModelShape(
    layer_shapes={"x.query": (12, 8), "x.value": (8, 12)}, dense={"head.weight": torch.zeros(2, 8)}
)
RECIPE = """
name: tiny
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: {a: 1, b: 2, c: 3}}
method: {name: flora}
cohort: {clients: [a, b, c], minimum: 2, deadline_s: 5}
training: {rounds: 3, local_steps: 2}
"""
PRIVATE = RECIPE + "privacy: {noise_multiplier: 1.0, sampling_rate: 0.1, epsilon_limit: 20}\n"


def honest_reply(order):
    """What a client of the order's rank would send, from the order alone."""
    recipe = from_canonical_json(order.recipe_json)
    seed = order.round_index * 100 + sum(order.client_id.encode())
    lora = fresh_factors(SHAPE.layer_shapes, order.lora_rank, recipe.scale_of(order.lora_rank), seed)
    generator = torch.Generator().manual_seed(seed)
    lora = {k: dataclasses.replace(p, B=torch.randn(p.B.shape, generator=generator)) for k, p in lora.items()}
    payload = to_bytes(AdapterState(lora=lora, dense={"head.weight": torch.randn(2, 8, generator=generator)}))
    private = recipe.privacy is not None
    return TrainReply(
        run_id=order.run_id,
        round_index=order.round_index,
        attempt=order.attempt,
        client_id=order.client_id,
        payload=payload,
        payload_sha256=sha256_hex(payload),
        num_steps=2,
        num_examples=0 if private else 10,
        is_private=private,
    )
