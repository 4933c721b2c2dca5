// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Der} from "./Der.sol";

/// @notice A date is no UTCTime or GeneralizedTime to the second in UTC, as RFC 5280 4.1.2.5 writes
/// them, or names a moment that does not exist.
error DateMalformed(uint256 text);

/// @title Dates of certificates and CRLs as Unix seconds
library Dates {
    /// @notice The moment written at `at`, and where the next element starts. UTCTime is for the
    /// years 1950 to 2049, GeneralizedTime for later ones. Moments before 1970 read as 0.
    function read(uint256 at, uint256 end) internal pure returns (uint256 unix, uint256 next) {
        unchecked {
            uint256 tag = Der.word(at) >> 248;
            bool short = tag == Der.UTC_TIME;
            uint256 content;
            (content, next) = Der.open(at, end, short ? Der.UTC_TIME : Der.GENERALIZED_TIME);
            uint256 text = Der.word(content);
            uint256 digits; // YYYYMMDDhhmmss in ASCII
            if (short) {
                if (next - content != 13 || (text >> 152) & 0xff != 0x5a) {
                    revert DateMalformed(text);
                }
                digits = text >> 160;
                uint256 century = digits >> 88 < 0x35 ? 0x3230 : 0x3139; // below "5": 20xx
                digits |= century << 96;
            } else {
                if (next - content != 15 || (text >> 136) & 0xff != 0x5a) {
                    revert DateMalformed(text);
                }
                digits = text >> 144;
                if (digits >> 80 < 0x32303530) revert DateMalformed(text); // "2050"
            }
            unix = _seconds(digits, text);
        }
    }

    function _seconds(uint256 digits, uint256 text) private pure returns (uint256 unix) {
        unchecked {
            // Every byte has the high half 3 and a low half that stays below 16 when 6 is added.
            uint256 low = digits & 0x0f0f0f0f0f0f0f0f0f0f0f0f0f0f;
            if (
                digits ^ low != 0x3030303030303030303030303030
                    || (low + 0x0606060606060606060606060606) & 0x1010101010101010101010101010 != 0
            ) revert DateMalformed(text);
            // Seven numbers of two digits, each in the low byte of its two.
            uint256 pairs = ((low >> 8) & 0x00ff00ff00ff00ff00ff00ff00ff) * 10
                + (low & 0x00ff00ff00ff00ff00ff00ff00ff);
            uint256 year = (pairs >> 96) * 100 + ((pairs >> 80) & 0xff);
            uint256 month = (pairs >> 64) & 0xff;
            uint256 day = (pairs >> 48) & 0xff;
            uint256 hour = (pairs >> 32) & 0xff;
            uint256 minute = (pairs >> 16) & 0xff;
            uint256 second = pairs & 0xff;
            if (month == 0 || month > 12 || day == 0 || day > _daysIn(month, year)) {
                revert DateMalformed(text);
            }
            if (hour > 23 || minute > 59 || second > 59) revert DateMalformed(text);
            if (year < 1970) return 0;
            unix = _days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
        }
    }

    function _daysIn(uint256 month, uint256 year) private pure returns (uint256) {
        unchecked {
            if (month == 2) {
                bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
                return leap ? 29 : 28;
            }
            // Bit m is set where month m has 31 days: 1, 3, 5, 7, 8, 10, 12.
            return 30 + ((0x15aa >> month) & 1);
        }
    }

    /// @dev Days since 1970-01-01, in years that start in March so that leap days come last.
    function _days(uint256 year, uint256 month, uint256 day) private pure returns (uint256) {
        unchecked {
            if (month < 3) {
                year -= 1;
                month += 12;
            }
            uint256 ofYear = (153 * (month - 3) + 2) / 5 + day - 1;
            return year * 365 + year / 4 - year / 100 + year / 400 + ofYear - 719_468;
        }
    }
}
