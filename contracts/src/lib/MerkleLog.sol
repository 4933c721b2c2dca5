// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice There is no leaf of this index in a tree of this size.
error IndexBeyondTree(uint256 index, uint256 size);

/// @notice The proof has more hashes than a tree of this shape has levels to climb.
error ProofTooLong(uint256 length);

/// @notice The proof ends before it reaches the root.
error ProofTooShort(uint256 length);

/// @notice The proof does not start from the root it must start from: the log was rewritten, or
/// the proof is for other sizes.
error LogRewritten(bytes32 earlierRoot, bytes32 proved);

/// @notice The proof does not end in the root it must end in.
error WrongRoot(bytes32 root, bytes32 proved);

/// @notice A batch of no receipts says nothing.
error EmptyBatch();

/// @notice SHA-256 did not answer; the call ran out of gas, or the chain lacks precompile 2.
error Sha256Failed();

/// @title Merkle trees of RFC 9162
/// @notice A tree of n leaves has the largest power of two below n on its left. Leaves are hashed
/// as H(0x00 || leaf) and nodes as H(0x01 || left || right), so that neither passes for the other.
/// H is SHA-256 for logs (the RFC's), Keccak-256 for batches (the chain's).
library MerkleLog {
    /// @notice The Keccak root over all leaves of a batch, in their order.
    /// @dev Level by level; a last node without a partner moves up as it is, which gives the RFC's
    /// shape for every size. Nodes of a level are written over those of the level below.
    function batchRoot(bytes32[] calldata leaves) internal pure returns (bytes32 root) {
        if (leaves.length == 0) revert EmptyBatch();
        // `leaves` is bounded by Solidity. The level stands one word after the free memory
        // pointer: the byte before a pair, where its prefix goes, belongs to that spare word or to
        // a pair already used. Output i ends at word i + 1, never past input 2i.
        assembly ("memory-safe") {
            let level := add(mload(0x40), 0x20)
            let n := leaves.length
            mstore(0, 0)
            let to := level
            let end := add(leaves.offset, shl(5, n))
            for { let from := leaves.offset } lt(from, end) { from := add(from, 0x20) } {
                mstore(0x20, calldataload(from))
                mstore(to, keccak256(0x1f, 0x21))
                to := add(to, 0x20)
            }
            for {} gt(n, 1) {} {
                let from := level
                let last := add(level, shl(6, shr(1, n)))
                to := level
                for {} lt(from, last) {} {
                    mstore8(sub(from, 1), 1)
                    mstore(to, keccak256(sub(from, 1), 0x41))
                    from := add(from, 0x40)
                    to := add(to, 0x20)
                }
                if and(n, 1) { mstore(to, mload(from)) }
                n := shr(1, add(n, 1))
            }
            root := mload(level)
        }
    }

    /// @notice The SHA-256 hash of a log entry of 32 bytes.
    function leafHash(bytes32 entry) internal view returns (bytes32 hash) {
        bool ok;
        assembly ("memory-safe") {
            mstore(0, 0)
            mstore(0x20, entry)
            ok := staticcall(gas(), 2, 0x1f, 0x21, 0, 0x20)
            ok := and(ok, eq(returndatasize(), 0x20))
            hash := mload(0)
        }
        if (!ok) revert Sha256Failed();
    }

    /// @notice The root of the tree of `size` leaves in which `hash` is leaf `index`, if the proof
    /// is what it says. Whether that is the root of any log is for the caller to compare.
    /// Source: RFC 9162, section 2.1.3.2.
    function rootOf(bytes32 hash, uint256 index, uint256 size, bytes32[] calldata proof)
        internal
        view
        returns (bytes32 root)
    {
        if (index >= size) revert IndexBeyondTree(index, size);
        uint256 fn = index;
        uint256 sn = size - 1;
        root = hash;
        for (uint256 i; i < proof.length; ++i) {
            if (sn == 0) revert ProofTooLong(proof.length);
            if (fn & 1 == 1 || fn == sn) {
                root = _node(proof[i], root);
                for (; fn & 1 == 0 && fn != 0; fn >>= 1) {
                    sn >>= 1;
                }
            } else {
                root = _node(root, proof[i]);
            }
            fn >>= 1;
            sn >>= 1;
        }
        if (sn != 0) revert ProofTooShort(proof.length);
    }

    /// @notice Reverts unless the log of `size` leaves begins with the `earlierSize` leaves of the
    /// earlier one. Source: RFC 9162, section 2.1.4.2.
    /// @dev The caller has made sure that 0 < earlierSize < size.
    function requireConsistent(
        uint256 earlierSize,
        bytes32 earlierRoot,
        uint256 size,
        bytes32 root,
        bytes32[] calldata proof
    ) internal view {
        if (proof.length == 0) revert ProofTooShort(0);
        uint256 fn = earlierSize - 1;
        uint256 sn = size - 1;
        for (; fn & 1 == 1; fn >>= 1) {
            sn >>= 1;
        }
        // Where the earlier size is a power of two, its root is itself a node of the later tree.
        bool whole = earlierSize & (earlierSize - 1) == 0;
        bytes32 first = whole ? earlierRoot : proof[0];
        bytes32 second = first;
        for (uint256 i = whole ? 0 : 1; i < proof.length; ++i) {
            if (sn == 0) revert ProofTooLong(proof.length);
            if (fn & 1 == 1 || fn == sn) {
                first = _node(proof[i], first);
                second = _node(proof[i], second);
                for (; fn & 1 == 0 && fn != 0; fn >>= 1) {
                    sn >>= 1;
                }
            } else {
                second = _node(second, proof[i]);
            }
            fn >>= 1;
            sn >>= 1;
        }
        if (sn != 0) revert ProofTooShort(proof.length);
        if (first != earlierRoot) revert LogRewritten(earlierRoot, first);
        if (second != root) revert WrongRoot(root, second);
    }

    function _node(bytes32 left, bytes32 right) private view returns (bytes32 hash) {
        bool ok;
        // 65 bytes after the free memory pointer; the answer goes to scratch space.
        assembly ("memory-safe") {
            let p := mload(0x40)
            mstore8(p, 1)
            mstore(add(p, 0x01), left)
            mstore(add(p, 0x21), right)
            ok := staticcall(gas(), 2, p, 0x41, 0, 0x20)
            ok := and(ok, eq(returndatasize(), 0x20))
            hash := mload(0)
        }
        if (!ok) revert Sha256Failed();
    }
}
