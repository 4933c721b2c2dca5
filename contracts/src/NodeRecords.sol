// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title What is remembered of a registered node: one storage slot
/// @notice Kept per signing key and policy, so that nobody can replace a node's record by
/// registering the same quote under a policy of their own.
abstract contract NodeRecords {
    /// @param servedFrom Unix seconds: receipts served earlier were signed before the key was proved.
    /// @param renewedAt Unix seconds of the latest registration: the record's epoch.
    /// @param expiry Unix seconds: the earliest end of all collateral and of the keyset.
    struct Node {
        uint64 servedFrom;
        uint64 renewedAt;
        uint64 expiry;
    }

    /// @notice A policy has ended every registration made under it until now.
    event EpochEnded(address indexed policy, uint256 time);

    mapping(address signer => mapping(address policy => Node)) internal _nodes;

    /// @notice Records renewed at or before this time no longer count for the policy.
    mapping(address policy => uint256 time) public epochEndedAt;

    /// @notice Ends every registration under the calling policy, this block's included; nodes that
    /// the policy still allows register again from the next block on.
    function endEpoch() external {
        epochEndedAt[msg.sender] = block.timestamp;
        emit EpochEnded(msg.sender, block.timestamp);
    }

    /// @notice The record of a signing key under a policy; all zero where there is none.
    function nodeOf(address signer, address policy) external view returns (Node memory) {
        return _nodes[signer][policy];
    }
}
