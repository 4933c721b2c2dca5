// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {CodeStore} from "../lib/CodeStore.sol";
import {CollateralTexts} from "./CollateralTexts.sol";
import {SignedTexts} from "./SignedTexts.sol";
import {QeIdentitySource} from "./Sources.sol";

/// @notice No identity of the quoting enclave is stored: submit it with `updateQeIdentity`.
error QeIdentityMissing(bool tdx);
/// @notice The stored identity, or the chain of the key that signed it, has ended: submit Intel's
/// current one with `updateQeIdentity`. Anyone may.
error QeIdentityExpired(bool tdx, uint256 expiry);
/// @notice Intel's root has revoked something since this identity was stored: submit it again with
/// `updateQeIdentity`, signed by a key that is still good. Anyone may.
error QeIdentityOfEarlierGeneration(bool tdx, uint256 generation);

/// @title The identities of Intel's quoting enclaves, as Intel signed them
abstract contract QeIdentities is SignedTexts, QeIdentitySource {
    /// @notice An identity was stored; it counts until `expiry` (Unix seconds).
    event QeIdentityUpdated(
        bool indexed tdx, uint32 issueDate, uint32 expiry, uint16 tcbEvaluationDataNumber
    );

    mapping(bool tdx => Record) private _qeIdentities;

    /// @notice Stores the identity whose text, rebuilt from `compact`, the key (x, y) signed.
    /// @param compact See `QeIdentityText`.
    /// @param r,s The signature over the text's SHA-256.
    /// @param x,y The key of a TCB signing certificate stored before.
    function updateQeIdentity(bytes calldata compact, uint256 r, uint256 s, uint256 x, uint256 y)
        external
    {
        CollateralTexts.Content memory identity = texts.qeIdentity(compact);
        Record memory made = _record(_qeIdentities[identity.tdx], identity, Signature(r, s, x, y));
        _qeIdentities[identity.tdx] = made;
        emit QeIdentityUpdated(
            identity.tdx, made.issueDate, made.expiry, made.tcbEvaluationDataNumber
        );
    }

    /// @notice What is stored of the QE (`tdx` false) or TDQE, whether it counts or not.
    function qeIdentityOf(bool tdx) external view returns (Stored memory) {
        return _stored(_qeIdentities[tdx]);
    }

    /// @inheritdoc QeIdentitySource
    function _qeIdentity(bool tdx)
        internal
        view
        override
        returns (bytes memory packed, uint64 expiry, uint16 tcbEvaluationDataNumber)
    {
        Record memory record = _qeIdentities[tdx];
        if (record.packed == address(0)) revert QeIdentityMissing(tdx);
        if (block.timestamp > record.expiry) revert QeIdentityExpired(tdx, record.expiry);
        if (record.generation != _generation()) {
            revert QeIdentityOfEarlierGeneration(tdx, record.generation);
        }
        return (CodeStore.read(record.packed), record.expiry, record.tcbEvaluationDataNumber);
    }
}
