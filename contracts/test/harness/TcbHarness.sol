// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {QeIdentities} from "../../src/collateral/QeIdentities.sol";
import {SignedTexts} from "../../src/collateral/SignedTexts.sol";
import {TcbInfos} from "../../src/collateral/TcbInfos.sol";
import {QeIdentityText} from "../../src/lib/QeIdentityText.sol";
import {TcbInfoText} from "../../src/lib/TcbInfoText.sol";

/// @notice The key is not the one the harness was told to trust.
error SignerNotTrusted(uint256 x, uint256 y);

/// @title TCB infos and QE identities under one key that the test trusts
contract TcbHarness is TcbInfos, QeIdentities {
    uint256 private _x;
    uint256 private _y;
    uint64 private _expiry;
    uint32 private _current = 1;

    address private immutable _p256;

    constructor(address p256, uint16 minimum) SignedTexts(minimum) {
        _p256 = p256;
    }

    function trust(uint256 x, uint256 y, uint64 expiry) external {
        (_x, _y, _expiry) = (x, y, expiry);
    }

    function setGeneration(uint32 generation) external {
        _current = generation;
    }

    /// @notice What a verifier of quotes is given.
    function tcbInfo(bytes6 fmspc, bool tdx) external view returns (bytes memory, uint64, uint16) {
        return _tcbInfo(fmspc, tdx);
    }

    /// @notice What a verifier of quotes is given.
    function qeIdentity(bool tdx) external view returns (bytes memory, uint64, uint16) {
        return _qeIdentity(tdx);
    }

    /// @notice What reading costs, all else left out.
    function tcbInfoGas(bytes6 fmspc, bool tdx) external view returns (uint256 used) {
        used = gasleft();
        _tcbInfo(fmspc, tdx);
        used -= gasleft();
    }

    function _generation() internal view override returns (uint32) {
        return _current;
    }

    function _requireTcbSigner(uint256 x, uint256 y) internal view override returns (uint64) {
        if (x != _x || y != _y) revert SignerNotTrusted(x, y);
        return _expiry;
    }

    function _p256Verifier() internal view override returns (address) {
        return _p256;
    }
}

/// @title The texts themselves
contract TextHarness {
    function tcbInfoText(bytes calldata compact)
        external
        pure
        returns (string memory, bytes memory)
    {
        TcbInfoText.TcbInfo memory info = TcbInfoText.rebuild(compact);
        return (string(info.text), info.packed);
    }

    function qeIdentityText(bytes calldata compact)
        external
        pure
        returns (string memory, bytes memory)
    {
        QeIdentityText.QeIdentity memory identity = QeIdentityText.rebuild(compact);
        return (string(identity.text), identity.packed);
    }
}
