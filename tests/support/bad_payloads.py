"""Payloads that no honest client sends: classes 1 to 17 of bad input, each made of an honest payload."""

import dataclasses
import json
import struct
import zlib

from small_federation import honest_reply

from aggregation.serialize import from_bytes, to_bytes

SECRET = "a-clients-own-words"


def message(header, body=b"", *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def parts(payload):
    (length,) = struct.unpack_from("<Q", payload)
    return json.loads(payload[8 : 8 + length]), payload[8 + length :]


def altered(change):
    """An honest payload with another header; ``change`` gets the header and the tensors' bytes."""

    def make(payload):
        header, body = parts(payload)
        return message(*change(header, body))

    return make


def valued(*values):
    """The first numbers of an honest payload replaced: they are the head's."""

    def make(payload):
        start = 8 + struct.unpack_from("<Q", payload)[0]
        return payload[:start] + struct.pack(f"<{len(values)}f", *values) + payload[start + 4 * len(values) :]

    return make


def entry(**fields):
    """The first entry of the header changed."""

    def change(header, body):
        first = next(iter(header))
        return header | {first: header[first] | fields}, body

    return altered(change)


def without_first(header, body):
    first = header.pop(next(iter(header)))
    size = first["data_offsets"][1]
    for told in header.values():
        told["data_offsets"] = [n - size for n in told["data_offsets"]]
    return header, body[size:]


def renamed(header, body):
    pairs = [(SECRET if i == 0 else key, told) for i, (key, told) in enumerate(header.items())]
    return dict(pairs), body


def transposed(header, body):
    told = header["lora/x.query/A"]
    return header | {"lora/x.query/A": told | {"shape": told["shape"][::-1]}}, body


def twice(payload):
    header, body = parts(payload)
    text = json.dumps(header, separators=(",", ":"))
    first = text[1 : text.index("}") + 1]
    return message(f"{{{first},{text[1:]}".encode(), body)


def of_rank(lora_rank):
    def make(order):
        return honest_reply(dataclasses.replace(order, lora_rank=lora_rank)).payload

    return make


def scaled(times):
    """B and A multiplied and divided: the product stays what it was."""

    def make(payload):
        state = from_bytes(payload)
        pairs = {k: dataclasses.replace(p, B=p.B * times, A=p.A / times) for k, p in state.lora.items()}
        return to_bytes(dataclasses.replace(state, lora=pairs))

    return make


BOMB = zlib.compress(bytes(64 << 20), 9)
PICKLED = bytes.fromhex("80049518000000000000007d948c0161945d94284b014b014b014b0165752e")
# number, what, what becomes of an honest payload, code
PAYLOADS = [
    (1, "a pickle", lambda _p: PICKLED, "header_too_large"),
    (1, "a pickle behind a header", lambda p: p + PICKLED, "length_differs"),
    (2, "cut in the header", lambda p: p[:40], "truncated"),
    (2, "cut in the tensors", lambda p: p[:-1], "length_differs"),
    (2, "nothing", lambda _p: b"", "truncated"),
    (3, "a byte more", lambda p: p + b"\0", "length_differs"),
    (4, "a header of 2^63 bytes", lambda p: struct.pack("<Q", 1 << 63) + p[8:], "header_too_large"),
    (4, "a header beyond the end", lambda p: struct.pack("<Q", 1 << 16) + p[8:], "truncated"),
    (4, "offsets that overlap", entry(data_offsets=[4, 100]), "bad_offsets"),
    (
        5,
        "25,000 empty tensors",
        lambda _p: message(b"{" + b",".join(b'"%d":[]' % i for i in range(50_000)) + b"}"),
        "bad_header",
    ),
    (5, "a large header", lambda _p: message(b"[" * (1 << 20)), "bad_header"),
    (6, "metadata", altered(lambda h, b: ({"__metadata__": {"a": "b"}} | h, b)), "bad_key"),
    (
        6,
        "200,000 words of metadata",
        lambda _p: message(b'{"__metadata__":{' + b'"k":"v",' * 120_000),
        "bad_header",
    ),
    (7, "a key twice", twice, "bad_header"),
    (7, "a key that is missing", altered(without_first), "missing_key"),
    (7, "a key of another name", altered(renamed), "bad_key"),
    (7, "a path as a key", altered(lambda h, b: ({"../../etc/passwd": h[next(iter(h))]} | h, b)), "bad_key"),
    (8, "F64", entry(dtype="F64"), "bad_dtype"),
    (8, "I64", entry(dtype="I64"), "bad_dtype"),
    (8, "objects", entry(dtype="O"), "bad_dtype"),
    (9, "transposed", altered(transposed), "bad_shape"),
    (9, "a matrix as a vector", entry(shape=[16]), "bad_shape"),
    (11, "a side of nothing", entry(shape=[0, 1 << 39]), "bad_shape"),
    (11, "65 dimensions", entry(shape=[1] * 65), "bad_shape"),
    (12, "2^60", entry(shape=[1 << 30, 1 << 30]), "bad_offsets"),
    (12, "2^64", entry(shape=[1 << 63, 2]), "bad_shape"),
    (12, "a negative side", entry(shape=[-1, 8]), "bad_shape"),
    (13, "NaN", valued(float("nan")), "not_finite"),
    (14, "infinity", valued(float("inf")), "not_finite"),
    (14, "less than everything", valued(float("-inf")), "not_finite"),
    (15, "1e30", valued(1e30), "too_large"),
    (15, "-3e38", valued(-3e38), "too_large"),
    (16, "factors of 1e20 with a harmless product", scaled(1e20), "too_large"),
    (17, "64 MiB of nothing, compressed", lambda _p: BOMB, "header_too_large"),
    (17, "gzip", lambda _p: b"\x1f\x8b\x08\x00" + BOMB, "header_too_large"),
]
