// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {NodeRecords} from "./NodeRecords.sol";
import {IReceiptVerifier, LogCheckpoint} from "./interfaces/IReceiptVerifier.sol";
import {MerkleLog} from "./lib/MerkleLog.sol";
import {Receipts} from "./lib/Receipts.sol";

/// @notice The log has been committed at this size or a greater one. Nothing is to be done where
/// it is equal; a smaller one is a rollback.
error CheckpointNotNewer(uint256 size, uint256 committed);

/// @notice The checkpoint is older than the last one, though it is larger: the node's clock went
/// backwards. Wait for a later checkpoint.
error CheckpointOlder(uint256 time, uint256 committed);

/// @notice The earlier root given, or the log's origin, is not that of the last checkpoint (for the
/// first one, the root must be zero and the proof empty).
error EarlierCheckpointMismatch(address signer, address policy, uint256 size);

/// @notice No checkpoint of this size, time and origin in whose log the entry stands at this index.
error NotLogged(address signer, uint256 size, uint256 index);

/// @title Transparency logs of registered nodes, append-only as far as this chain has seen
/// @notice For each signer and policy, one log: the size and time of the last checkpoint in one
/// slot, and for every size committed one slot with keccak256(origin, root, time). So a proof made
/// for an earlier checkpoint still holds after the next one.
abstract contract LogCheckpoints is NodeRecords, IReceiptVerifier {
    struct Last {
        uint64 size;
        uint64 time;
    }

    bytes32 internal constant CHECKPOINT_TYPEHASH =
        keccak256("LogCheckpoint(bytes32 origin,uint64 size,bytes32 root,uint64 time)");

    mapping(address signer => mapping(address policy => Last)) private _last;
    mapping(address signer => mapping(address policy => mapping(uint256 size => bytes32))) private
        _checkpoints;

    /// @inheritdoc IReceiptVerifier
    function lastCheckpoint(address signer, address policy)
        external
        view
        returns (uint64 size, uint64 time)
    {
        Last memory last = _last[signer][policy];
        return (last.size, last.time);
    }

    /// @inheritdoc IReceiptVerifier
    function commitCheckpoint(
        LogCheckpoint calldata checkpoint,
        bytes32 r,
        bytes32 vs,
        address policy,
        bytes32 earlierRoot,
        bytes32[] calldata proof
    ) external returns (address signer) {
        signer = Receipts.signerOf(_structHash(checkpoint), r, vs);
        _requireServing(signer, policy, checkpoint.time);
        _requireContinues(signer, policy, checkpoint, earlierRoot, proof);
        _last[signer][policy] = Last(checkpoint.size, checkpoint.time);
        _checkpoints[signer][policy][checkpoint.size] =
            _commitment(checkpoint.origin, checkpoint.root, checkpoint.time);
        emit CheckpointCommitted(
            signer, policy, checkpoint.origin, checkpoint.size, checkpoint.root, checkpoint.time
        );
    }

    /// @inheritdoc IReceiptVerifier
    function requireLogged(
        address signer,
        address policy,
        bytes32 origin,
        uint64 size,
        uint64 time,
        bytes32 entry,
        uint64 index,
        bytes32[] calldata proof
    ) external view {
        bytes32 root = MerkleLog.rootOf(MerkleLog.leafHash(entry), index, size, proof);
        if (_checkpoints[signer][policy][size] != _commitment(origin, root, time)) {
            revert NotLogged(signer, size, index);
        }
        _requireServing(signer, policy, time);
    }

    function _requireContinues(
        address signer,
        address policy,
        LogCheckpoint calldata checkpoint,
        bytes32 earlierRoot,
        bytes32[] calldata proof
    ) private view {
        Last memory last = _last[signer][policy];
        if (checkpoint.size <= last.size) {
            revert CheckpointNotNewer(checkpoint.size, last.size);
        }
        if (last.size == 0) {
            if (earlierRoot != 0 || proof.length != 0) {
                revert EarlierCheckpointMismatch(signer, policy, 0);
            }
            return;
        }
        if (checkpoint.time < last.time) revert CheckpointOlder(checkpoint.time, last.time);
        bytes32 earlier = _commitment(checkpoint.origin, earlierRoot, last.time);
        if (_checkpoints[signer][policy][last.size] != earlier) {
            revert EarlierCheckpointMismatch(signer, policy, last.size);
        }
        MerkleLog.requireConsistent(last.size, earlierRoot, checkpoint.size, checkpoint.root, proof);
    }

    function _structHash(LogCheckpoint calldata checkpoint) private pure returns (bytes32) {
        return keccak256(abi.encode(CHECKPOINT_TYPEHASH, checkpoint));
    }

    function _commitment(bytes32 origin, bytes32 root, uint64 time) private pure returns (bytes32) {
        return keccak256(abi.encode(origin, root, time));
    }
}
