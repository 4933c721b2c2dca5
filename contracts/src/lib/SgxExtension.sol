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
    /// @dev SEQUENCE, 16 bytes: { OBJECT IDENTIFIER 1.2.840.113741.1.13.1.2.<n>, up to the n.
    uint256 private constant SVN = 0x3010060b2a864886f84d010d0102;

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
            (, at) = _entry(at, end, 5, 0x0a); // SGX type
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
            if (value + 12 > next || Der.word(value) >> 160 != (ENTRY << 8 | arc)) {
                revert SgxEntryUnexpected(arc);
            }
            value = Der.openLast(value + 12, next, tag);
        }
    }

    /// @dev Components 1 to 16 of one byte each, then PCESVN (17) and the raw CPUSVN (18).
    function _tcb(uint256 at, uint256 end) private pure returns (bytes16 cpusvn, uint16 pcesvn) {
        unchecked {
            uint256 svns;
            uint256 value;
            for (uint256 i = 1; i < 17; ++i) {
                (value, at) = _svn(at, end, i, 1);
                svns = svns << 8 | value;
            }
            cpusvn = bytes16(uint128(svns));
            (value, at) = _svn(at, end, 17, 2);
            pcesvn = uint16(value);
            // 33 bytes: { OBJECT IDENTIFIER .2.18, OCTET STRING of 16 }
            uint256 head = Der.word(at);
            if (
                at + 33 != end || head >> 136 != (SVN << 8 | 18) + (0x0f << 104)
                    || (head >> 120) & 0xffff != 0x0410
            ) revert SgxSvnMalformed(18);
        }
    }

    /// @dev The SVN of component `i`, an integer of at most `size` bytes (1 or 2), and what follows.
    function _svn(uint256 at, uint256 end, uint256 i, uint256 size)
        private
        pure
        returns (uint256 value, uint256 next)
    {
        unchecked {
            uint256 head = Der.word(at);
            // An integer takes one byte more than the fewest, or two: the entry's length says.
            uint256 longer = ((head >> 240) & 0xff) - 0x10;
            next = at + 18 + longer;
            if (longer > size || next > end || head >> 136 != (SVN << 8 | i) + (longer << 104)) {
                revert SgxSvnMalformed(i);
            }
            uint256 last;
            (value, last) = Der.unsigned(at + 15, next, size);
            if (last != next) revert SgxSvnMalformed(i);
        }
    }
}
