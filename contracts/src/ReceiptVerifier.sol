// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {LogCheckpoints} from "./LogCheckpoints.sol";
import {IReceiptVerifier, WrongContext} from "./interfaces/IReceiptVerifier.sol";
import {MerkleLog} from "./lib/MerkleLog.sol";
import {Receipt, Receipts} from "./lib/Receipts.sol";

/// @notice The caller has used this receipt before; ask the node again for another answer.
error AlreadyConsumed(address consumer, bytes32 structHash);

/// @notice The batch's end lies before its beginning.
error BatchSpanInverted(uint256 servedFrom, uint256 servedUntil);

/// @title Receipts of registered nodes, one at a time, in batches, or from a committed log
abstract contract ReceiptVerifier is LogCheckpoints {
    bytes32 internal constant BATCH_TYPEHASH =
        keccak256("ReceiptBatch(bytes32 root,uint64 count,uint64 servedFrom,uint64 servedUntil)");

    mapping(address consumer => mapping(bytes32 structHash => bool)) private _consumed;

    /// @inheritdoc IReceiptVerifier
    function verifyReceipt(Receipt calldata receipt, bytes32 r, bytes32 vs, address policy)
        external
        view
        returns (address signer)
    {
        signer = Receipts.signerOf(Receipts.structHash(receipt), r, vs);
        _requireServing(signer, policy, receipt.servedAt);
    }

    /// @inheritdoc IReceiptVerifier
    function verifyDigest(bytes32 structHash, bytes32 r, bytes32 vs, address policy)
        external
        view
        returns (address signer)
    {
        signer = Receipts.signerOf(structHash, r, vs);
        _requireServing(signer, policy, uint64(block.timestamp));
    }

    /// @inheritdoc IReceiptVerifier
    function consume(
        Receipt calldata receipt,
        bytes32 r,
        bytes32 vs,
        address policy,
        bytes32 context
    ) external returns (address signer) {
        if (receipt.context != context) {
            revert WrongContext(receipt.context, context);
        }
        bytes32 hash = Receipts.structHash(receipt);
        signer = Receipts.signerOf(hash, r, vs);
        _requireServing(signer, policy, receipt.servedAt);
        // Keyed by what is said, not by how it is signed: another signature is no second use.
        if (_consumed[msg.sender][hash]) revert AlreadyConsumed(msg.sender, hash);
        _consumed[msg.sender][hash] = true;
        emit Consumed(msg.sender, hash, signer);
    }

    /// @inheritdoc IReceiptVerifier
    function consumed(address consumer, bytes32 structHash) external view returns (bool) {
        return _consumed[consumer][structHash];
    }

    /// @inheritdoc IReceiptVerifier
    function verifyBatch(
        bytes32[] calldata leaves,
        uint64 servedFrom,
        uint64 servedUntil,
        bytes32 r,
        bytes32 vs,
        address policy
    ) external view returns (address signer) {
        if (servedFrom > servedUntil) {
            revert BatchSpanInverted(servedFrom, servedUntil);
        }
        bytes32 root = MerkleLog.batchRoot(leaves);
        signer = Receipts.signerOf(
            keccak256(abi.encode(BATCH_TYPEHASH, root, leaves.length, servedFrom, servedUntil)),
            r,
            vs
        );
        _requireServing(signer, policy, servedFrom);
        _requireServing(signer, policy, servedUntil);
    }
}
