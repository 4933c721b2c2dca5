// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice The chain has no SHA-256 precompile at address 2, or the call ran out of gas.
error Sha256Missing();

/// @title SHA-256 by the precompile, without copying memory to make it contiguous first
library Sha256 {
    /// @notice The digest of `length` bytes of memory.
    function ofMemory(uint256 pointer, uint256 length) internal view returns (bytes32 digest) {
        bool ok;
        // Reads what the caller says is there and writes one word of scratch space.
        assembly ("memory-safe") {
            ok := staticcall(gas(), 2, pointer, length, 0, 0x20)
            ok := and(ok, eq(returndatasize(), 0x20))
            digest := mload(0)
        }
        if (!ok) revert Sha256Missing();
    }

    /// @notice The digest of `data`.
    function ofCalldata(bytes calldata data) internal view returns (bytes32) {
        uint256 pointer;
        // Copies behind the free memory pointer, which need not move: nothing is kept there.
        assembly ("memory-safe") {
            pointer := mload(0x40)
            calldatacopy(pointer, data.offset, data.length)
        }
        return ofMemory(pointer, data.length);
    }
}
