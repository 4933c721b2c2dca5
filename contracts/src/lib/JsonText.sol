// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Writing JSON text into memory, front to back
/// @notice Every function takes the address to write at and returns the address after what it
/// wrote. Words are stored whole, so up to 32 bytes after that address are overwritten too.
/// @dev A text is written at the free memory pointer and nothing may be allocated before `finish`,
/// which is what makes the assembly here memory-safe: all it writes lies beyond everything that
/// Solidity has given out.
library JsonText {
    /// @notice Where the text of a new string starts; its length is stored before it by `finish`.
    function start() internal pure returns (uint256 at) {
        assembly ("memory-safe") {
            at := add(mload(0x40), 0x20)
        }
    }

    /// @notice The text written since `start`, now allocated.
    function finish(uint256 end) internal pure returns (bytes memory text) {
        assembly ("memory-safe") {
            // The length word and the text, rounded up to whole words.
            text := mload(0x40)
            mstore(text, sub(end, add(text, 0x20)))
            mstore(0x40, and(add(end, 0x1f), not(0x1f)))
        }
    }

    /// @notice Writes the first `length` bytes, at most 32, of `text`.
    function put(uint256 at, bytes32 text, uint256 length) internal pure returns (uint256) {
        assembly ("memory-safe") {
            mstore(at, text)
        }
        unchecked {
            return at + length;
        }
    }

    /// @notice Writes a number below 100,000 as JSON has it: decimal, no leading zero.
    function number(uint256 at, uint256 value) internal pure returns (uint256 next) {
        assembly ("memory-safe") {
            // A leading digit is written even where it is zero, and then written over.
            if gt(value, 99) {
                mstore8(at, add(48, div(value, 10000)))
                at := add(at, gt(value, 9999))
                mstore8(at, add(48, mod(div(value, 1000), 10)))
                at := add(at, gt(value, 999))
                mstore8(at, add(48, mod(div(value, 100), 10)))
                at := add(at, 1)
                value := add(100, mod(value, 100))
            }
            mstore8(at, add(48, mod(div(value, 10), 10)))
            at := add(at, gt(value, 9))
            mstore8(at, add(48, mod(value, 10)))
            next := add(at, 1)
        }
    }

    /// @notice Writes the first `size` bytes, at most 16, of `data` as two hex digits each.
    /// @param lower Whether digits above nine are written in lower case.
    function hexadecimal(uint256 at, bytes16 data, uint256 size, bool lower)
        internal
        pure
        returns (uint256)
    {
        return put(at, _digits(uint128(data), lower), 2 * size);
    }

    /// @dev Moves each of the 32 nibbles into a byte of its own, then adds '0', and for those above
    /// nine the distance from ':' to 'A' or 'a'. No lane carries into the next: 15 + 48 + 39 < 256.
    function _digits(uint256 x, bool lower) private pure returns (bytes32) {
        unchecked {
            x = (x | x << 64) & 0x0000000000000000ffffffffffffffff0000000000000000ffffffffffffffff;
            x = (x | x << 32) & 0x00000000ffffffff00000000ffffffff00000000ffffffff00000000ffffffff;
            x = (x | x << 16) & 0x0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff;
            x = (x | x << 8) & 0x00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff;
            x = (x | x << 4) & 0x0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f;
            uint256 ones = 0x0101010101010101010101010101010101010101010101010101010101010101;
            uint256 letters = (x + 6 * ones) >> 4 & ones;
            return bytes32(x + 48 * ones + letters * (lower ? 39 : 7));
        }
    }
}
