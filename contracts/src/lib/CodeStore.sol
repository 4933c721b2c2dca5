// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice The bytes could not be written: more than 24,575 of them, or too little gas was given.
error CodeNotWritten(uint256 size);
/// @notice Nothing was ever written at this address.
error CodeNotFound(address pointer);

/// @title Bytes kept as the code of a contract that can do nothing else
/// @notice Writing costs 200 gas a byte and a fixed 32,000, where storage costs 690 a byte; reading
/// costs one cold account. The first byte of the code is STOP, so that calling it has no effect,
/// and code once written can neither change nor disappear.
library CodeStore {
    /// @dev PUSH2 size+1, DUP1, PUSH1 10, RETURNDATASIZE, CODECOPY, RETURNDATASIZE, RETURN, STOP:
    /// returns everything from byte 10 on, the STOP and the data.
    uint256 private constant CREATOR = 0x610000_80600a3d393df3_00;

    /// @notice The address whose code holds `data`.
    function write(bytes memory data) internal returns (address pointer) {
        if (data.length > 24_575) revert CodeNotWritten(data.length);
        assembly ("memory-safe") {
            // The eleven bytes before the data are the end of its length word, put back after.
            let size := mload(data)
            mstore(data, or(CREATOR, shl(64, add(size, 1))))
            pointer := create(0, add(data, 21), add(size, 11))
            mstore(data, size)
        }
        if (pointer == address(0)) revert CodeNotWritten(data.length);
    }

    /// @notice What was written at `pointer`.
    function read(address pointer) internal view returns (bytes memory data) {
        uint256 size = pointer.code.length;
        if (size == 0) revert CodeNotFound(pointer);
        assembly ("memory-safe") {
            // Allocates whole words; extcodecopy fills exactly size - 1 bytes after the length.
            data := mload(0x40)
            mstore(data, sub(size, 1))
            mstore(0x40, and(add(add(data, 0x3f), size), not(0x1f)))
            extcodecopy(pointer, add(data, 0x20), 1, sub(size, 1))
        }
    }
}
