// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {CodeStore} from "../lib/CodeStore.sol";
import {CollateralTexts} from "./CollateralTexts.sol";
import {SignedTexts} from "./SignedTexts.sol";
import {TcbInfoSource} from "./Sources.sol";

/// @notice No TCB info is stored for this platform family: submit it with `updateTcbInfo`.
error TcbInfoMissing(bytes6 fmspc, bool tdx);
/// @notice The stored TCB info, or the chain of the key that signed it, has ended: submit Intel's
/// current one with `updateTcbInfo`. Anyone may.
error TcbInfoExpired(bytes6 fmspc, bool tdx, uint256 expiry);
/// @notice Intel's root has revoked something since this TCB info was stored: submit it again with
/// `updateTcbInfo`, signed by a key that is still good. Anyone may.
error TcbInfoOfEarlierGeneration(bytes6 fmspc, bool tdx, uint256 generation);

/// @title TCB levels of every platform family, as Intel signed them
abstract contract TcbInfos is SignedTexts, TcbInfoSource {
    /// @notice A TCB info was stored; it counts until `expiry` (Unix seconds).
    event TcbInfoUpdated(
        bytes6 indexed fmspc,
        bool indexed tdx,
        uint32 issueDate,
        uint32 expiry,
        uint16 tcbEvaluationDataNumber
    );

    mapping(bytes32 family => Record) private _tcbInfos;

    /// @notice Stores the TCB info whose text, rebuilt from `compact`, the key (x, y) signed.
    /// @param compact See `TcbInfoText`.
    /// @param r,s The signature over the text's SHA-256.
    /// @param x,y The key of a TCB signing certificate stored before.
    function updateTcbInfo(bytes calldata compact, uint256 r, uint256 s, uint256 x, uint256 y)
        external
    {
        CollateralTexts.Content memory info = texts.tcbInfo(compact);
        bytes32 family = _family(info.fmspc, info.tdx);
        Record memory made = _record(_tcbInfos[family], info, Signature(r, s, x, y));
        _tcbInfos[family] = made;
        emit TcbInfoUpdated(
            info.fmspc, info.tdx, made.issueDate, made.expiry, made.tcbEvaluationDataNumber
        );
    }

    /// @notice What is stored for a family, whether it counts or not.
    function tcbInfoOf(bytes6 fmspc, bool tdx) external view returns (Stored memory) {
        return _stored(_tcbInfos[_family(fmspc, tdx)]);
    }

    /// @inheritdoc TcbInfoSource
    function _tcbInfo(bytes6 fmspc, bool tdx)
        internal
        view
        override
        returns (bytes memory packed, uint64 expiry, uint16 tcbEvaluationDataNumber)
    {
        Record memory record = _tcbInfos[_family(fmspc, tdx)];
        if (record.packed == address(0)) revert TcbInfoMissing(fmspc, tdx);
        if (block.timestamp > record.expiry) revert TcbInfoExpired(fmspc, tdx, record.expiry);
        if (record.generation != _generation()) {
            revert TcbInfoOfEarlierGeneration(fmspc, tdx, record.generation);
        }
        return (CodeStore.read(record.packed), record.expiry, record.tcbEvaluationDataNumber);
    }

    /// @dev The family and, in the last byte, the technology.
    function _family(bytes6 fmspc, bool tdx) private pure returns (bytes32) {
        return bytes32(fmspc) | bytes32(uint256(tdx ? 1 : 0));
    }
}
