// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IsoDates} from "./IsoDates.sol";
import {JsonText} from "./JsonText.sol";
import {TcbComponents} from "./TcbComponents.sol";
import {
    CompactEndsEarly,
    CompactFormUnknown,
    CompactGoesOn,
    TcbLevelText,
    TcbLevelsMissing
} from "./TcbLevelText.sol";

/// @notice A TCB info for SGX has TDX modules, or one for TDX has none.
error TdxModulesUnexpected(uint256 count);

/// @title The exact text of a TCB info, version 3, from its compact form
/// @notice Compact, integers big endian: form (1: bit 0 TDX, bit 1 lower-case hex), issueDate (4),
/// nextUpdate (4), fmspc (6), tcbEvaluationDataNumber (2), pceId (2), number of modules (1), number
/// of levels (1); strings (count, then length and bytes of each); labels (count, then category and
/// type of each: 1 + index of the string, 0 for none); the label of each SGX component and, for
/// TDX, of each TDX component (1 + index, 0 for none); modules: version (1), number of levels (1),
/// each level isvsvn (1) and standing; levels: SGX SVNs (16), for TDX TDX SVNs (16), pcesvn (2) and
/// standing, which `TcbLevelText` has.
///
/// The text says one thing only. Keys and their order are literals here; a value is of fixed
/// length, or a canonical decimal, or a string without quote and backslash between quotes; whether
/// an optional member stands (category, type, advisoryIDs) shows in the character after the one
/// before it; lists go on after a comma and end at a bracket. So reading a text from the left never
/// leaves a choice, and two compact forms of one text hold the same values: what is stored is what
/// Intel signed, no matter who submitted it or in which form.
/// Source: Intel PCS API v4, "Get TCB Info", TCB info version 3.
library TcbInfoText {
    using IsoDates for uint256;
    using JsonText for uint256;
    using TcbComponents for uint256;
    using TcbLevelText for uint256;

    uint256 private constant HEADER = 21;

    struct TcbInfo {
        bool tdx;
        uint32 issueDate;
        uint32 nextUpdate;
        bytes6 fmspc;
        uint16 tcbEvaluationDataNumber;
        bytes packed;
        bytes text;
    }

    /// @dev Where reading and packing have got to, where reading must end, and tables to read from.
    struct Work {
        uint256 from;
        uint256 end;
        uint256 packedAt;
        uint256 table;
        uint256 components;
    }

    /// @notice The text, what it says, and its levels as `TcbInfoSource` packs them.
    function rebuild(bytes calldata compact) internal pure returns (TcbInfo memory info) {
        uint256 head;
        assembly ("memory-safe") {
            head := calldataload(compact.offset)
        }
        uint256 form = head >> 248;
        if (form > 3) revert CompactFormUnknown(form);
        info.tdx = form & 1 != 0;
        info.issueDate = uint32(head >> 216);
        info.nextUpdate = uint32(head >> 184);
        info.fmspc = bytes6(bytes32(head << 72));
        info.tcbEvaluationDataNumber = uint16(head >> 120);
        Work memory work = _prepare(info, compact);
        uint256 at = _head(info, bytes2(bytes32(head << 136)), form & 2 != 0);
        at = _modules(at, info.tdx, uint8(head >> 96), work);
        at = _levels(at, info.tdx, uint8(head >> 88), work);
        info.text = at.put("}", 1).finish();
        _close(info.packed, work);
    }

    /// @dev Everything that is allocated is allocated here, before the text is begun.
    function _prepare(TcbInfo memory info, bytes calldata compact)
        private
        pure
        returns (Work memory work)
    {
        bytes memory packed;
        uint256 from;
        uint256 end;
        assembly ("memory-safe") {
            // Room for as many bytes as `compact` has: each of its bytes is packed at most once.
            packed := mload(0x40)
            mstore(0x40, and(add(add(packed, 0x5f), compact.length), not(0x1f)))
            from := add(compact.offset, HEADER)
            end := add(compact.offset, compact.length)
        }
        info.packed = packed;
        work.end = end;
        assembly ("memory-safe") {
            mstore(add(work, 0x40), add(packed, 0x20))
        }
        work.from = from - 4;
        _pack(work, 4);
        (work.table, from) = TcbLevelText.tables(from);
        (work.components, work.from) = TcbComponents.tables(work.table, from, info.tdx ? 2 : 1);
    }

    /// @dev Copies the next `size` bytes to what is packed; they must lie in the slice.
    function _pack(Work memory work, uint256 size) private pure {
        unchecked {
            uint256 from = work.from;
            uint256 to = work.packedAt;
            uint256 next = from + size;
            if (next > work.end) revert CompactEndsEarly();
            assembly ("memory-safe") {
                calldatacopy(to, from, size)
            }
            work.from = next;
            work.packedAt = to + size;
        }
    }

    function _head(TcbInfo memory info, bytes2 pceid, bool lower)
        private
        pure
        returns (uint256 at)
    {
        at = JsonText.start();
        at = info.tdx ? at.put('{"id":"TDX', 10) : at.put('{"id":"SGX', 10);
        at = at.put('","version":3,"issueDate":"', 27).date(info.issueDate);
        at = at.put('","nextUpdate":"', 16).date(info.nextUpdate);
        at = at.put('","fmspc":"', 11).hexadecimal(bytes16(info.fmspc), 6, lower);
        at = at.put('","pceId":"', 11).hexadecimal(bytes16(pceid), 2, lower);
        at = at.put('","tcbType":0,"tcbEvaluationData', 32).put('Number":', 8);
        at = at.number(info.tcbEvaluationDataNumber).put(",", 1);
    }

    /// @dev Every module's signer and attributes are zero and its mask is all ones: literals.
    function _modules(uint256 at, bool tdx, uint256 count, Work memory work)
        private
        pure
        returns (uint256)
    {
        if ((count != 0) != tdx) revert TdxModulesUnexpected(count);
        if (!tdx) return at;
        at = at.put('"tdxModule":{', 13);
        at = _signer(at).put('},"tdxModuleIdentities":[', 25);
        unchecked {
            for (; count != 0; --count) {
                at = _module(at, work);
            }
            return (at - 1).put("],", 2);
        }
    }

    function _signer(uint256 at) private pure returns (uint256) {
        bytes32 zeros = "00000000000000000000000000000000";
        at = at.put('"mrsigner":"', 12).put(zeros, 32).put(zeros, 32).put(zeros, 32);
        at = at.put('","attributes":"', 16).put(zeros, 16);
        return at.put('","attributesMask":"', 20).put('FFFFFFFFFFFFFFFF"', 17);
    }

    function _module(uint256 at, Work memory work) private pure returns (uint256) {
        uint256 fields = _word(work.from) >> 240;
        _pack(work, 2);
        at = at.put('{"id":"TDX_', 11).hexadecimal(bytes16(uint128(fields >> 8) << 120), 1, false);
        at = _signer(at.put('",', 2)).put(',"tcbLevels":[', 14);
        uint256 count = uint8(fields);
        if (count == 0) revert TcbLevelsMissing();
        unchecked {
            for (; count != 0; --count) {
                at = at.put('{"tcb":{"isvsvn":', 17).number(_word(work.from) >> 248);
                _pack(work, 2);
                (at, work.from) = at.standing(work.table, work.from - 1);
            }
            return (at - 1).put("]},", 3);
        }
    }

    function _levels(uint256 at, bool tdx, uint256 count, Work memory work)
        private
        pure
        returns (uint256)
    {
        if (count == 0) revert TcbLevelsMissing();
        at = at.put('"tcbLevels":[', 13);
        unchecked {
            uint256 size = tdx ? 35 : 19;
            for (; count != 0; --count) {
                at = _tcb(at, tdx, work.components, work.from);
                _pack(work, size);
                (at, work.from) = at.standing(work.table, work.from - 1);
            }
            return (at - 1).put("]", 1);
        }
    }

    /// @dev What a level asks for: SGX SVNs (16), for TDX TDX SVNs (16), pcesvn (2).
    function _tcb(uint256 at, bool tdx, uint256 components, uint256 from)
        private
        pure
        returns (uint256)
    {
        at = at.put('{"tcb":{"sgxtcbcomponents":[', 28).components(_word(from), components);
        unchecked {
            at = at.put('],"pcesvn":', 11).number(_word(from + (tdx ? 32 : 16)) >> 240);
            if (!tdx) return at;
            at = at.put(',"tdxtcbcomponents":[', 21);
            return at.components(_word(from + 16), components + TcbComponents.SIZE).put("]", 1);
        }
    }

    function _word(uint256 from) private pure returns (uint256 word) {
        assembly ("memory-safe") {
            word := calldataload(from)
        }
    }

    /// @dev The slice must end where reading ended. As every read began where the one before ended,
    /// none has left the slice.
    function _close(bytes memory packed, Work memory work) private pure {
        if (work.from > work.end) revert CompactEndsEarly();
        if (work.from < work.end) revert CompactGoesOn(work.end - work.from);
        uint256 packedAt = work.packedAt;
        assembly ("memory-safe") {
            mstore(packed, sub(packedAt, add(packed, 0x20)))
        }
    }
}
