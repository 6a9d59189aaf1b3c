"""The allocator gives back what it keeps, and not more often than is cheap."""

import os
import subprocess
import sys

import pytest

from coordinator.memory import EVERY_S, Heap

KEEPS = """
import ctypes, sys, threading
import psutil
from coordinator import memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
kept = [libc.malloc(4000) for _ in range(20_000)]  # 80 MB; every fiftieth stays, so that no top can be cut off
for block in kept:
    ctypes.memset(block, 1, 4000)
for place, block in enumerate(kept):
    if place % 50:
        libc.free(block)
before = psutil.Process().memory_info().rss
now = [0.0]
heap = memory.Heap(lambda: now[0])
now[0] = float(sys.argv[1])
heap.look()
print((before - psutil.Process().memory_info().rss) / 1e6)
"""


def given_back_mb(after_s):
    done = subprocess.run(
        [sys.executable, "-c", KEEPS, str(after_s)],
        capture_output=True,
        text=True,
        check=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")},
    )
    return float(done.stdout)


@pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="another C library gives nothing back"
)
def test_what_the_allocator_keeps_between_blocks_that_stay_goes_back_to_the_system():
    assert given_back_mb(EVERY_S) > 40
    assert given_back_mb(EVERY_S - 1) < 1  # positive control: nobody asked


def test_it_is_asked_every_so_often():
    now, asked = [100.0], []
    heap = Heap(lambda: now[0], lambda: asked.append(now[0]))
    for _ in range(400):
        heap.look()
        now[0] += 0.5
    assert asked == [100.0 + EVERY_S * k for k in range(1, 7)]
