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

/// @title The exact text of a quoting enclave's identity, version 2, from its compact form
/// @notice Compact, integers big endian: form (1: bit 0 TDX, bit 1 lower-case hex), issueDate (4),
/// nextUpdate (4), tcbEvaluationDataNumber (2), mrsigner (32), attributes (16), attributesMask
/// (16), miscselect (4), miscselectMask (4), isvprodid (2), number of levels (1); strings (count,
/// then length and bytes of each); levels: isvsvn (2) and standing, which `TcbLevelText` has.
/// `TcbInfoText` says why such a text cannot be read in two ways.
/// Source: Intel PCS API v4, "Get Enclave Identity", version 2.
library QeIdentityText {
    using IsoDates for uint256;
    using JsonText for uint256;
    using TcbLevelText for uint256;

    uint256 private constant HEADER = 86;
    /// @dev From mrsigner to the number of levels: packed as they come.
    uint256 private constant FIXED = 11;

    struct QeIdentity {
        bool tdx;
        uint32 issueDate;
        uint32 nextUpdate;
        uint16 tcbEvaluationDataNumber;
        bytes packed;
        bytes text;
    }

    /// @notice The text, what it says, and what `QeIdentitySource` packs of it.
    function rebuild(bytes calldata compact) internal pure returns (QeIdentity memory identity) {
        if (compact.length < HEADER) revert CompactEndsEarly();
        uint256 from;
        assembly ("memory-safe") {
            from := compact.offset
        }
        uint256 head = _word(from);
        uint256 form = head >> 248;
        if (form > 3) revert CompactFormUnknown(form);
        identity.tdx = form & 1 != 0;
        identity.issueDate = uint32(head >> 216);
        identity.nextUpdate = uint32(head >> 184);
        identity.tcbEvaluationDataNumber = uint16(head >> 168);
        identity.packed = new bytes(compact.length);
        unchecked {
            (uint256 table, uint256 levels) = TcbLevelText.tables(from + HEADER);
            uint256 at = _head(identity, from, form & 2 != 0);
            at = _levels(at, table, levels, from + compact.length, identity.packed, from);
            identity.text = at.put("}", 1).finish();
        }
    }

    function _head(QeIdentity memory identity, uint256 from, bool lower)
        private
        pure
        returns (uint256 at)
    {
        at = JsonText.start();
        at = identity.tdx ? at.put('{"id":"TD_QE', 12) : at.put('{"id":"QE', 9);
        at = at.put('","version":2,"issueDate":"', 27).date(identity.issueDate);
        at = at.put('","nextUpdate":"', 16).date(identity.nextUpdate);
        at = at.put('","tcbEvaluationDataNumber":', 28).number(identity.tcbEvaluationDataNumber);
        unchecked {
            at = _field(at.put(',"miscselect":"', 15), from + 75, 4, lower);
            at = _field(at.put('","miscselectMask":"', 20), from + 79, 4, lower);
            at = _field(at.put('","attributes":"', 16), from + 43, 16, lower);
            at = _field(at.put('","attributesMask":"', 20), from + 59, 16, lower);
            at = _field(at.put('","mrsigner":"', 14), from + 11, 16, lower);
            at = _field(at, from + 27, 16, lower);
            return at.put('","isvprodid":', 14).number(_word(from + 83) >> 240);
        }
    }

    function _field(uint256 at, uint256 from, uint256 size, bool lower)
        private
        pure
        returns (uint256)
    {
        return at.hexadecimal(bytes16(bytes32(_word(from))), size, lower);
    }

    /// @dev Levels are read from `from` to the slice's `end`; `start` is where the slice begins. As
    /// every read begins where the one before ended, none that counts has left the slice.
    function _levels(
        uint256 at,
        uint256 table,
        uint256 from,
        uint256 end,
        bytes memory packed,
        uint256 start
    ) private pure returns (uint256) {
        unchecked {
            uint256 to;
            assembly ("memory-safe") {
                // The fixed part is 75 bytes; `packed` has as many as the slice, which has 86.
                to := add(packed, 0x6b)
                calldatacopy(add(packed, 0x20), add(start, FIXED), 75)
            }
            uint256 count = _word(start + HEADER - 1) >> 248;
            if (count == 0) revert TcbLevelsMissing();
            at = at.put(',"tcbLevels":[', 14);
            for (; count != 0; --count) {
                if (from + 3 > end) revert CompactEndsEarly();
                assembly ("memory-safe") {
                    // Each byte of the slice is packed at most once, so `packed` has room.
                    calldatacopy(to, from, 3)
                }
                to += 3;
                at = at.put('{"tcb":{"isvsvn":', 17).number(_word(from) >> 240);
                (at, from) = at.standing(table, from + 2);
            }
            if (from > end) revert CompactEndsEarly();
            if (from < end) revert CompactGoesOn(end - from);
            assembly ("memory-safe") {
                mstore(packed, sub(to, add(packed, 0x20)))
            }
            return (at - 1).put("]", 1);
        }
    }

    function _word(uint256 from) private pure returns (uint256 word) {
        assembly ("memory-safe") {
            word := calldataload(from)
        }
    }
}
