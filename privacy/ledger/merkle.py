"""The Merkle tree of RFC 6962 (Certificate Transparency, section 2.1): roots and proofs of an append-only log.

Leaves are hashed as ``sha256(0x00 || data)`` and nodes as ``sha256(0x01 || left || right)``, so that a leaf can
not be passed off as a node. Proofs are verified by the algorithms of RFC 9162, sections 2.1.3.2 and 2.1.4.2.
All hashes are 32 bytes. Sizes count leaves.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """Hash of one leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node over two child hashes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class _Hashes:
    """A list of hashes in one piece of memory."""

    def __init__(self) -> None:
        self._data = bytearray()

    def __len__(self) -> int:
        return len(self._data) // HASH_BYTES

    def __getitem__(self, index: int) -> bytes:
        return bytes(self._data[index * HASH_BYTES : (index + 1) * HASH_BYTES])

    def append(self, value: bytes) -> None:
        self._data += value

    def between(self, start: int, end: int) -> list[bytes]:
        return [self[i] for i in range(start, min(end, len(self)))]


class MerkleTree:
    """An append-only tree that keeps the root of every complete subtree: about two hashes, 64 bytes, a leaf.

    Args:
      leaves: data of the first leaves, in order.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels = [_Hashes()]  # _levels[k][i]: root of the i-th complete subtree of 2^k leaves
        for data in leaves:
            self.append(data)

    def __len__(self) -> int:
        return len(self._levels[0])

    def append(self, data: bytes) -> None:
        """Add one leaf; amortised two hashes."""
        self._levels[0].append(leaf_hash(data))
        level, count = 0, len(self)
        while count % 2 == 0:
            if len(self._levels) <= level + 1:
                self._levels.append(_Hashes())
            below = self._levels[level]
            self._levels[level + 1].append(node_hash(below[len(below) - 2], below[len(below) - 1]))
            level, count = level + 1, count // 2

    def root(self, size: int | None = None) -> bytes:
        """Root of the first ``size`` leaves, of all by default; the empty tree has ``EMPTY_ROOT``.

        Raises:
          ValueError: there are fewer leaves.
        """
        size = len(self) if size is None else size
        if not 0 <= size <= len(self):
            raise ValueError(f"no root of {size} leaves: the tree has {len(self)}")
        return self._range(0, size)

    def leaf_hashes(self, start: int, end: int) -> list[bytes]:
        """``leaf_hash`` of the leaves from ``start`` on and before ``end``; fewer where there are fewer."""
        return self._levels[0].between(start, end)

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """Hashes that lead from leaf ``index`` to the root of the first ``size`` leaves, lowest first.

        Raises:
          ValueError: not 0 <= index < size <= len(self).
        """
        size = len(self) if size is None else size
        if not 0 <= index < size <= len(self):
            raise ValueError(f"no proof of leaf {index} in {size}: the tree has {len(self)}")
        return self._path(index, 0, size)

    def consistency_proof(self, old_size: int, size: int | None = None) -> list[bytes]:
        """Hashes that show that the first ``old_size`` of ``size`` leaves are unchanged.

        Raises:
          ValueError: not 1 <= old_size <= size <= len(self).
        """
        size = len(self) if size is None else size
        if not 1 <= old_size <= size <= len(self):
            raise ValueError(f"no proof from {old_size} to {size}: the tree has {len(self)}")
        return self._consistency(old_size, 0, size, whole=True)

    def _range(self, start: int, count: int) -> bytes:
        """Root of ``count`` leaves from ``start``; ``start`` is a multiple of the power of two that holds them."""
        if count == 0:
            return EMPTY_ROOT
        level = (count - 1).bit_length()
        if count == 1 << level:
            return self._levels[level][start >> level]
        left = 1 << (level - 1)
        return node_hash(self._range(start, left), self._range(start + left, count - left))

    def _path(self, index: int, start: int, count: int) -> list[bytes]:
        if count == 1:
            return []
        left = 1 << ((count - 1).bit_length() - 1)
        if index < left:
            return [*self._path(index, start, left), self._range(start + left, count - left)]
        return [*self._path(index - left, start + left, count - left), self._range(start, left)]

    def _consistency(self, old: int, start: int, count: int, *, whole: bool) -> list[bytes]:
        if old == count:
            return [] if whole else [self._range(start, count)]
        left = 1 << ((count - 1).bit_length() - 1)
        if old <= left:
            return [
                *self._consistency(old, start, left, whole=whole),
                self._range(start + left, count - left),
            ]
        return [
            *self._consistency(old - left, start + left, count - left, whole=False),
            self._range(start, left),
        ]


def verify_inclusion(*, leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Say whether ``proof`` leads from the leaf to the root.

    Args:
      leaf: ``leaf_hash`` of the data.
      index: of the leaf, from 0.
      size: leaves under ``root``.
      proof: as ``MerkleTree.inclusion_proof``.
      root: as signed.

    Returns:
      False for every index, size or proof that does not fit; nothing is raised.
    """
    if not 0 <= index < size or not _are_hashes([leaf, root, *proof]):
        return False
    position, last, current = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if position & 1 or position == last:
            current = node_hash(sibling, current)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            current = node_hash(current, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and current == root


def verify_consistency(
    *, old_size: int, size: int, proof: Sequence[bytes], old_root: bytes, root: bytes
) -> bool:
    """Say whether the tree of ``old_root`` is a prefix of the tree of ``root``.

    Args:
      old_size: leaves under ``old_root``; 0 is a prefix of everything, with an empty proof.
      size: leaves under ``root``.
      proof: as ``MerkleTree.consistency_proof``.
      old_root: as signed earlier.
      root: as signed later.

    Returns:
      False for sizes or a proof that do not fit; nothing is raised.
    """
    if not 0 <= old_size <= size or not _are_hashes([old_root, root, *proof]):
        return False
    if old_size == size:
        return not proof and old_root == root
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT
    hashes = [old_root, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    if not hashes:
        return False
    position, last = old_size - 1, size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    first = second = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and first == old_root and second == root


def _are_hashes(values: Sequence[bytes]) -> bool:
    return all(len(value) == HASH_BYTES for value in values)
