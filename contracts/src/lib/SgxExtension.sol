// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Der} from "./Der.sol";

/// @notice Another entry of Intel's SGX extension stands where this one must. They come in the
/// order of Intel's profile, each once.
error SgxEntryUnexpected(uint256 arc);
/// @notice An entry of Intel's SGX extension has another length than its profile gives it.
error SgxEntryMalformed(uint256 arc);
/// @notice A component SVN is out of order, missing, or not an integer from 0 to 255.
error SgxSvnMalformed(uint256 component);

/// @title Intel's SGX extension of PCK certificates (1.2.840.113741.1.13.1)
/// @notice Source: Intel SGX PCK Certificate and CRL Profile Specification 1.5, section 2.3.5.
library SgxExtension {
    /// @dev OBJECT IDENTIFIER, 10 bytes: 1.2.840.113741.1.13.1.<arc>, up to the arc.
    uint256 private constant ENTRY = 0x060a2a864886f84d010d01;
    /// @dev SEQUENCE { OBJECT IDENTIFIER 1.2.840.113741.1.13.1.2.<n>, INTEGER of one byte }, without
    /// the n and the integer; the same with an integer of two and three bytes, the first one zero
    /// where the value would read as negative without.
    uint256 private constant SVN = 0x3010060b2a864886f84d010d010200020100;
    uint256 private constant SVN_2 = 0x3011060b2a864886f84d010d01020002020000;
    uint256 private constant SVN_3 = 0x003012060b2a864886f84d010d0102000203000000;
    /// @dev SEQUENCE { OBJECT IDENTIFIER 1.2.840.113741.1.13.1.2.18, OCTET STRING of 16 bytes }.
    uint256 private constant CPUSVN = 0x301f060b2a864886f84d010d0102120410;

    /// @notice What the extension from `at` to `end` says of the platform. `cpusvn` is the sixteen
    /// component SVNs, the first in the highest byte.
    function read(uint256 at, uint256 end)
        internal
        pure
        returns (bytes6 fmspc, bytes2 pceid, bytes16 cpusvn, uint16 pcesvn)
    {
        unchecked {
            uint256 value;
            at = Der.openLast(at, end, Der.SEQUENCE);
            (, at) = _entry(at, end, 1, Der.OCTET_STRING); // PPID
            (value, at) = _entry(at, end, 2, Der.SEQUENCE);
            (cpusvn, pcesvn) = _tcb(value, at);
            (value, at) = _entry(at, end, 3, Der.OCTET_STRING);
            if (at - value != 2) revert SgxEntryMalformed(3);
            pceid = bytes2(bytes32(Der.word(value)));
            (value, at) = _entry(at, end, 4, Der.OCTET_STRING);
            if (at - value != 6) revert SgxEntryMalformed(4);
            fmspc = bytes6(bytes32(Der.word(value)));
            (, at) = _entry(at, end, 5, Der.ENUMERATED); // SGX type
            // What follows (platform instance, configuration) is not used, and may not repeat.
            uint256 last = 5;
            while (at < end) {
                uint256 next;
                (value, next) = Der.open(at, end, Der.SEQUENCE);
                uint256 head = Der.word(value);
                uint256 arc = (head >> 160) & 0xff;
                if (value + 12 > next || head >> 168 != ENTRY || arc <= last) {
                    revert SgxEntryUnexpected(arc);
                }
                (last, at) = (arc, next);
            }
        }
    }

    /// @dev The value of the entry of `arc` at `at`, which has the given tag and fills the entry.
    function _entry(uint256 at, uint256 end, uint256 arc, uint256 tag)
        private
        pure
        returns (uint256 value, uint256 next)
    {
        unchecked {
            (value, next) = Der.open(at, end, Der.SEQUENCE);
            if (Der.word(value) >> 160 != (ENTRY << 8 | arc)) revert SgxEntryUnexpected(arc);
            value = Der.openLast(value + 12, next, tag);
        }
    }

    /// @dev Components 1 to 16 of one byte each, then PCESVN (17) and the raw CPUSVN (18), which
    /// together end at `end`: so none of them reached beyond it.
    function _tcb(uint256 at, uint256 end) private pure returns (bytes16 cpusvn, uint16 pcesvn) {
        uint256 svns;
        uint256 value;
        uint256 i = 1;
        bool ok;
        assembly ("memory-safe") {
            for {} lt(i, 17) { i := add(i, 1) } {
                let head := calldataload(at)
                at := add(at, 18)
                value := xor(shr(112, head), add(SVN, shl(24, i)))
                if gt(value, 0x7f) {
                    at := add(at, 1)
                    value := xor(shr(104, head), add(SVN_2, shl(32, i)))
                    if iszero(lt(sub(value, 0x80), 0x80)) { break }
                }
                svns := or(shl(8, svns), value)
            }
            if eq(i, 17) {
                let head := calldataload(at)
                at := add(at, 18)
                value := xor(shr(112, head), add(SVN, shl(24, 17)))
                ok := lt(value, 0x80)
                if iszero(ok) {
                    at := add(at, 1)
                    value := xor(shr(104, head), add(SVN_2, shl(32, 17)))
                    ok := lt(sub(value, 0x80), 0x7f80)
                }
                if iszero(ok) {
                    at := add(at, 1)
                    value := xor(shr(96, head), add(SVN_3, shl(40, 17)))
                    ok := lt(sub(value, 0x8000), 0x8000)
                }
            }
        }
        if (!ok) revert SgxSvnMalformed(i);
        if (at + 33 != end || Der.word(at) >> 120 != CPUSVN) revert SgxSvnMalformed(18);
        return (bytes16(uint128(svns)), uint16(value));
    }
}
