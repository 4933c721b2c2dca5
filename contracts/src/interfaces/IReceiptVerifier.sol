// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Receipt} from "../lib/Receipts.sol";

/// @notice The receipt answers another question than the caller's.
error WrongContext(bytes32 context, bytes32 expected);

/// @notice What a node says of its transparency log at one moment.
/// @param origin sha256 of the log's name: the origin line of its checkpoints, without newline.
/// @param size Number of leaves.
/// @param root RFC 9162 root (SHA-256) over them.
/// @param time Unix seconds, by the node's clock.
struct LogCheckpoint {
    bytes32 origin;
    uint64 size;
    bytes32 root;
    uint64 time;
}

/// @title Answers of registered nodes, for contracts that act on them
/// @notice Every function either returns what it promises or reverts with the error of the check
/// that failed; there is no result to forget to look at. Signatures are (r, vs) of EIP-2098, low-s
/// only. `policy` is the measurement policy that the node must be registered under: pass your own,
/// never one that whoever calls you has chosen.
interface IReceiptVerifier {
    /// @notice Somebody used this receipt's one use for `consumer`.
    event Consumed(address indexed consumer, bytes32 indexed structHash, address indexed signer);

    /// @notice A node's log has grown to `size`, and still begins with all it had before.
    event CheckpointCommitted(
        address indexed signer,
        address indexed policy,
        bytes32 indexed origin,
        uint64 size,
        bytes32 root,
        uint64 time
    );

    /// @notice The receipt was signed by a node that counted under `policy` when it served the
    /// answer, and whose registration the policy has not ended since.
    /// @dev Not checked, because only the caller knows it: that `context` is its own question's,
    /// that the digests and hashes are those it wants, and that the receipt has not been used.
    function verifyReceipt(Receipt calldata receipt, bytes32 r, bytes32 vs, address policy)
        external
        view
        returns (address signer);

    /// @notice A node that counts under `policy` at this moment signed a struct with this hash.
    /// For callers that made `structHash` themselves, with `Receipts.structHash`, from a receipt
    /// whose members they know; a quarter cheaper in calldata than `verifyReceipt`.
    /// @dev Not checked: when the answer was served (it may lie before the registration, or ahead:
    /// compare `servedAt` with `nodeOf` where that matters), and that the hash is a receipt's at
    /// all. A hash that somebody else passed in may be that of a batch or of a checkpoint.
    function verifyDigest(bytes32 structHash, bytes32 r, bytes32 vs, address policy)
        external
        view
        returns (address signer);

    /// @notice As `verifyReceipt`; besides, the receipt answers `context`, and has not been
    /// consumed by the caller before. Each caller has its own single use of each receipt.
    function consume(
        Receipt calldata receipt,
        bytes32 r,
        bytes32 vs,
        address policy,
        bytes32 context
    ) external returns (address signer);

    /// @notice Whether `consumer` has consumed the receipt with this struct hash.
    function consumed(address consumer, bytes32 structHash) external view returns (bool);

    /// @notice One node signed all these receipts, in this order and no others, as served between
    /// the two times (both included), and counted under `policy` all along.
    /// @param leaves Struct hashes (`Receipts.structHash`).
    /// @dev Not checked: as `verifyReceipt`, for each; that every `servedAt` lies between the two
    /// times, and that no leaf stands there twice, is the node's statement.
    function verifyBatch(
        bytes32[] calldata leaves,
        uint64 servedFrom,
        uint64 servedUntil,
        bytes32 r,
        bytes32 vs,
        address policy
    ) external view returns (address signer);

    /// @notice Remembers a log's checkpoint, signed by a node that counted under `policy` at its
    /// time. It must continue the last one remembered for the same signer and policy.
    /// @param earlierRoot Root of the last one; zero for the first.
    /// @param proof RFC 9162 consistency proof from the last size; empty for the first.
    function commitCheckpoint(
        LogCheckpoint calldata checkpoint,
        bytes32 r,
        bytes32 vs,
        address policy,
        bytes32 earlierRoot,
        bytes32[] calldata proof
    ) external returns (address signer);

    /// @notice Size and time of the last checkpoint remembered; zero where there is none.
    function lastCheckpoint(address signer, address policy)
        external
        view
        returns (uint64 size, uint64 time);

    /// @notice Returns only if `entry` is leaf `index` of the log in a remembered checkpoint, whose
    /// signer counted under `policy` at its time and whose registration has not been ended since.
    /// @param origin,size,time The checkpoint's; any remembered one will do, not only the last.
    /// @param entry sha256 over the canonical JSON (RFC 8785) of the signed ACI receipt.
    /// @param proof RFC 9162 inclusion proof for `size`.
    function requireLogged(
        address signer,
        address policy,
        bytes32 origin,
        uint64 size,
        uint64 time,
        bytes32 entry,
        uint64 index,
        bytes32[] calldata proof
    ) external view;
}
