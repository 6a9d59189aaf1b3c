"""What each method moves for a model of seven billion parameters, by arithmetic: a table for the documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregation.compression import Scheme, payload_bytes
from aggregation.floats import received_shapes, sent_shapes
from aggregation.serialize import message_bytes
from aggregation.table import TABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

# Mistral-7B: (out, in) of the seven linear layers of each of its 32 blocks.
_BLOCK: Mapping[str, tuple[int, int]] = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (1024, 4096),
    "self_attn.v_proj": (1024, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (14336, 4096),
    "mlp.up_proj": (14336, 4096),
    "mlp.down_proj": (4096, 14336),
}
MISTRAL_7B: Mapping[str, tuple[int, int]] = {
    f"model.layers.{block}.{name}": shape for block in range(32) for name, shape in _BLOCK.items()
}
CLIENTS, RANK, ROUNDS = 10, 16, (1, 2, 10)
_SB_RANK = 200


def uploads(method: str, lora_rank: int) -> int:
    """Bytes of one client's first message."""
    return message_bytes(sent_shapes(method, MISTRAL_7B, lora_rank, {}))


def downloads(method: str, lora_rank: int) -> list[int]:
    """Bytes that one client receives in each of ``ROUNDS``, counted from 1; all clients have one rank."""
    ranks = [lora_rank] * CLIENTS
    return [
        message_bytes(received_shapes(method, MISTRAL_7B, ranks, lora_rank, {}, number - 1))
        if method not in ("flora", "florist") or number > 1
        else 0
        for number in ROUNDS
    ]


def as_markdown() -> str:
    """The tables, as they stand in ``docs/methods.md``."""
    lines = [
        f"Megabytes (10^6 bytes) that one of {CLIENTS} clients of rank {RANK} moves in a round, for the seven linear "
        "layers of each",
        "block of Mistral-7B, by arithmetic; FLoRIST at most:",
        "",
        "| method | up | " + " | ".join(f"down, round {number}" for number in ROUNDS) + " |",
        "|---" * (2 + len(ROUNDS)) + "|",
    ]
    rows = [(f"`{name}`", name, RANK) for name in TABLE]
    rows.insert(3, (f"`fed-sb`, rank {_SB_RANK}", "fed-sb", _SB_RANK))
    for title, name, rank in rows:
        cells = [_mb(uploads(name, rank)), *map(_mb, downloads(name, rank))]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    sent = sent_shapes("fedit", MISTRAL_7B, RANK, {})
    moved = {key: shape for key, shape in sent.items() if not key.endswith("/scale")}
    whole = message_bytes(sent)
    lines += ["", f"The upload of `fedit` of {_mb(whole)} MB, compressed:", ""]
    lines += ["| `compression.kind` | MB | of the whole |", "|---|---|---|"]
    for title, scheme in (
        ("`bf16`", Scheme(kind="bf16")),
        ("`int8`", Scheme(kind="int8")),
        ("`int4`", Scheme(kind="int4")),
        ("`compeft`, density 0.05, at most", Scheme(kind="ternary")),
    ):
        size = payload_bytes(moved, scheme)
        lines.append(f"| {title} | {_mb(size)} | {size / whole:.3f} |")
    return "\n".join(lines) + "\n"


def _mb(size: int) -> str:
    found = size / 1e6
    return f"{found:,.0f}" if found >= 100 else f"{found:.2g}" if found else "0"
