"""Merkle trees of RFC 9162, under any hash: SHA-256 for logs, Keccak-256 for batches.

A leaf is hashed as H(0x00 || leaf), a node as H(0x01 || left || right), and a tree of n leaves
has the largest power of two below n on its left. Verifiers raise VerificationError whose step is
inclusion or consistency. Spec: RFC 9162, section 2.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

from attestation.errors import VerificationError
from attestation.onchain.errors import NotProvable

Hash = Callable[[bytes], bytes]
_MAX_PROOF: Final = 64
"""No tree whose size is a uint64 needs more."""


def sha256(data: bytes) -> bytes:
    """The hash of transparency logs."""
    return hashlib.sha256(data).digest()


def leaf_hash(leaf: bytes, hash_: Hash) -> bytes:
    """What stands at the bottom of the tree for `leaf`."""
    return hash_(b"\x00" + leaf)


def node_hash(left: bytes, right: bytes, hash_: Hash) -> bytes:
    """What stands above two subtrees."""
    return hash_(b"\x01" + left + right)


def root(leaves: Sequence[bytes], hash_: Hash) -> bytes:
    """The root over all leaves in their order; of no leaves, the hash of nothing."""
    if not leaves:
        return hash_(b"")
    level = [leaf_hash(leaf, hash_) for leaf in leaves]
    while len(level) > 1:
        pairs = range(0, len(level) - 1, 2)
        above = [node_hash(level[i], level[i + 1], hash_) for i in pairs]
        level = above + level[len(pairs) * 2 :]
    return level[0]


def inclusion_proof(leaves: Sequence[bytes], index: int, hash_: Hash) -> list[bytes]:
    """The hashes that lead from leaf `index` to the root, lowest first (2.1.3.1)."""
    if not 0 <= index < len(leaves):
        raise NotProvable("index", f"{index} is not in a tree of {len(leaves)}")
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if index < k:
        return [*inclusion_proof(leaves[:k], index, hash_), root(leaves[k:], hash_)]
    return [*inclusion_proof(leaves[k:], index - k, hash_), root(leaves[:k], hash_)]


def consistency_proof(leaves: Sequence[bytes], earlier: int, hash_: Hash) -> list[bytes]:
    """The hashes that show that the tree begins with its first `earlier` leaves (2.1.4.1)."""
    if not 0 < earlier < len(leaves):
        raise NotProvable("earlier", f"no tree of {len(leaves)} continues one of {earlier}")
    return _subproof(leaves, earlier, hash_, whole=True)


def root_of(leaf: bytes, index: int, size: int, proof: Sequence[bytes], hash_: Hash) -> bytes:
    """The root of the tree of `size` leaves in which `leaf` stands at `index` (2.1.3.2)."""
    if not 0 <= index < size:
        raise VerificationError("inclusion", f"there is no leaf {index} in a tree of {size}")
    fn, sn = index, size - 1
    found = leaf_hash(leaf, hash_)
    for sibling in _bounded(proof, "inclusion"):
        if sn == 0:
            raise VerificationError("inclusion", "the proof is too long")
        if fn & 1 or fn == sn:
            found = node_hash(sibling, found, hash_)
            fn, sn = _climb(fn, sn)
        else:
            found = node_hash(found, sibling, hash_)
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise VerificationError("inclusion", "the proof is too short")
    return found


def verify_consistency(
    before: tuple[int, bytes], after: tuple[int, bytes], proof: Sequence[bytes], hash_: Hash
) -> None:
    """The later tree begins with all leaves of the earlier one (2.1.4.2).

    Each is the number of its leaves and its root.
    """
    (earlier, earlier_root), (size, later_root) = before, after
    if not 0 < earlier < size or not proof:
        raise VerificationError("consistency", f"nothing leads from {earlier} leaves to {size}")
    fn, sn = _past_ones(earlier - 1, size - 1)
    path = list(_bounded(proof, "consistency"))
    if earlier & (earlier - 1) == 0:
        path.insert(0, earlier_root)
    first = second = path[0]
    for sibling in path[1:]:
        if sn == 0:
            raise VerificationError("consistency", "the proof is too long")
        if fn & 1 or fn == sn:
            first = node_hash(sibling, first, hash_)
            second = node_hash(sibling, second, hash_)
            fn, sn = _climb(fn, sn)
        else:
            second = node_hash(second, sibling, hash_)
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise VerificationError("consistency", "the proof is too short")
    if first != earlier_root:
        raise VerificationError("consistency", "the log was rewritten")
    if second != later_root:
        raise VerificationError("consistency", "the proof is for another root")


def _split(n: int) -> int:
    """The largest power of two below n."""
    return 1 << (n - 1).bit_length() - 1


def _subproof(leaves: Sequence[bytes], m: int, hash_: Hash, *, whole: bool) -> list[bytes]:
    n = len(leaves)
    if m == n:
        return [] if whole else [root(leaves, hash_)]
    k = _split(n)
    if m <= k:
        return [*_subproof(leaves[:k], m, hash_, whole=whole), root(leaves[k:], hash_)]
    return [*_subproof(leaves[k:], m - k, hash_, whole=False), root(leaves[:k], hash_)]


def _bounded(proof: Sequence[bytes], step: str) -> Sequence[bytes]:
    if len(proof) > _MAX_PROOF or any(len(h) != 32 for h in proof):
        raise VerificationError(step, f"a proof is at most {_MAX_PROOF} hashes of 32 bytes")
    return proof


def _climb(fn: int, sn: int) -> tuple[int, int]:
    """Up to where the node has a sibling again on its left, or nothing is left of it."""
    while not fn & 1 and fn:
        fn, sn = fn >> 1, sn >> 1
    return fn, sn


def _past_ones(fn: int, sn: int) -> tuple[int, int]:
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    return fn, sn
