// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {TcbStatus} from "../TcbStatus.sol";

/// @notice The platform reaches none of the TCB levels Intel published for its family: its
/// microcode or firmware is too old to judge. Update it and fetch its PCK certificate again.
error TcbLevelNotReached(bytes16 cpusvn, uint256 pcesvn, bytes16 tdxSvns);
/// @notice Intel has revoked the platform's TCB level: its keys count as compromised.
error TcbRevoked(bytes16 cpusvn, uint256 pcesvn);
/// @notice The TCB info has no identity for this version of the TDX module. Submit a newer TCB
/// info if Intel publishes one, or start the TD on another module.
error TdxModuleUnknown(uint256 version);
/// @notice The TDX module is older than every level Intel published for its version.
error TdxModuleLevelNotReached(uint256 version, uint256 isvsvn);
/// @notice Intel has revoked this version of the TDX module.
error TdxModuleRevoked(uint256 version, uint256 isvsvn);
/// @notice The quoting enclave is older than every level Intel published: update DCAP on the host.
error QeLevelNotReached(uint256 isvsvn);
/// @notice Intel has revoked this quoting enclave: update DCAP on the host.
error QeRevoked(uint256 isvsvn);
/// @notice A level has a status that Intel does not give to this kind of level.
error TcbStatusUnexpected(uint256 status);
/// @notice Packed levels end before or after their declared numbers say. Cannot happen with levels
/// that the collateral store packed.
error LevelsMalformed(uint256 length);

/// @title Intel's TCB levels: the first that is reached counts
/// @notice Levels are packed as `TcbInfoSource` and `QeIdentitySource` say. A level is reached when
/// every security version number is at least the level's. Revoked levels revert.
/// Source: Intel SGX PCS API v4 (TCB info, "TCB level selection"); the exclusions for TDX modules
/// are those of Intel's quote verification library, `isTdxTcbHigherOrEqual`.
library TcbLevels {
    /// @dev Every second byte, and one bit above each: sixteen numbers in lanes of 16 bits.
    uint256 private constant LANES =
        0x00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff;
    uint256 private constant ABOVE =
        0x0100010001000100010001000100010001000100010001000100010001000100;

    uint256 private constant PLATFORM_STATUSES = (1 << (TcbStatus.REVOKED + 1)) - 1;
    uint256 private constant MODULE_STATUSES =
        (1 << TcbStatus.UP_TO_DATE) | (1 << TcbStatus.OUT_OF_DATE) | (1 << TcbStatus.REVOKED);
    uint256 private constant QE_STATUSES = MODULE_STATUSES | (1 << TcbStatus.CONFIGURATION_NEEDED)
        | (1 << TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED);

    /// @dev Sizes: what precedes modules in a TCB info, what precedes levels in a QE identity,
    /// one SGX level without its tail, one TDX level likewise, the tail (pcesvn, status), and one
    /// level of a QE (isvsvn, status).
    uint256 private constant TCB_HEAD = 4;
    uint256 private constant QE_HEAD = 75;
    uint256 private constant SGX_SVNS = 16;
    uint256 private constant TDX_SVNS = 32;
    uint256 private constant TAIL = 3;
    uint256 private constant QE_LEVEL = 3;

    /// @notice The status of an SGX platform, as a bit mask.
    function sgx(bytes memory packed, bytes16 cpusvn, uint256 pcesvn)
        internal
        pure
        returns (uint256 statuses)
    {
        (uint256 at,) = _open(packed, 0, SGX_SVNS + TAIL);
        // an SGX level has no TDX numbers: whatever follows it counts as reached
        uint256 svns = uint256(bytes32(cpusvn)) | type(uint128).max;
        uint256 found = _first(at, _end(packed), SGX_SVNS, svns, pcesvn);
        if (found == 0) revert TcbLevelNotReached(cpusvn, pcesvn, 0);
        return _platform(found, cpusvn, pcesvn);
    }

    /// @notice The statuses of a TDX platform and of its TDX module, as a bit mask.
    /// @param tdxSvns TEE_TCB_SVN; its first byte is the module's SVN, its second the version.
    function tdx(bytes memory packed, bytes16 cpusvn, uint256 pcesvn, bytes16 tdxSvns)
        internal
        pure
        returns (uint256 statuses)
    {
        uint256 svns = uint256(bytes32(cpusvn)) | uint128(tdxSvns);
        uint256 version = uint8(tdxSvns[1]);
        (uint256 at, uint256 module) = _open(packed, version, TDX_SVNS + TAIL);
        if (version != 0) {
            if (module == 0) revert TdxModuleUnknown(version);
            statuses = _module(module, version, uint8(tdxSvns[0]));
            // the module was judged by its own levels: the platform's first two say nothing of it
            svns |= 0xffff << 112;
        }
        uint256 found = _first(at, _end(packed), TDX_SVNS, svns, pcesvn);
        if (found == 0) revert TcbLevelNotReached(cpusvn, pcesvn, tdxSvns);
        statuses |= _platform(found, cpusvn, pcesvn);
    }

    /// @notice The status of a quoting enclave, as a bit mask.
    function qe(bytes memory packed, uint256 isvsvn) internal pure returns (uint256 statuses) {
        uint256 end = _end(packed);
        uint256 at = _end(packed) - packed.length + QE_HEAD;
        if (at + QE_LEVEL * (_load(at - 1) >> 248) != end) revert LevelsMalformed(packed.length);
        for (; at < end; at += QE_LEVEL) {
            uint256 level = _load(at);
            if (isvsvn < level >> 240) continue;
            uint256 status = uint8(level >> 232);
            if (status == TcbStatus.REVOKED) revert QeRevoked(isvsvn);
            return _mask(status, QE_STATUSES);
        }
        revert QeLevelNotReached(isvsvn);
    }

    /// @dev Where the platform's levels start, and the identity of the module `version`, 0 where
    /// there is none. Reverts unless modules and levels fill `packed` exactly, so that what is read
    /// afterwards lies inside.
    function _open(bytes memory packed, uint256 version, uint256 size)
        private
        pure
        returns (uint256 at, uint256 module)
    {
        uint256 end = _end(packed);
        unchecked {
            // at most 255 modules of 512 bytes and 255 levels: nothing here can overflow
            at = end - packed.length;
            uint256 head = _load(at);
            at += TCB_HEAD;
            for (uint256 left = uint8(head >> 232); left != 0; --left) {
                uint256 identity = _load(at);
                if (module == 0 && identity >> 248 == version) module = at;
                at += 2 + 2 * uint256(uint8(identity >> 240));
            }
            if (at + size * uint8(head >> 224) != end) revert LevelsMalformed(packed.length);
        }
    }

    /// @dev The status of the first level reached, plus 256; 0 where none is. Both sides of each of the sixteen comparisons in a word
    /// stand in lanes of 16 bits. A lane of `have` is 0x100 plus a byte and one of the level a byte,
    /// so their difference lies in 0x001..0x1ff: no lane borrows from another, and bit 8 is set
    /// exactly where the byte of `have` is not the smaller one.
    function _first(uint256 at, uint256 end, uint256 tail, uint256 svns, uint256 pcesvn)
        private
        pure
        returns (uint256 found)
    {
        assembly ("memory-safe") {
            let even := or(and(svns, LANES), ABOVE)
            let odd := or(and(shr(8, svns), LANES), ABOVE)
            // reads from `at` to `end` only, which `_open` checked to lie inside; of a last SGX
            // level the word reaches beyond, over bytes that every platform reaches
            for {} lt(at, end) { at := add(at, add(tail, TAIL)) } {
                let level := mload(at)
                let reached :=
                    and(sub(even, and(level, LANES)), sub(odd, and(shr(8, level), LANES)))
                if eq(and(reached, ABOVE), ABOVE) {
                    let last := shr(232, mload(add(at, tail)))
                    if iszero(lt(pcesvn, shr(8, last))) {
                        found := or(0x100, and(last, 0xff))
                        break
                    }
                }
            }
        }
    }

    function _platform(uint256 found, bytes16 cpusvn, uint256 pcesvn)
        private
        pure
        returns (uint256)
    {
        uint256 status = uint8(found);
        if (status == TcbStatus.REVOKED) revert TcbRevoked(cpusvn, pcesvn);
        return _mask(status, PLATFORM_STATUSES);
    }

    function _module(uint256 at, uint256 version, uint256 isvsvn) private pure returns (uint256) {
        unchecked {
            // inside what `_open` measured
            for (uint256 left = uint8(_load(at) >> 240); left != 0; --left) {
                at += 2;
                uint256 level = _load(at);
                if (isvsvn < level >> 248) continue;
                uint256 status = uint8(level >> 240);
                if (status == TcbStatus.REVOKED) revert TdxModuleRevoked(version, isvsvn);
                return _mask(status, MODULE_STATUSES);
            }
        }
        revert TdxModuleLevelNotReached(version, isvsvn);
    }

    function _mask(uint256 status, uint256 expected) private pure returns (uint256 mask) {
        mask = 1 << status;
        if (mask & expected == 0) revert TcbStatusUnexpected(status);
    }

    function _end(bytes memory packed) private pure returns (uint256 end) {
        assembly ("memory-safe") {
            end := add(add(packed, 0x20), mload(packed))
        }
    }

    function _load(uint256 at) private pure returns (uint256 value) {
        assembly ("memory-safe") {
            value := mload(at)
        }
    }
}
