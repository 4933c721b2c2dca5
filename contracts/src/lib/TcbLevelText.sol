// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IsoDates} from "./IsoDates.sol";
import {JsonText} from "./JsonText.sol";

/// @notice A compact text ends before its last level does.
error CompactEndsEarly();
/// @notice A compact text has bytes after its last level.
error CompactGoesOn(uint256 surplus);
/// @notice The first byte of a compact text has a bit set that means nothing.
error CompactFormUnknown(uint256 form);
/// @notice A string of the compact text is not 2 to 28 bytes long, or has a character that JSON
/// would have to escape; the encoder names the member of Intel's text that has it.
error CompactStringUnfit(uint256 index);
/// @notice The compact text speaks of a string it does not have.
error CompactStringUnknown(uint256 index);
/// @notice The end of a list of advisories that is taken again does not begin where one of its
/// strings does.
error CompactAdvisoriesCut(uint256 length);
/// @notice A TCB status is none of those `TcbStatus` numbers.
error TcbStatusUnknown(uint256 status);
/// @notice A list of TCB levels is empty.
error TcbLevelsMissing();

/// @title What TCB infos and QE identities have in common: free strings, and a level's standing
/// @notice Free strings, advisories for example, are given once and named by index after. Each is
/// written between quotes and has neither quote nor backslash, so that it ends at the next quote.
/// A standing is status (1), day (4: eight decimal digits), number of advisories (1), how many
/// bytes of the list before are taken again (2), and the indices of the advisories (1 each): Intel
/// puts new ones first, so that a list mostly ends as the list before does.
library TcbLevelText {
    using IsoDates for uint256;
    using JsonText for uint256;

    uint256 internal constant MIN_STRING = 2;
    uint256 internal constant MAX_STRING = 28;
    /// @dev Seven words of statuses, each with its closing quote, then the number of strings, the
    /// end and the length of the last list of advisories, and the strings.
    uint256 private constant COUNT = 0xe0;
    uint256 private constant LIST_END = 0x100;
    uint256 private constant LIST_LENGTH = 0x120;
    uint256 private constant WORDS = 0x140;
    /// @dev Byte `n` is the length of status `n` with its quote.
    uint256 private constant STATUS_LENGTHS = 0x091214220a1d08 << 200;
    uint256 private constant ONES =
        0x0101010101010101010101010101010101010101010101010101010101010101;

    /// @notice Reads the strings (count, then for each its length and bytes) at `from`.
    /// @return table For `string_` and `standing`.
    /// @return next The calldata address after the strings; not yet checked to lie in the slice.
    function tables(uint256 from) internal pure returns (uint256 table, uint256 next) {
        uint256 count;
        assembly ("memory-safe") {
            count := byte(0, calldataload(from))
            // Allocates the words before the strings and one for each string.
            table := mload(0x40)
            mstore(0x40, add(table, add(WORDS, shl(5, count))))
            mstore(add(table, COUNT), count)
            mstore(add(table, LIST_LENGTH), 0)
        }
        _statuses(table);
        unchecked {
            next = from + 1;
            for (uint256 i = 0; i < count; ++i) {
                next = _readString(table, i, next);
            }
        }
    }

    /// @notice Writes string `index` and a quote after it.
    function string_(uint256 at, uint256 table, uint256 index) internal pure returns (uint256) {
        bytes32 word = _word(table, index);
        unchecked {
            return at.put(word, uint8(uint256(word)) - 2);
        }
    }

    /// @notice Writes what follows a level's "tcb" by its standing: `},"tcbDate":"...",
    /// "tcbStatus":"..."`, the advisories where there are any, and `},`.
    function standing(uint256 at, uint256 table, uint256 from)
        internal
        pure
        returns (uint256, uint256 next)
    {
        uint256 fields;
        assembly ("memory-safe") {
            fields := shr(192, calldataload(from))
        }
        unchecked {
            bytes32 date = bytes32('},"tcbDate":"') | IsoDates.day(uint32(fields >> 24)) >> 104;
            at = at.put(date, 23).put('T00:00:00Z","tcbStatus":"', 25);
            at = _status(at, table, fields >> 56);
            next = from + 8;
            if (uint24(fields) != 0) {
                uint256 list = next;
                next += uint8(fields >> 16);
                at = at.put(',"advisoryIDs":["', 17);
                at = _advisories(at, table, list, next, uint16(fields)).put("]", 1);
            }
        }
        return (at.put("},", 2), next);
    }

    function _statuses(uint256 table) private pure {
        table.put('UpToDate"', 32).put('SWHardeningNeeded"', 32).put('ConfigurationNeeded"', 32)
            .put("ConfigurationAndSWHardeningNeede", 32).put('OutOfDate"', 32)
            .put('OutOfDateConfigurationNeeded"', 32).put('Revoked"', 32);
    }

    function _status(uint256 at, uint256 table, uint256 status)
        private
        pure
        returns (uint256 next)
    {
        if (status > 6) revert TcbStatusUnknown(status);
        assembly ("memory-safe") {
            // The one status that is longer than a word ends in what stands after it here.
            mstore(at, mload(add(table, shl(5, status))))
            mstore(add(at, 0x20), shl(240, 0x6422))
            next := add(at, byte(status, STATUS_LENGTHS))
        }
    }

    /// @dev The strings whose indices stand from `from` to `end`, each with `","` after it, then
    /// the last `kept` bytes of the list before; the list ends with its last quote.
    function _advisories(uint256 at, uint256 table, uint256 from, uint256 end, uint256 kept)
        private
        pure
        returns (uint256 next)
    {
        uint256 start = at;
        uint256 unknown;
        assembly ("memory-safe") {
            let words := add(table, WORDS)
            let known := mload(add(table, COUNT))
            for {} lt(from, end) { from := add(from, 1) } {
                let index := byte(0, calldataload(from))
                if iszero(lt(index, known)) {
                    unknown := add(index, 1)
                    break
                }
                let word := mload(add(words, shl(5, index)))
                mstore(at, word)
                at := add(at, byte(31, word))
            }
        }
        unchecked {
            if (unknown != 0) revert CompactStringUnknown(unknown - 1);
            next = kept == 0 ? at - 2 : _again(at, table, kept);
            assembly ("memory-safe") {
                mstore(add(table, LIST_END), next)
                mstore(add(table, LIST_LENGTH), sub(next, start))
            }
        }
    }

    /// @dev Copies the last `kept` bytes of the list before: all of it, or what follows a `","`.
    /// Strings have two characters or more and none is a quote, so that these three bytes stand
    /// nowhere but between two strings.
    function _again(uint256 at, uint256 table, uint256 kept) private pure returns (uint256 next) {
        bool whole;
        assembly ("memory-safe") {
            // Reads the text before `at`, once `kept` is known to be within it.
            let from := sub(mload(add(table, LIST_END)), kept)
            let length := mload(add(table, LIST_LENGTH))
            whole := eq(kept, length)
            if lt(kept, length) { whole := eq(shr(232, mload(sub(from, 3))), 0x222c22) }
            if whole { mcopy(at, from, kept) }
            next := add(at, kept)
        }
        if (!whole) revert CompactAdvisoriesCut(kept);
    }

    /// @dev String `index` and `","` after it, their length in the last byte.
    function _word(uint256 table, uint256 index) private pure returns (bytes32 word) {
        uint256 count;
        assembly ("memory-safe") {
            count := mload(add(table, COUNT))
        }
        if (index >= count) revert CompactStringUnknown(index);
        assembly ("memory-safe") {
            word := mload(add(add(table, WORDS), shl(5, index)))
        }
    }

    function _readString(uint256 table, uint256 index, uint256 from)
        private
        pure
        returns (uint256 next)
    {
        unchecked {
            uint256 length;
            uint256 text;
            assembly ("memory-safe") {
                length := byte(0, calldataload(from))
                text := calldataload(add(from, 1))
            }
            if (length < MIN_STRING || length > MAX_STRING) revert CompactStringUnfit(index);
            uint256 tail = 256 - 8 * length;
            text = text >> tail << tail;
            if (!_plain(text | 32 * ONES >> 8 * length)) revert CompactStringUnfit(index);
            text |= uint256(bytes32('","')) >> 8 * length | length + 3;
            assembly ("memory-safe") {
                // index < count, for which `tables` allocated a word each.
                mstore(add(add(table, WORDS), shl(5, index)), text)
            }
            return from + 1 + length;
        }
    }

    /// @dev True when all 32 characters are ASCII from the space on, and none a quote or backslash.
    /// With the high bit of a lane set before subtracting, no lane borrows from the next, and the
    /// bit stays set exactly where the lane was not smaller than what is taken from it.
    function _plain(uint256 text) private pure returns (bool) {
        unchecked {
            uint256 high = 128 * ONES;
            uint256 kept = ((text | high) - 32 * ONES) & ((text ^ 34 * ONES | high) - ONES)
                & ((text ^ 92 * ONES | high) - ONES) & ~text;
            return kept & high == high;
        }
    }
}
