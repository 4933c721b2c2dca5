// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {TcbStatus} from "../src/TcbStatus.sol";
import {
    LevelsMalformed,
    QeLevelNotReached,
    QeRevoked,
    TcbLevelNotReached,
    TcbLevels,
    TcbRevoked,
    TcbStatusUnexpected,
    TdxModuleLevelNotReached,
    TdxModuleRevoked,
    TdxModuleUnknown
} from "../src/lib/TcbLevels.sol";
import {Test} from "./Test.sol";

/// @notice Levels judged by loops over single bytes, as the specification reads.
/// @dev Every function returns a mask, or the selector of the error that is due.
abstract contract NaiveLevels {
    struct Level {
        uint8[16] sgx;
        uint8[16] tdx;
        uint16 pcesvn;
        uint8 status;
    }

    struct Module {
        uint8 version;
        uint8[] isvsvn;
        uint8[] status;
    }

    uint256 internal constant ANY = 0x7f;

    function _judged(uint8 status, uint256 expected, bytes4 revoked)
        internal
        pure
        returns (uint256 mask, bytes4 refusal)
    {
        if (status == TcbStatus.REVOKED) return (0, revoked);
        if (status > 6 || (expected >> status) & 1 == 0) {
            return (0, TcbStatusUnexpected.selector);
        }
        return (1 << status, 0);
    }

    function _reached(
        Level memory level,
        uint8[16] memory sgx,
        uint8[16] memory tdx,
        uint256 from,
        uint16 pcesvn
    ) internal pure returns (bool) {
        for (uint256 i = 0; i < 16; i++) {
            if (sgx[i] < level.sgx[i]) return false;
        }
        for (uint256 i = from; i < 16; i++) {
            if (tdx[i] < level.tdx[i]) return false;
        }
        return pcesvn >= level.pcesvn;
    }

    function _naivePlatform(
        Level[] memory levels,
        uint8[16] memory sgx,
        uint8[16] memory tdx,
        uint256 from,
        uint16 pcesvn
    ) internal pure returns (uint256, bytes4) {
        for (uint256 i = 0; i < levels.length; i++) {
            if (_reached(levels[i], sgx, tdx, from, pcesvn)) {
                return _judged(levels[i].status, ANY, TcbRevoked.selector);
            }
        }
        return (0, TcbLevelNotReached.selector);
    }

    function _naiveModule(Module[] memory modules, uint8 version, uint8 isvsvn)
        internal
        pure
        returns (uint256, bytes4)
    {
        for (uint256 m = 0; m < modules.length; m++) {
            if (modules[m].version != version) continue;
            for (uint256 i = 0; i < modules[m].isvsvn.length; i++) {
                if (isvsvn < modules[m].isvsvn[i]) continue;
                // up to date, out of date, revoked
                return _judged(modules[m].status[i], 0x51, TdxModuleRevoked.selector);
            }
            return (0, TdxModuleLevelNotReached.selector);
        }
        return (0, TdxModuleUnknown.selector);
    }
}

/// @notice The packed layout of `TcbInfoSource`, written from the model's values.
abstract contract PackedLevels is NaiveLevels {
    function _pack(uint8[16] memory svns) internal pure returns (bytes memory packed) {
        for (uint256 i = 0; i < 16; i++) {
            packed = abi.encodePacked(packed, svns[i]);
        }
    }

    function _pack(Module[] memory modules, Level[] memory levels, bool tdx)
        internal
        pure
        returns (bytes memory packed)
    {
        packed = abi.encodePacked(bytes2(0), uint8(modules.length), uint8(levels.length));
        for (uint256 i = 0; i < modules.length; i++) {
            Module memory m = modules[i];
            packed = abi.encodePacked(packed, m.version, uint8(m.isvsvn.length));
            for (uint256 j = 0; j < m.isvsvn.length; j++) {
                packed = abi.encodePacked(packed, m.isvsvn[j], m.status[j]);
            }
        }
        for (uint256 i = 0; i < levels.length; i++) {
            bytes memory svns = _pack(levels[i].sgx);
            if (tdx) svns = bytes.concat(svns, _pack(levels[i].tdx));
            packed = abi.encodePacked(packed, svns, levels[i].pcesvn, levels[i].status);
        }
    }
}

contract TcbLevelsTest is Test, PackedLevels {
    uint256 private _state;

    function sgx(bytes memory packed, bytes16 cpusvn, uint256 pcesvn)
        external
        pure
        returns (uint256)
    {
        return TcbLevels.sgx(packed, cpusvn, pcesvn);
    }

    function tdx(bytes memory packed, bytes16 cpusvn, uint256 pcesvn, bytes16 svns)
        external
        pure
        returns (uint256)
    {
        return TcbLevels.tdx(packed, cpusvn, pcesvn, svns);
    }

    function qe(bytes memory packed, uint256 isvsvn) external pure returns (uint256) {
        return TcbLevels.qe(packed, isvsvn);
    }

    /// @dev All levels lie near the platform, so that each number decides now and then.
    function testFuzz_TdxLevelsAreThoseOfTheNaiveModel(uint256 seed) external {
        _state = seed;
        (Level memory platform, Level[] memory levels, Module[] memory modules) = _cases();
        uint8 version = platform.tdx[1];
        (uint256 mask, bytes4 refusal) = _expectedTdx(platform, levels, modules, version);
        bytes memory call = abi.encodeCall(
            this.tdx,
            (
                _pack(modules, levels, true),
                bytes16(_pack(platform.sgx)),
                platform.pcesvn,
                bytes16(_pack(platform.tdx))
            )
        );
        _compare(call, mask, refusal);
    }

    function testFuzz_SgxLevelsAreThoseOfTheNaiveModel(uint256 seed) external {
        _state = seed;
        (Level memory platform, Level[] memory levels,) = _cases();
        (uint256 mask, bytes4 refusal) =
            _naivePlatform(levels, platform.sgx, platform.tdx, 16, platform.pcesvn);
        bytes memory packed = _pack(new Module[](0), levels, false);
        bytes16 cpusvn = bytes16(_pack(platform.sgx));
        _compare(abi.encodeCall(this.sgx, (packed, cpusvn, platform.pcesvn)), mask, refusal);
    }

    /// @dev Two arbitrary vectors: the lanes against sixteen comparisons, nothing else.
    function testFuzz_LanesCompareBytes(bytes16 have, bytes16 want) external {
        bool reached = true;
        for (uint256 i = 0; i < 16; i++) {
            if (uint8(have[i]) < uint8(want[i])) reached = false;
        }
        bytes memory packed = abi.encodePacked(bytes2(0), uint8(0), uint8(1), want, bytes3(0));
        bytes4 refusal = reached ? bytes4(0) : TcbLevelNotReached.selector;
        _compare(abi.encodeCall(this.sgx, (packed, have, 0)), 1, refusal);
    }

    /// @dev One number out of reach, everything else at its extremes: no lane helps another.
    function testFuzz_OneComponentDecides(uint256 at, uint8 have) external {
        at = bound(at, 0, 31);
        have = uint8(bound(have, 0, 254));
        bytes memory level = new bytes(32);
        bytes memory platform = new bytes(32);
        for (uint256 i = 0; i < 32; i++) {
            (level[i], platform[i]) = (bytes1(uint8(i % 2 == 0 ? 255 : 0)), 0xff);
        }
        platform[17] = 0; // a module without version: all components count
        level[17] = 0;
        if (at == 17) at = 16;
        (platform[at], level[at]) = (bytes1(have), bytes1(have + 1));
        bytes memory packed = abi.encodePacked(bytes2(0), uint8(0), uint8(1), level, bytes3(0));
        bytes16 cpusvn = bytes16(platform);
        bytes16 svns = bytes16(bytes32(platform) << 128);
        bytes memory call = abi.encodeCall(this.tdx, (packed, cpusvn, 0, svns));
        _compare(call, 0, TcbLevelNotReached.selector);
        level[at] = bytes1(have);
        packed = abi.encodePacked(bytes2(0), uint8(0), uint8(1), level, bytes3(0));
        _compare(abi.encodeCall(this.tdx, (packed, cpusvn, 0, svns)), 1, 0);
    }

    function testFuzz_QeLevelsAreThoseOfTheNaiveModel(
        uint16[4] calldata svns,
        uint8[4] calldata statuses,
        uint16 isvsvn,
        uint256 count
    ) external {
        count = bound(count, 0, 4);
        bytes memory packed = abi.encodePacked(new bytes(74), uint8(count));
        (uint256 mask, bytes4 refusal) = (0, QeLevelNotReached.selector);
        for (uint256 i = count; i > 0; i--) {
            uint8 status = statuses[i - 1] % 9;
            if (isvsvn < svns[i - 1]) continue;
            (mask, refusal) = _judged(status, 0x75, QeRevoked.selector);
        }
        for (uint256 i = 0; i < count; i++) {
            packed = abi.encodePacked(packed, svns[i], statuses[i] % 9);
        }
        _compare(abi.encodeCall(this.qe, (packed, isvsvn)), mask, refusal);
    }

    /// @dev Whatever the declared numbers, nothing outside the packed bytes is ever judged.
    function testFuzz_ArbitraryBytesNeverPassUnmeasured(bytes calldata packed, bool tdx_) external {
        bytes memory call = tdx_
            ? abi.encodeCall(this.tdx, (packed, bytes16(type(uint128).max), 65535, bytes16(0)))
            : abi.encodeCall(this.sgx, (packed, bytes16(type(uint128).max), 65535));
        (bool ok, bytes memory data) = address(this).call(call);
        if (_measured(packed, tdx_ ? 35 : 19)) return;
        vm.assertFalse(ok);
        vm.assertEq(bytes32(bytes4(data)), bytes32(LevelsMalformed.selector));
    }

    function testFuzz_PackedMustBeMeasuredExactly(uint256 seed, uint256 cut, bytes3 more) external {
        _state = seed;
        (, Level[] memory levels, Module[] memory modules) = _cases();
        bytes memory packed = _pack(modules, levels, true);
        bytes memory longer = abi.encodePacked(packed, more);
        cut = bound(cut, 1, packed.length - 4);
        assembly ("memory-safe") {
            mstore(packed, sub(mload(packed), cut))
        }
        _compare(abi.encodeCall(this.tdx, (packed, 0, 0, 0)), 0, LevelsMalformed.selector);
        _compare(abi.encodeCall(this.tdx, (longer, 0, 0, 0)), 0, LevelsMalformed.selector);
    }

    function _expectedTdx(
        Level memory platform,
        Level[] memory levels,
        Module[] memory modules,
        uint8 version
    ) private pure returns (uint256 mask, bytes4 refusal) {
        if (version != 0) {
            (mask, refusal) = _naiveModule(modules, version, platform.tdx[0]);
            if (refusal != 0) return (0, refusal);
        }
        uint256 from = version == 0 ? 0 : 2;
        (uint256 more, bytes4 late) =
            _naivePlatform(levels, platform.sgx, platform.tdx, from, platform.pcesvn);
        return (mask | more, late);
    }

    function _compare(bytes memory call, uint256 mask, bytes4 refusal) private {
        (bool ok, bytes memory data) = address(this).call(call);
        vm.assertEq(ok, refusal == 0);
        if (ok) vm.assertEq(abi.decode(data, (uint256)), mask);
        else vm.assertEq(bytes32(bytes4(data)), bytes32(refusal));
    }

    function _measured(bytes calldata packed, uint256 size) private pure returns (bool) {
        if (packed.length < 4) return false;
        uint256 at = 4;
        for (uint256 i = 0; i < uint8(packed[2]); i++) {
            if (at + 2 > packed.length) return false;
            at += 2 + 2 * uint256(uint8(packed[at + 1]));
        }
        return at + size * uint8(packed[3]) == packed.length;
    }

    function _cases()
        private
        returns (Level memory platform, Level[] memory levels, Module[] memory modules)
    {
        platform.pcesvn = uint16(_draw(4));
        for (uint256 i = 0; i < 16; i++) {
            platform.sgx[i] = _near(7);
            platform.tdx[i] = _near(7);
        }
        platform.tdx[1] = uint8(_draw(3));
        levels = new Level[](1 + _draw(6));
        for (uint256 i = 0; i < levels.length; i++) {
            levels[i] = _levelNear(platform);
        }
        modules = new Module[](_draw(4));
        for (uint256 i = 0; i < modules.length; i++) {
            uint256 count = _draw(4);
            modules[i] = Module(uint8(_draw(4)), new uint8[](count), new uint8[](count));
            for (uint256 j = 0; j < count; j++) {
                modules[i].isvsvn[j] = _near(platform.tdx[0]);
                modules[i].status[j] = uint8(_draw(8));
            }
        }
    }

    function _levelNear(Level memory platform) private returns (Level memory level) {
        for (uint256 i = 0; i < 16; i++) {
            (level.sgx[i], level.tdx[i]) = (platform.sgx[i], platform.tdx[i]);
        }
        for (uint256 changes = _draw(3); changes > 0; changes--) {
            // the module's own two numbers more often than others: not always do they count
            uint256 at = _draw(40);
            if (at < 16) level.sgx[at] = _near(level.sgx[at]);
            else if (at < 32) level.tdx[at - 16] = _near(level.tdx[at - 16]);
            else level.tdx[at % 2] = _near(level.tdx[at % 2]);
        }
        uint256 pcesvn = platform.pcesvn + _draw(3);
        level.pcesvn = uint16(pcesvn == 0 ? 0 : pcesvn - 1);
        level.status = uint8(_draw(9));
    }

    /// @dev One more, one less, the same, or one of the extremes.
    function _near(uint8 value) private returns (uint8) {
        uint256 how = _draw(6);
        unchecked {
            if (how == 0) return value + 1;
            if (how == 1) return value - 1;
        }
        return how == 2 ? 0 : how == 3 ? 255 : value;
    }

    function _draw(uint256 below) private returns (uint256) {
        _state = uint256(keccak256(abi.encode(_state)));
        return _state % below;
    }
}
