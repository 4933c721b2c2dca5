// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {JsonText} from "./JsonText.sol";

/// @title Dates as Intel writes them: 2025-06-19T10:16:03Z
library IsoDates {
    using JsonText for uint256;

    uint256 private constant DAY = 86_400;
    /// @dev What stands between the digits of a date and time.
    bytes32 private constant MARKS = hex"000000002d00002d00005400003a00003a00005a";

    /// @notice Writes Unix seconds as the date and time in UTC. Each second before the year 10000
    /// has a text of its own; a uint32 ends in 2106.
    function date(uint256 at, uint32 time) internal pure returns (uint256) {
        unchecked {
            (uint256 year, uint256 month, uint256 day) = _civil(time / DAY);
            uint256 second = time % DAY;
            // Twenty characters, from the top of the word: YYYY-MM-DDThh:mm:ssZ
            uint256 text = _two(year / 100) << 240 | _two(year % 100) << 224;
            text |= _two(month) << 200 | _two(day) << 176 | _two(second / 3600) << 152;
            text |= _two(second / 60 % 60) << 128 | _two(second % 60) << 104;
            return at.put(bytes32(text) | MARKS, 20);
        }
    }

    /// @notice The ten characters of a day given as eight decimal digits, one a nibble. A nibble
    /// above nine becomes the character that many after '0', of which none is a quote.
    function day(uint32 digits) internal pure returns (bytes32 text) {
        unchecked {
            uint256 x = digits;
            x = (x | x << 16) & 0x0000ffff0000ffff;
            x = (x | x << 8) & 0x00ff00ff00ff00ff;
            x = (x | x << 4) & 0x0f0f0f0f0f0f0f0f;
            x = x >> 32 << 224 | (x >> 16 & 0xffff) << 200 | (x & 0xffff) << 176;
            return bytes32(x) | bytes32("0000-00-00");
        }
    }

    /// @dev Two decimal digits as characters.
    function _two(uint256 value) private pure returns (uint256) {
        unchecked {
            return 0x3030 + (value / 10 << 8 | value % 10);
        }
    }

    /// @dev The Gregorian date `day` days after 1970-01-01, counted in years that start in March
    /// and eras of 400 of them: 146,097 days each, the leap day last in its year.
    function _civil(uint256 day) private pure returns (uint256 y, uint256 m, uint256 d) {
        unchecked {
            day += 719_468; // since 0000-03-01
            uint256 era = day / 146_097;
            day %= 146_097;
            y = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
            day -= 365 * y + y / 4 - y / 100;
            m = (5 * day + 2) / 153;
            d = day - (153 * m + 2) / 5 + 1;
            m = m < 10 ? m + 3 : m - 9;
            y += 400 * era + (m < 3 ? 1 : 0);
        }
    }
}
