// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IsoDates} from "./IsoDates.sol";
import {JsonText} from "./JsonText.sol";
import {
    CompactEndsEarly,
    CompactFormUnknown,
    CompactGoesOn,
    TcbLevelText,
    TcbLevelsMissing
} from "./TcbLevelText.sol";

/// @notice The compact TCB info speaks of a component label it does not have.
error CompactLabelUnknown(uint256 index);
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
    using TcbLevelText for uint256;

    uint256 private constant HEADER = 21;
    /// @dev A piece: its length, then at most 89 bytes that stand between two SVNs.
    uint256 private constant PIECE = 0x80;
    /// @dev Sixteen addresses of pieces, and two cache entries of three words.
    uint256 private constant COMPONENTS = 0x2c0;

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
        uint256 positions;
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
        uint256 pieces;
        uint256 labels;
        (pieces, labels, from) = _pieces(work.table, from);
        (work.positions, work.from) = _positions(pieces, labels, from, info.tdx ? 2 : 1);
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

    /// @dev Writes the label of each kind of component once, as it stands between two SVNs:
    /// `,"category":"...","type":"..."},{"svn":`. The first piece has no label.
    function _pieces(uint256 table, uint256 from)
        private
        pure
        returns (uint256 pieces, uint256 labels, uint256 next)
    {
        assembly ("memory-safe") {
            labels := byte(0, calldataload(from))
            // Allocates a piece for each label, one for none, and the word the last may run over.
            pieces := mload(0x40)
            mstore(0x40, add(pieces, add(add(PIECE, 0x20), mul(labels, PIECE))))
        }
        unchecked {
            _piece(pieces, table, 0, 0);
            next = from + 1;
            for (uint256 i = 1; i <= labels; ++i) {
                uint256 category;
                uint256 kind;
                assembly ("memory-safe") {
                    let word := calldataload(next)
                    category := byte(0, word)
                    kind := byte(1, word)
                }
                _piece(pieces + i * PIECE, table, category, kind);
                next += 2;
            }
        }
    }

    function _piece(uint256 piece, uint256 table, uint256 category, uint256 kind) private pure {
        unchecked {
            uint256 at = piece + 0x20;
            if (category != 0) at = at.put(',"category":"', 13).string_(table, category - 1);
            if (kind != 0) at = at.put(',"type":"', 9).string_(table, kind - 1);
            at = at.put('},{"svn":', 9);
            assembly ("memory-safe") {
                // `piece` was allocated by `_pieces`.
                mstore(piece, sub(at, add(piece, 0x20)))
            }
        }
    }

    /// @dev For each sixteen components the addresses of their pieces, then for each eight of them
    /// the cache of `_components`: SVNs (none yet: what no eight bytes are), address and length.
    function _positions(uint256 pieces, uint256 labels, uint256 from, uint256 arrays)
        private
        pure
        returns (uint256 positions, uint256 next)
    {
        assembly ("memory-safe") {
            positions := mload(0x40)
            mstore(0x40, add(positions, mul(arrays, COMPONENTS)))
        }
        unchecked {
            uint256 at = positions;
            for (; arrays != 0; --arrays) {
                for (next = from + 16; from < next; ++from) {
                    uint256 label = _word(from) >> 248;
                    if (label > labels) revert CompactLabelUnknown(label);
                    assembly ("memory-safe") {
                        // One of the first sixteen words of the array's, all allocated above.
                        mstore(at, add(pieces, mul(label, PIECE)))
                    }
                    at += 0x20;
                }
                assembly ("memory-safe") {
                    // The first and fourth of the six words after them.
                    mstore(at, not(0))
                    mstore(add(at, 0x60), not(0))
                }
                at += 0xc0;
            }
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
                at = _tcb(at, tdx, work.positions, work.from);
                _pack(work, size);
                (at, work.from) = at.standing(work.table, work.from - 1);
            }
            return (at - 1).put("]", 1);
        }
    }

    /// @dev What a level asks for: SGX SVNs (16), for TDX TDX SVNs (16), pcesvn (2).
    function _tcb(uint256 at, bool tdx, uint256 positions, uint256 from)
        private
        pure
        returns (uint256)
    {
        at = at.put('{"tcb":{"sgxtcbcomponents":[', 28);
        at = _components(at, _word(from), positions).put('],"pcesvn":', 11);
        unchecked {
            at = at.number(_word(from + (tdx ? 32 : 16)) >> 240);
            if (!tdx) return at;
            at = at.put(',"tdxtcbcomponents":[', 21);
            return _components(at, _word(from + 16), positions + COMPONENTS).put("]", 1);
        }
    }

    /// @dev Writes the components whose SVNs are the first sixteen bytes of `svns`, eight at a
    /// time: levels differ little, so eight that are those of the level before are copied from its
    /// text. The piece after an SVN begins the next component; the eight bytes that the last one
    /// began are taken back, and in a copy may be anything.
    function _components(uint256 at, uint256 svns, uint256 positions)
        private
        pure
        returns (uint256 next)
    {
        at = at.put('{"svn":', 7);
        assembly ("memory-safe") {
            // Writes from `at` on, beyond all that is allocated, and the cache after the positions.
            let cache := add(positions, 0x200)
            for { let end := cache } lt(positions, end) { cache := add(cache, 0x60) } {
                let eight := shr(192, svns)
                switch eq(eight, mload(cache))
                case 1 {
                    let length := mload(add(cache, 0x40))
                    mcopy(at, mload(add(cache, 0x20)), length)
                    at := add(at, length)
                    positions := add(positions, 0x100)
                    svns := shl(64, svns)
                }
                default {
                    mstore(cache, eight)
                    mstore(add(cache, 0x20), at)
                    for { let last := add(positions, 0x100) } lt(positions, last) {} {
                        let svn := byte(0, svns)
                        if gt(svn, 9) {
                            if gt(svn, 99) {
                                mstore8(at, add(48, div(svn, 100)))
                                at := add(at, 1)
                                svn := mod(svn, 100)
                            }
                            mstore8(at, add(48, div(svn, 10)))
                            at := add(at, 1)
                            svn := mod(svn, 10)
                        }
                        mstore8(at, add(48, svn))
                        let piece := mload(positions)
                        let length := mload(piece)
                        mcopy(add(at, 1), add(piece, 0x20), length)
                        at := add(add(at, 1), length)
                        positions := add(positions, 0x20)
                        svns := shl(8, svns)
                    }
                    mstore(add(cache, 0x40), sub(at, mload(add(cache, 0x20))))
                }
            }
            next := sub(at, 8)
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
