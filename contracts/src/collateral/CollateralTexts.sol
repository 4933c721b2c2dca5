// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {QeIdentityText} from "../lib/QeIdentityText.sol";
import {Sha256} from "../lib/Sha256.sol";
import {TcbInfoText} from "../lib/TcbInfoText.sol";

/// @title What compact collateral says, and the digest of the text that Intel signs to say it
/// @notice A contract of its own only because no contract may have more than 24,576 bytes of code:
/// it keeps nothing and trusts nothing. Each store creates one.
contract CollateralTexts {
    /// @param digest SHA-256 of the text, which is what is signed.
    /// @param fmspc Zero for a QE identity.
    /// @param packed In the layout of `TcbInfoSource` or `QeIdentitySource`.
    struct Content {
        bytes32 digest;
        bytes6 fmspc;
        bool tdx;
        uint32 issueDate;
        uint32 nextUpdate;
        uint16 tcbEvaluationDataNumber;
        bytes packed;
    }

    /// @notice The content of a TCB info; reverts where the compact form is not one.
    /// @param compact See `TcbInfoText`.
    function tcbInfo(bytes calldata compact) external view returns (Content memory content) {
        TcbInfoText.TcbInfo memory info = TcbInfoText.rebuild(compact);
        content.digest = _digest(info.text);
        content.fmspc = info.fmspc;
        content.tdx = info.tdx;
        content.issueDate = info.issueDate;
        content.nextUpdate = info.nextUpdate;
        content.tcbEvaluationDataNumber = info.tcbEvaluationDataNumber;
        content.packed = info.packed;
    }

    /// @notice The content of a quoting enclave's identity; reverts where the compact form is none.
    /// @param compact See `QeIdentityText`.
    function qeIdentity(bytes calldata compact) external view returns (Content memory content) {
        QeIdentityText.QeIdentity memory identity = QeIdentityText.rebuild(compact);
        content.digest = _digest(identity.text);
        content.tdx = identity.tdx;
        content.issueDate = identity.issueDate;
        content.nextUpdate = identity.nextUpdate;
        content.tcbEvaluationDataNumber = identity.tcbEvaluationDataNumber;
        content.packed = identity.packed;
    }

    function _digest(bytes memory text) private view returns (bytes32) {
        uint256 characters;
        assembly ("memory-safe") {
            characters := add(text, 0x20)
        }
        return Sha256.ofMemory(characters, text.length);
    }
}
