"""Where privacy noise and private sampling get their randomness: the operating system, never a seed.

Two clients that share a seed would add the same noise and the coordinator could subtract it; a generator that
is saved and restored would repeat noise over other data. So ``SystemNoise`` can be neither seeded, copied nor
saved.
"""

from __future__ import annotations

import math
import os
import threading
from typing import TYPE_CHECKING, NoReturn, Protocol

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms

if TYPE_CHECKING:
    from collections.abc import Sequence

# Values made at a time; small enough that what is worked on stays in the processor's cache.
_BLOCK = 16384
_ZEROS = memoryview(bytes(32 * _BLOCK))  # what is encrypted to get the bare key stream
# ChaCha20's 32-bit block counter allows 256 GiB for one key; a new key is drawn long before.
_BYTES_PER_KEY = 2**30


class NoiseSource(Protocol):
    """A source of Gaussian noise and of coin tosses.

    Attributes:
      is_test_only: True when the values can be predicted. A run with such a source may not claim an epsilon.
    """

    is_test_only: bool

    def normal(self, shape: Sequence[int], std: float) -> torch.Tensor:
        """Return independent N(0, std^2) values as a float32 CPU tensor of the given shape."""
        ...

    def bernoulli(self, n: int, q: float) -> npt.NDArray[np.bool_]:
        """Return ``n`` independent coin tosses, shape (n,), each True with probability ``q`` in [0, 1]."""
        ...


class SystemNoise:
    """Noise from ChaCha20 (RFC 8439) with a key from ``os.urandom``; unpredictable and never repeated.

    Each Gaussian value is half the sum of four, made from four words of 53 random bits that no other value shares
    (Holohan and Braghin 2021, https://arxiv.org/abs/2107.10138, section 5.1 with n = 2), which makes the attack on the
    low bits of floating-point noise (Mironov 2012) infeasible: far more words lead to each value than it has bits.
    All is computed in float64, the result is rounded to float32 once.

    A forked process gets a key of its own. Safe to call from several threads.
    """

    is_test_only: bool = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._start_stream()

    def normal(self, shape: Sequence[int], std: float) -> torch.Tensor:
        """Return independent N(0, std^2) values.

        Args:
          shape: of the result; may hold zeros.
          std: standard deviation, finite and >= 0; zero gives zeros.

        Returns:
          float32 CPU tensor of that shape.

        Raises:
          ValueError: ``std`` is negative or not finite.
        """
        _check_std(std)
        values = torch.zeros(math.prod(shape))
        if std > 0:
            for block in torch.split(values, _BLOCK):
                draws = _standard_normal(self._words(4 * block.numel()))
                block.copy_(draws.mul_(std))  # an infinity is refused where the noise is used
        return values.reshape(tuple(shape))

    def bernoulli(self, n: int, q: float) -> npt.NDArray[np.bool_]:
        """Return ``n`` coin tosses, each True with probability ``q`` (to 2^-53).

        Raises:
          ValueError: ``q`` is outside [0, 1] or ``n`` is negative.
        """
        _check_bernoulli(n, q)
        return np.asarray((self._words(n) >> np.uint64(11)) * 2.0**-53 < q, dtype=np.bool_)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a noise source is never copied or saved: its noise would be used twice; make a new one"
        )

    def _start_stream(self) -> None:
        self._pid = os.getpid()
        self._left = _BYTES_PER_KEY
        cipher = Cipher(algorithms.ChaCha20(os.urandom(32), bytes(4) + os.urandom(12)), mode=None)
        self._stream: CipherContext = cipher.encryptor()

    def _words(self, count: int) -> npt.NDArray[np.uint64]:
        """``count`` fresh random 64-bit words, shape (count,)."""
        words = np.empty(count, dtype="<u8")
        rest = memoryview(words.view(np.uint8))  # type: ignore[arg-type]
        with self._lock:
            while rest:
                if self._left == 0 or self._pid != os.getpid():
                    self._start_stream()
                size = min(len(rest), self._left, len(_ZEROS))
                self._stream.update_into(_ZEROS[:size], rest[:size])
                self._left -= size
                rest = rest[size:]
        return words


class SeededNoise:
    """Predictable noise, FOR TESTS ONLY: whoever knows the seed can remove it, so it gives no privacy at all.

    The same seed gives the same values in the same order of calls.
    """

    is_test_only: bool = True

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def normal(self, shape: Sequence[int], std: float) -> torch.Tensor:
        """As ``SystemNoise.normal``, but predictable."""
        _check_std(std)
        values = self._generator.standard_normal(math.prod(shape)) * std
        return torch.from_numpy(values.astype(np.float32)).reshape(tuple(shape))

    def bernoulli(self, n: int, q: float) -> npt.NDArray[np.bool_]:
        """As ``SystemNoise.bernoulli``, but predictable."""
        _check_bernoulli(n, q)
        return np.asarray(self._generator.random(n) < q, dtype=np.bool_)


def _standard_normal(words: npt.NDArray[np.uint64]) -> torch.Tensor:
    """Map 4 n words to n values of N(0, 1), float64, each half the sum of four standard normals.

    That sum is the inner product of a Gaussian vector in four dimensions with a fixed unit vector, and is taken without
    its summands: the vector's squared length is -2 ln(u u') (chi-squared with four degrees of freedom), and a unit
    vector drawn apart from it has the coordinate sqrt(v) cos t (Hopf: two coordinates have a squared length that is
    uniform, and a uniform angle). So the value is sqrt(-2 ln(u u') v) cos t: one logarithm, one root, one cosine.

    The upper 53 bits of a word are k in [-2^52, 2^52); u, u' and v are 1/2 + (k + 1/2) / 2^53, in (0, 1], and
    t = pi (k + 1/2) / 2^52. The four quarters of the words make u, u', v and t. The largest value is 12.2.
    """
    uniform = (words.view(np.int64) >> np.int64(11)).astype(np.float64).reshape(4, -1)
    uniform += 0.5
    uniform *= 2.0**-53
    angles = uniform[3]
    angles *= 2 * math.pi
    uniform[:3] += 0.5
    squares = np.multiply(uniform[0], uniform[1], out=uniform[0])
    np.log(squares, out=squares)
    squares *= uniform[2]
    squares *= -2
    return torch.from_numpy(angles).cos_().mul_(torch.from_numpy(np.sqrt(squares, out=squares)))


def _check_std(std: float) -> None:
    if not (math.isfinite(std) and std >= 0):
        raise ValueError(f"std must be finite and >= 0, not {std!r}")


def _check_bernoulli(n: int, q: float) -> None:
    if n < 0 or not 0 <= q <= 1:
        raise ValueError(f"need n >= 0 and q in [0, 1], not n={n!r}, q={q!r}")
