// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Der, DerOverrun} from "./Der.sol";

/// @notice Another entry of Intel's SGX extension stands where this one must, or it has another
/// form or length than Intel's profile gives it. Entries come in the profile's order, each once.
error SgxEntryMalformed(uint256 arc);
/// @notice A component SVN is out of order, missing, or not an integer from 0 to 255.
error SgxSvnMalformed(uint256 component);

/// @title Intel's SGX extension of PCK certificates (1.2.840.113741.1.13.1)
/// @notice Source: Intel SGX PCK Certificate and CRL Profile Specification 1.5, section 2.3.5.
library SgxExtension {
    /// @dev OBJECT IDENTIFIER 1.2.840.113741.1.13.1.<arc>, up to the arc.
    uint256 private constant ENTRY = 0x060a2a864886f84d010d01;
    /// @dev SEQUENCE { OBJECT IDENTIFIER .1, OCTET STRING of 16 bytes }, up to those.
    uint256 private constant PPID = 0x301e060a2a864886f84d010d01010410;
    /// @dev SEQUENCE { OBJECT IDENTIFIER .2, SEQUENCE }, the two lengths zero; and what these hide.
    uint256 private constant TCB = 0x00_30820000060a2a864886f84d010d010230820000;
    uint256 private constant TCB_MASK = 0x00_ffff0000ffffffffffffffffffffffffffff0000;
    /// @dev SEQUENCE { OBJECT IDENTIFIER .3, OCTET STRING of 2 bytes }, up to those.
    uint256 private constant PCEID = 0x3010060a2a864886f84d010d01030402;
    /// @dev SEQUENCE { OBJECT IDENTIFIER .4, OCTET STRING of 6 bytes }, up to those.
    uint256 private constant FMSPC = 0x3014060a2a864886f84d010d01040406;
    /// @dev SEQUENCE { OBJECT IDENTIFIER .5, ENUMERATED of one byte }, up to that.
    uint256 private constant SGX_TYPE = 0x300f060a2a864886f84d010d01050a01;
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
            at = Der.openLast(at, end, Der.SEQUENCE);
            if (Der.word(at) >> 128 != PPID) revert SgxEntryMalformed(1);
            at += 32;
            uint256 head = Der.word(at);
            uint256 next = at + 4 + ((head >> 224) & 0xffff);
            // Two bytes of length are the DER form from 256 on; there are 287 bytes or more.
            if ((head >> 96) & TCB_MASK != TCB || at + 20 + ((head >> 96) & 0xffff) != next) {
                revert SgxEntryMalformed(2);
            }
            (cpusvn, pcesvn) = _tcb(at + 20, next);
            head = Der.word(next);
            if (head >> 128 != PCEID) revert SgxEntryMalformed(3);
            pceid = bytes2(bytes32(head << 128));
            head = Der.word(next + 18);
            if (head >> 128 != FMSPC) revert SgxEntryMalformed(4);
            fmspc = bytes6(bytes32(head << 128));
            if (Der.word(next + 40) >> 128 != SGX_TYPE) revert SgxEntryMalformed(5);
            // Nothing read so far lies beyond what comes here, and that ends at `end` exactly.
            _skipRest(next + 57, end);
        }
    }

    /// @dev Platform instance and configuration are not used, but no entry may come again.
    function _skipRest(uint256 at, uint256 end) private pure {
        unchecked {
            uint256 last = 5;
            while (at < end) {
                (uint256 value, uint256 next) = Der.open(at, end, Der.SEQUENCE);
                uint256 head = Der.word(value);
                uint256 arc = (head >> 160) & 0xff;
                if (value + 12 > next || head >> 168 != ENTRY || arc <= last) {
                    revert SgxEntryMalformed(arc);
                }
                (last, at) = (arc, next);
            }
            if (at != end) revert DerOverrun(Der.SEQUENCE);
        }
    }

    /// @dev Components 1 to 16 of one byte each, then PCESVN (17) and the raw CPUSVN (18), which
    /// together end at `end`: so none of them reached beyond it.
    function _tcb(uint256 at, uint256 end) private pure returns (bytes16 cpusvn, uint16 pcesvn) {
        uint256 svns;
        uint256 value;
        bool ok;
        // What the entry must be, but for an integer of one byte; the component is in bits 24 to 31.
        uint256 entry = SVN + (1 << 24);
        assembly ("memory-safe") {
            for {} 1 {} {
                let head := calldataload(at)
                value := xor(shr(112, head), entry)
                at := add(at, 18)
                if gt(value, 0x7f) {
                    at := add(at, 1)
                    value := xor(shr(104, head), add(SVN_2, shl(8, sub(entry, SVN))))
                    if iszero(lt(sub(value, 0x80), 0x80)) { break }
                }
                svns := or(shl(8, svns), value)
                entry := add(entry, 0x1000000)
                if eq(entry, add(SVN, shl(24, 17))) { break }
            }
            if eq(entry, add(SVN, shl(24, 17))) {
                let head := calldataload(at)
                at := add(at, 18)
                value := xor(shr(112, head), entry)
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
        if (!ok) revert SgxSvnMalformed((entry >> 24) & 0xff);
        if (at + 33 != end || Der.word(at) >> 120 != CPUSVN) revert SgxSvnMalformed(18);
        return (bytes16(uint128(svns)), uint16(value));
    }
}
