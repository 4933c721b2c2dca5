// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {
    AuthorityKeyIdMissing,
    Certificates,
    CriticalExtensionUnknown,
    ExtensionRepeated,
    VersionUnsupported
} from "./Certificates.sol";
import {CodeNotFound} from "./CodeStore.sol";
import {Dates} from "./Dates.sol";
import {Der, DerTrailing} from "./Der.sol";

/// @notice The CRL does not say when its successor is due.
error NextUpdateMissing();

/// @notice What a CRL says, read completely.
/// @param tbsEnd The signed part reaches from `tbs` to here (calldata offsets).
/// @param issuer Hash of the issuer's name, all its DER.
/// @param tags What stands for the revoked serials: see `Crls.tag`.
struct Crl {
    uint256 tbs;
    uint256 tbsEnd;
    uint256 r;
    uint256 s;
    bytes32 issuer;
    bytes20 authorityKeyId;
    uint256 thisUpdate;
    uint256 nextUpdate;
    bytes tags;
}

/// @title Certificate revocation lists, read completely and strictly, and what is kept of them
/// @notice A revoked serial is kept as 8 bytes of its hash. Nobody but the CA chooses serials, and
/// even a chance match (one in 2^64 for a pair) refuses a good certificate and admits no bad one.
/// Source: RFC 5280, section 5; Intel SGX PCK Certificate and CRL Profile Specification 1.5.
library Crls {
    uint256 private constant AUTHORITY_KEY_ID = 0x0603551d23;
    uint256 private constant ONES =
        0x0000000000000001000000000000000100000000000000010000000000000001;
    uint256 private constant HIGHS =
        0x8000000000000000800000000000000080000000000000008000000000000000;
    /// @dev SEQUENCE { SEQUENCE { OBJECT IDENTIFIER 2.5.29.21, OCTET STRING { ENUMERATED } } }.
    uint256 private constant REASON = 0x300c300a0603551d1504030a01;
    /// @dev An entry has at least 7 bytes: its header, a serial of one byte and an empty date.
    uint256 private constant SHORTEST_ENTRY = 7;

    /// @notice The first 8 bytes of keccak256 of the serial as 32 bytes.
    function tag(uint256 serial) internal pure returns (uint256 value) {
        assembly ("memory-safe") {
            mstore(0, serial)
            value := shr(192, keccak256(0, 0x20))
        }
    }

    /// @notice Whether `wanted` is among the tags kept as code at `pointer`; nothing is kept where
    /// that is zero.
    function contains(address pointer, uint256 wanted) internal view returns (bool found) {
        if (pointer == address(0)) return false;
        uint256 size = pointer.code.length;
        if (size == 0) revert CodeNotFound(pointer);
        assembly ("memory-safe") {
            // Scratch beyond the free pointer, never kept. Four words are looked at at a time; code
            // reads as zeros after its end, which could only make a tag of zero count as revoked.
            let p := mload(0x40)
            let end := and(add(size, 0x7e), not(0x7f))
            extcodecopy(pointer, p, 1, end)
            end := add(p, end)
            let needle := mul(wanted, ONES)
            let hit
            for {} lt(p, end) { p := add(p, 0x80) } {
                // A lane of 8 bytes is zero in `lanes` where it holds the tag: only then does
                // taking 1 from each lane set a high bit that was not set before.
                let lanes := xor(mload(p), needle)
                hit := and(sub(lanes, ONES), not(lanes))
                lanes := xor(mload(add(p, 0x20)), needle)
                hit := or(hit, and(sub(lanes, ONES), not(lanes)))
                lanes := xor(mload(add(p, 0x40)), needle)
                hit := or(hit, and(sub(lanes, ONES), not(lanes)))
                lanes := xor(mload(add(p, 0x60)), needle)
                hit := or(hit, and(sub(lanes, ONES), not(lanes)))
                if and(hit, HIGHS) {
                    found := 1
                    break
                }
            }
        }
    }

    /// @notice The CRL that `der` is.
    function read(bytes calldata der) internal pure returns (Crl memory c) {
        unchecked {
            uint256 at;
            assembly ("memory-safe") {
                at := der.offset
            }
            uint256 end = at + der.length;
            at = Der.openLast(at, end, Der.SEQUENCE);
            c.tbs = at;
            uint256 tbs;
            (tbs, at) = Der.open(at, end, Der.SEQUENCE);
            c.tbsEnd = at;
            (c.r, c.s) = Certificates.signature(at, end);
            _readTbs(c, tbs, at);
        }
    }

    function _readTbs(Crl memory c, uint256 at, uint256 end) private pure {
        unchecked {
            if (at + 3 > end || Der.word(at) >> 232 != 0x020101) revert VersionUnsupported();
            at = Certificates.algorithm(at + 3, end);
            (, uint256 next) = Der.open(at, end, Der.SEQUENCE);
            c.issuer = Certificates.hashOf(at, next);
            (c.thisUpdate, at) = Dates.read(next, end);
            uint256 found = Der.word(at) >> 248;
            if (found != Der.UTC_TIME && found != Der.GENERALIZED_TIME) revert NextUpdateMissing();
            (c.nextUpdate, at) = Dates.read(at, end);
            // The list of revoked certificates is left out where it is empty.
            if (at < end && Der.word(at) >> 248 == Der.SEQUENCE) {
                (uint256 list, uint256 listEnd) = Der.open(at, end, Der.SEQUENCE);
                c.tags = _readEntries(list, listEnd);
                at = listEnd;
            }
            if (at >= end) revert AuthorityKeyIdMissing();
            at = Der.openLast(at, end, 0xa0);
            c.authorityKeyId = _readExtensions(Der.openLast(at, end, Der.SEQUENCE), end);
        }
    }

    function _readEntries(uint256 at, uint256 end) private pure returns (bytes memory tags) {
        unchecked {
            // Each tag is written as a whole word, so three more lanes are needed after the last.
            tags = new bytes((end - at) / SHORTEST_ENTRY * 8 + 24);
            uint256 size;
            while (at < end) {
                (uint256 content, uint256 next) = Der.open(at, end, Der.SEQUENCE);
                (uint256 serial, uint256 after_) = Der.unsigned(content, next, 20);
                // When it was revoked changes nothing: it is revoked now.
                uint256 tag_ = Der.word(after_) >> 248;
                if (tag_ != Der.GENERALIZED_TIME) tag_ = Der.UTC_TIME;
                (, after_) = Der.open(after_, next, tag_);
                if (after_ != next && !_isReason(after_, next)) _readEntryExtensions(after_, next);
                uint256 value = tag(serial);
                assembly ("memory-safe") {
                    // Entries have 7 bytes or more each, so `size` stays within what was allocated.
                    mstore(add(add(tags, 0x20), size), shl(192, value))
                }
                size += 8;
                at = next;
            }
            assembly ("memory-safe") {
                mstore(tags, size)
            }
        }
    }

    /// @dev The one extension entries have, as Intel writes it: a reason code, not critical.
    function _isReason(uint256 at, uint256 end) private pure returns (bool) {
        unchecked {
            return end - at == 14 && Der.word(at) >> 152 == REASON;
        }
    }

    /// @dev Reasons change nothing either: what is listed is revoked. A critical extension might
    /// (a certificate of another issuer, for one), so none is accepted.
    function _readEntryExtensions(uint256 at, uint256 end) private pure {
        at = Der.openLast(at, end, Der.SEQUENCE);
        while (at < end) {
            (uint256 oid, bool critical,, uint256 next) = Certificates.extension(at, end);
            if (critical) revert CriticalExtensionUnknown(bytes32(oid));
            at = next;
        }
    }

    /// @dev A delta CRL, or one of limited scope, says so in a critical extension.
    function _readExtensions(uint256 at, uint256 end) private pure returns (bytes20 authority) {
        bool seen;
        while (at < end) {
            (uint256 oid, bool critical, uint256 value, uint256 next) =
                Certificates.extension(at, end);
            if (oid == AUTHORITY_KEY_ID) {
                if (seen) revert ExtensionRepeated(bytes32(oid));
                seen = true;
                authority = Certificates.authorityKeyId(value, next);
            } else if (critical) {
                revert CriticalExtensionUnknown(bytes32(oid));
            }
            at = next;
        }
        if (!seen) revert AuthorityKeyIdMissing();
    }
}
