// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice The block has not been mined when the registration is: it has no hash yet.
error BlockInFuture(uint256 number, uint256 current);

/// @notice The block is more than 8,191 blocks old. Make a quote over a newer one.
error BlockTooOld(uint256 number, uint256 current);

/// @notice The block is more than 256 blocks old and this chain has no history of block hashes
/// (EIP-2935). Submit a registration within 256 blocks of the one it is bound to.
error BlockHistoryMissing(uint256 number, uint256 current);

/// @notice The chain does not tell the hash of this block, though it should know it.
error BlockHashUnknown(uint256 number);

/// @title Hashes of the last 8,191 blocks
/// @notice The last 256 by the instruction BLOCKHASH; older ones by the history contract of
/// EIP-2935 where the chain has it. No hash is ever zero: a chain without an answer is refused.
library RecentBlock {
    address internal constant HISTORY = 0x0000F90827F1C53a10cb7A02335B175320002935;
    uint256 internal constant REACH = 8191;

    /// @notice The hash of block `height` of this chain.
    function hashOf(uint256 height) internal view returns (bytes32 hash) {
        if (height >= block.number) revert BlockInFuture(height, block.number);
        uint256 age = block.number - height;
        if (age > REACH) revert BlockTooOld(height, block.number);
        if (age <= 256) {
            hash = blockhash(height);
        } else {
            if (HISTORY.code.length == 0) revert BlockHistoryMissing(height, block.number);
            bool ok;
            // One word of scratch space in, one out; a refusal or another length leaves zero.
            assembly ("memory-safe") {
                mstore(0, height)
                ok := staticcall(gas(), HISTORY, 0, 0x20, 0, 0x20)
                ok := and(ok, eq(returndatasize(), 0x20))
                hash := mul(mload(0), ok)
            }
        }
        if (hash == 0) revert BlockHashUnknown(height);
    }
}
