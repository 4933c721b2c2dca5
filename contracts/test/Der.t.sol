// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {CodeStore} from "../src/lib/CodeStore.sol";
import {Crls} from "../src/lib/Crls.sol";
import {Dates} from "../src/lib/Dates.sol";
import {Der} from "../src/lib/Der.sol";
import {Test} from "./Test.sol";

/// @notice DER, dates and revocation tags on whatever bytes come.
contract DerTest is Test {
    uint256 private constant END_OF_2049 = 2_524_607_999;

    // What follows the argument in calldata must never be read as part of it.

    function open(bytes calldata data, uint256 tag)
        external
        pure
        returns (uint256 content, uint256 next)
    {
        uint256 at = _offset(data);
        (content, next) = Der.open(at, at + data.length, tag);
        return (content - at, next - at);
    }

    function unsigned(bytes calldata data, uint256 maximum)
        external
        pure
        returns (uint256 value, uint256 next)
    {
        uint256 at = _offset(data);
        (value, next) = Der.unsigned(at, at + data.length, maximum);
        return (value, next - at);
    }

    function date(bytes calldata data) external pure returns (uint256 unix, uint256 next) {
        uint256 at = _offset(data);
        (unix, next) = Dates.read(at, at + data.length);
        return (unix, next - at);
    }

    /// @notice An element opens to the bytes it was made of, whatever follows it.
    function testOpensWhatWasWritten(bytes calldata content, bytes calldata more, uint8 tag)
        external
        view
    {
        bytes memory header = _header(tag, content.length);
        (uint256 start, uint256 next) = this.open(bytes.concat(header, content, more), tag);
        vm.assertEq(start, header.length);
        vm.assertEq(next, header.length + content.length);
    }

    /// @notice An element never opens when cut, nor under another tag.
    function testNeverOpensOtherwise(bytes calldata content, uint8 tag, uint8 other, uint256 cut)
        external
        view
    {
        bytes memory data = bytes.concat(_header(tag, content.length), content);
        cut = bound(cut, 0, data.length - 1);
        vm.assertEq(_opens(_slice(data, cut), tag), false);
        if (other != tag) vm.assertEq(_opens(data, other), false);
    }

    /// @notice Any bytes that open stay within themselves, and have the one header DER allows.
    function testAnyBytesThatOpenAreDer(bytes calldata data) external view {
        if (data.length == 0) return;
        uint8 tag = uint8(data[0]);
        try this.open(data, tag) returns (uint256 start, uint256 next) {
            vm.assertEq(start <= next && next <= data.length, true);
            bytes32 header = keccak256(_header(tag, next - start));
            vm.assertEq(uint256(keccak256(data[:start])), uint256(header));
        } catch {}
    }

    /// @notice Integers are read as they were written, and only where they fit.
    function testReadsIntegers(uint256 value, uint256 maximum) external view {
        maximum = bound(maximum, 1, 32);
        value >>= value % 256;
        bytes memory data = _integer(value);
        bool fits = maximum == 32 || value >> (8 * maximum) == 0;
        try this.unsigned(data, maximum) returns (uint256 found, uint256 next) {
            vm.assertEq(fits, true);
            vm.assertEq(found, value);
            vm.assertEq(next, data.length);
        } catch {
            vm.assertEq(fits, false);
        }
    }

    /// @notice Any content read as an integer is that integer's shortest form.
    function testAnyIntegerReadIsShortest(bytes calldata content) external view {
        bytes memory data = bytes.concat(_header(2, content.length), content);
        try this.unsigned(data, 32) returns (uint256 value, uint256) {
            vm.assertEq(uint256(keccak256(_integer(value))), uint256(keccak256(data)));
        } catch {}
    }

    /// @notice Every second from 1970 to the end of 2049 is read from UTCTime as it was.
    function testReadsUtcTimes(uint256 unix) external view {
        unix = bound(unix, 0, END_OF_2049);
        bytes memory text = _slice20(_text(unix));
        (uint256 found, uint256 next) = this.date(bytes.concat(hex"170d", text, "Z"));
        vm.assertEq(found, unix);
        vm.assertEq(next, 15);
    }

    /// @notice Every second from 2050 to the end of 9999 is read from GeneralizedTime as it was.
    function testReadsGeneralizedTimes(uint256 unix) external view {
        unix = bound(unix, END_OF_2049 + 1, 253_402_300_799);
        (uint256 found, uint256 next) = this.date(bytes.concat(hex"180f", _text(unix), "Z"));
        vm.assertEq(found, unix);
        vm.assertEq(next, 17);
    }

    /// @notice Any text that is read as a date is the date it reads as.
    function testAnyDateReadIsThatDate(bytes12 text, uint256 at, uint8 digit) external view {
        // Digits, so that some are dates; and one byte of any value.
        bytes memory digits = new bytes(12);
        for (uint256 i = 0; i < 12; ++i) {
            uint8 limit = i % 2 == 1 ? 10 : i == 2 ? 2 : i == 4 ? 4 : i == 6 ? 3 : i == 0 ? 5 : 6;
            digits[i] = bytes1(0x30 + uint8(text[i]) % limit);
        }
        if (digit > 127) digits[at % 12] = bytes1(digit);
        try this.date(bytes.concat(hex"170d", digits, "Z")) returns (uint256 unix, uint256) {
            if (unix == 0) return;
            vm.assertEq(uint256(keccak256(_slice20(_text(unix)))), uint256(keccak256(digits)));
        } catch {}
    }

    /// @notice A tag is found exactly where it was written.
    function testFindsTags(uint64[] calldata tags, uint64 other) external {
        bytes memory data;
        bool expected;
        for (uint256 i = 0; i < tags.length; ++i) {
            data = bytes.concat(data, bytes8(tags[i]));
            expected = expected || tags[i] == other;
        }
        address pointer = tags.length == 0 ? address(0) : CodeStore.write(data);
        for (uint256 i = 0; i < tags.length; ++i) {
            vm.assertEq(Crls.contains(pointer, tags[i]), true);
        }
        if (other != 0) vm.assertEq(Crls.contains(pointer, other), expected);
        if (tags.length != 0) {
            vm.assertEq(uint256(keccak256(CodeStore.read(pointer))), uint256(keccak256(data)));
        }
    }

    function _opens(bytes memory data, uint256 tag) private view returns (bool) {
        try this.open(data, tag) returns (uint256, uint256) {
            return true;
        } catch {
            return false;
        }
    }

    function _offset(bytes calldata data) private pure returns (uint256 at) {
        assembly ("memory-safe") {
            at := data.offset
        }
    }

    function _header(uint8 tag, uint256 size) private pure returns (bytes memory) {
        if (size < 0x80) return abi.encodePacked(tag, uint8(size));
        if (size < 0x100) return abi.encodePacked(tag, uint8(0x81), uint8(size));
        return abi.encodePacked(tag, uint8(0x82), uint16(size));
    }

    function _integer(uint256 value) private pure returns (bytes memory) {
        uint256 size = 1;
        while (size < 32 && value >> (8 * size) != 0) ++size;
        bytes memory content = new bytes(size);
        for (uint256 i = 0; i < size; ++i) {
            content[size - 1 - i] = bytes1(uint8(value >> (8 * i)));
        }
        if (uint8(content[0]) > 0x7f) content = bytes.concat(hex"00", content);
        return bytes.concat(_header(2, content.length), content);
    }

    function _slice(bytes memory data, uint256 size) private pure returns (bytes memory cut) {
        cut = new bytes(size);
        for (uint256 i = 0; i < size; ++i) {
            cut[i] = data[i];
        }
    }

    function _slice20(bytes memory text) private pure returns (bytes memory) {
        bytes memory short = new bytes(12);
        for (uint256 i = 0; i < 12; ++i) {
            short[i] = text[i + 2];
        }
        return short;
    }

    /// @dev YYYYMMDDhhmmss, counted day by day from the year's start: slow, and nothing like Dates.
    function _text(uint256 unix) private pure returns (bytes memory) {
        uint256 day = unix / 86_400;
        uint256 year = 1970;
        while (day >= (_leap(year) ? 366 : 365)) {
            day -= _leap(year) ? 366 : 365;
            ++year;
        }
        uint8[12] memory lengths =
            [31, _leap(year) ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        uint256 month;
        while (day >= lengths[month]) {
            day -= lengths[month];
            ++month;
        }
        uint256 second = unix % 86_400;
        return bytes.concat(
            _two(year / 100),
            _two(year % 100),
            _two(month + 1),
            _two(day + 1),
            _two(second / 3600),
            _two(second / 60 % 60),
            _two(second % 60)
        );
    }

    function _leap(uint256 year) private pure returns (bool) {
        return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    }

    function _two(uint256 value) private pure returns (bytes memory) {
        return abi.encodePacked(uint8(0x30 + value / 10), uint8(0x30 + value % 10));
    }
}
