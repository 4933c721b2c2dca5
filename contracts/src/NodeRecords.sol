// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice No record of this signing key under this policy. Register the node under it first, or
/// ask for the policy it is registered under.
error NodeUnknown(address signer, address policy);

/// @notice The answer was served when evidence for the node had run out. The node must be
/// registered again before it serves answers that are to count.
error NodeExpiredWhenServed(uint256 servedAt, uint256 expiry);

/// @notice The answer was served before the node's key was proved to this contract, or in an
/// earlier run of registrations that was interrupted. It cannot be accepted any more.
error ServedBeforeRegistration(uint256 servedAt, uint256 servedFrom);

/// @notice The answer claims to be of a time that has not come. Wait, or set the node's clock.
error ServedInFuture(uint256 servedAt, uint256 time);

/// @notice The policy ended all registrations at `time`. Register the node again, with a quote
/// made since and in a later block.
error EpochEnded(address policy, uint256 time);

/// @title What is remembered of a registered node: one storage slot
/// @notice Kept per signing key and policy, so that nobody can replace a node's record by
/// registering the same quote under a policy of their own. All times are Unix seconds.
abstract contract NodeRecords {
    /// @param servedFrom Answers served earlier were signed before the key was proved.
    /// @param renewedAt Time of the latest registration: it says which epoch the record is of.
    /// @param expiry Answers served at or after this time do not count: the earliest end of all
    /// collateral and of the keyset.
    struct Node {
        uint64 servedFrom;
        uint64 renewedAt;
        uint64 expiry;
    }

    /// @notice A policy has ended every registration made under it until now.
    event RegistrationsEnded(address indexed policy, uint256 time);

    /// @dev A `Node` in one word, the first member lowest, 64 bits each.
    mapping(address signer => mapping(address policy => uint256)) private _nodes;

    /// @dev When the policy last ended its registrations in the low 64 bits, above it the number
    /// of the block it did so in: quotes bound to an earlier one are refused.
    mapping(address policy => uint256) private _epochs;

    /// @notice Ends every registration under the calling policy, this block's included. Nodes that
    /// the policy still allows register again, with quotes that they make from now on: a quote
    /// bound to an earlier block stays refused, so nobody can bring an ended node back by
    /// submitting its registration a second time.
    function endEpoch() external {
        _epochs[msg.sender] = block.number << 64 | uint64(block.timestamp);
        emit RegistrationsEnded(msg.sender, block.timestamp);
    }

    /// @notice The record of a signing key under a policy, whether it still counts or not; all
    /// zero where there is none.
    function nodeOf(address signer, address policy) external view returns (Node memory) {
        uint256 node = _nodes[signer][policy];
        return Node(uint64(node), uint64(node >> 64), uint64(node >> 128));
    }

    /// @notice Records renewed at or before this time no longer count for the policy.
    function epochEndedAt(address policy) external view returns (uint256 time) {
        return uint64(_epochs[policy]);
    }

    /// @dev Reverts unless an answer of this signer, served at `servedAt`, counts under `policy`:
    /// the record is of the policy's present epoch, and the time lies neither ahead, nor before
    /// the record's beginning, nor at or after its end. A record that has expired since still
    /// vouches for what was served before.
    function _requireServing(address signer, address policy, uint64 servedAt) internal view {
        uint256 node = _nodes[signer][policy];
        if (node == 0) revert NodeUnknown(signer, policy);
        uint256 ended = uint64(_epochs[policy]);
        if (uint64(node >> 64) <= ended) revert EpochEnded(policy, ended);
        if (servedAt > block.timestamp) revert ServedInFuture(servedAt, block.timestamp);
        if (servedAt < uint64(node)) revert ServedBeforeRegistration(servedAt, uint64(node));
        if (servedAt >= node >> 128) revert NodeExpiredWhenServed(servedAt, node >> 128);
    }

    /// @dev Writes what a registration in this block proves, which is bound to block `quotedAt`.
    /// A record that is live and of this epoch keeps its beginning, and never gets an earlier end:
    /// whoever replays an older, still valid registration of the key cannot cut it short.
    function _renew(address signer, address policy, uint64 expiry, uint256 quotedAt)
        internal
        returns (uint64 recorded)
    {
        uint256 epoch = _epochs[policy];
        uint256 ended = uint64(epoch);
        if (block.timestamp <= ended || quotedAt < epoch >> 64) revert EpochEnded(policy, ended);
        uint256 node = _nodes[signer][policy];
        uint256 servedFrom = block.timestamp;
        recorded = expiry;
        if (uint64(node >> 64) > ended && node >> 128 > block.timestamp) {
            servedFrom = uint64(node);
            if (node >> 128 > expiry) recorded = uint64(node >> 128);
        }
        _nodes[signer][policy] =
            uint256(recorded) << 128 | uint256(uint64(block.timestamp)) << 64 | servedFrom;
    }
}
