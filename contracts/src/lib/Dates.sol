// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice A date is no UTCTime or GeneralizedTime to the second in UTC, as RFC 5280 4.1.2.5 writes
/// them, or names a moment that does not exist. `text` is what stands there, tag first.
error DateMalformed(uint256 text);

/// @title Dates of certificates and CRLs as Unix seconds
library Dates {
    /// @notice The moment written at `at`, and where the next element starts. UTCTime is for the
    /// years 1950 to 2049, GeneralizedTime for later ones. Moments before 1970 read as 0.
    function read(uint256 at, uint256 end) internal pure returns (uint256 unix, uint256 next) {
        bool ok;
        assembly ("memory-safe") {
            let head := calldataload(at)
            let digits // YYYYMMDDhhmmss in ASCII
            switch shr(240, head)
            case 0x170d {
                // UTCTime, 13 bytes: two digits of the year, below 50 those of 20xx
                let century := 0x3139000000000000000000000000
                if lt(byte(2, head), 0x35) { century := 0x3230000000000000000000000000 }
                digits := or(century, and(shr(144, head), 0xffffffffffffffffffffffff))
                ok := eq(byte(14, head), 0x5a)
                next := add(at, 15)
            }
            case 0x180f {
                // GeneralizedTime, 15 bytes: from the year 2050 on
                digits := and(shr(128, head), 0xffffffffffffffffffffffffffff)
                ok := and(eq(byte(16, head), 0x5a), gt(shr(80, digits), 0x32303439))
                next := add(at, 17)
            }
            ok := and(ok, iszero(gt(next, end)))

            // Every byte has the high half 3, and a low half that stays below 16 when 6 is added.
            let low := and(digits, 0x0f0f0f0f0f0f0f0f0f0f0f0f0f0f)
            ok := and(ok, eq(xor(digits, low), 0x3030303030303030303030303030))
            let over := add(low, 0x0606060606060606060606060606)
            ok := and(ok, iszero(and(over, 0x1010101010101010101010101010)))

            // Seven numbers of two digits, each in the low byte of its two.
            let pairs := and(shr(8, low), 0x00ff00ff00ff00ff00ff00ff00ff)
            pairs := add(mul(pairs, 10), and(low, 0x00ff00ff00ff00ff00ff00ff00ff))
            // Below 13, 32, 24, 60 and 60: adding what is missing to 2^15 must not reach it.
            let wrong := and(add(pairs, 0x7ff37fe07fe87fc47fc4), 0x80008000800080008000)
            // Month and day above 0: taking 1 must not pass it.
            wrong := or(wrong, and(sub(pairs, 0x10001000000000000), 0x80008000000000000000))
            unix := add(and(pairs, 0xff), mul(and(shr(16, pairs), 0xff), 60))
            unix := add(unix, mul(and(shr(32, pairs), 0xff), 3600))

            let day := and(shr(48, pairs), 0xff)
            let month := and(shr(64, pairs), 0xff)
            let year := add(mul(shr(96, pairs), 100), and(shr(80, pairs), 0xff))
            // Bit m is set where month m has fewer than 31 days: 2, 4, 6, 9, 11.
            if gt(day, 28) {
                if and(shr(month, 0xa54), 1) {
                    let length := 30
                    if eq(month, 2) {
                        let common := and(iszero(mod(year, 100)), gt(mod(year, 400), 0))
                        length := sub(29, gt(or(mod(year, 4), common), 0))
                    }
                    wrong := or(wrong, gt(day, length))
                }
            }
            ok := and(ok, iszero(wrong))

            // Days since 1970-01-01, in years that start in March so that leap days come last.
            let early := lt(month, 3)
            let y := sub(year, early)
            month := sub(add(month, mul(12, early)), 3)
            day := add(day, div(add(mul(153, month), 2), 5))
            day := sub(add(add(day, mul(y, 365)), add(div(y, 4), div(y, 400))), div(y, 100))
            unix := mul(add(unix, mul(sub(day, 719469), 86400)), gt(year, 1969))
        }
        if (!ok) _refuse(at);
    }

    function _refuse(uint256 at) private pure {
        uint256 text;
        assembly ("memory-safe") {
            text := calldataload(at)
        }
        revert DateMalformed(text);
    }
}
