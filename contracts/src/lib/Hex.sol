// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Lowercase hexadecimal, sixteen bytes to a word of text at a time
library Hex {
    /// @notice The 32 hex digits of the low 128 bits of `value`; anything above is ignored.
    function digits(uint256 value) internal pure returns (uint256 text) {
        // Each step halves the pieces and moves them apart, until every byte holds four bits; those
        // above 9 then become letters: 0x27 is what lies between '9' + 1 and 'a'.
        assembly ("memory-safe") {
            let x := and(value, 0xffffffffffffffffffffffffffffffff)
            x := and(or(shl(64, x), x), 0xffffffffffffffff0000000000000000ffffffffffffffff)
            x := and(
                or(shl(32, x), x),
                0x00000000ffffffff00000000ffffffff00000000ffffffff00000000ffffffff
            )
            x := and(
                or(shl(16, x), x),
                0x0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff
            )
            x := and(
                or(shl(8, x), x),
                0x00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff
            )
            x := and(
                or(shl(4, x), x),
                0x0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f
            )
            let letters :=
                and(
                    shr(
                        4,
                        add(x, 0x0606060606060606060606060606060606060606060606060606060606060606)
                    ),
                    0x0101010101010101010101010101010101010101010101010101010101010101
                )
            text := add(
                add(x, 0x3030303030303030303030303030303030303030303030303030303030303030),
                mul(letters, 0x27)
            )
        }
    }
}
