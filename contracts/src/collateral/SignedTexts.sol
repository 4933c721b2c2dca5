// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {CodeStore} from "../lib/CodeStore.sol";
import {P256} from "../lib/P256.sol";
import {CollateralTexts} from "./CollateralTexts.sol";
import {TcbSigners} from "./Sources.sol";

/// @notice The text rebuilt is not one that this key signed: the compact form was changed, the
/// signature belongs to another text, or it was made by another key.
error CollateralNotSigned(bytes32 digest);
/// @notice A newer text for the same subject is stored; submit one issued at `stored` or later.
error CollateralOlderThanStored(uint256 stored, uint256 given);
/// @notice As old as the stored text, and of an earlier TCB evaluation.
error CollateralEvaluationOlderThanStored(uint256 stored, uint256 given);
/// @notice The text was issued after this block's time.
error CollateralNotYetIssued(uint256 issueDate);
/// @notice The text's nextUpdate has come: fetch the current one from Intel's service.
error CollateralOutOfTime(uint256 nextUpdate);
/// @notice The text is of a TCB evaluation older than this store was made to take.
error TcbEvaluationBelowMinimum(uint256 minimum, uint256 given);
/// @notice More root revocations than a record can tell apart; a new store is needed.
error GenerationUnrecordable(uint256 generation);

/// @title Texts signed by Intel's TCB signing key, and how long they count
/// @notice Anyone may submit a text; only its signature and its dates decide. A stored text is
/// replaced by one that was issued later, never by one issued earlier.
abstract contract SignedTexts is TcbSigners {
    /// @dev One storage slot. `packed` is where the content is kept as code, zero for no record.
    struct Record {
        address packed;
        uint32 issueDate;
        uint32 expiry;
        uint16 tcbEvaluationDataNumber;
        uint16 generation;
    }

    /// @param x,y The TCB signing key.
    struct Signature {
        uint256 r;
        uint256 s;
        uint256 x;
        uint256 y;
    }

    /// @param current True when a quote's verification would use this now.
    /// @param packed The content, in the layout of `TcbInfoSource` or `QeIdentitySource`.
    struct Stored {
        uint32 issueDate;
        uint32 expiry;
        uint16 tcbEvaluationDataNumber;
        bool current;
        bytes packed;
    }

    /// @notice What reads compact collateral for this store.
    CollateralTexts public immutable texts;
    /// @notice Texts of a TCB evaluation below this one are not taken.
    uint16 public immutable minTcbEvaluationDataNumber;

    constructor(uint16 minTcbEvaluationDataNumber_) {
        texts = new CollateralTexts();
        minTcbEvaluationDataNumber = minTcbEvaluationDataNumber_;
    }

    /// @dev The record of a text that is signed and current, its content written; reverts where the
    /// text may not replace `stored`.
    function _record(
        Record memory stored,
        CollateralTexts.Content memory content,
        Signature memory signature
    ) internal returns (Record memory made) {
        made.expiry = _signed(content, signature);
        made.issueDate = content.issueDate;
        made.tcbEvaluationDataNumber = content.tcbEvaluationDataNumber;
        _requireCurrent(made, content.nextUpdate);
        _requireNoRollback(stored, made);
        uint32 generation = _generation();
        if (generation > type(uint16).max) revert GenerationUnrecordable(generation);
        made.generation = uint16(generation);
        made.packed = CodeStore.write(content.packed);
    }

    function _requireCurrent(Record memory made, uint256 nextUpdate) private view {
        if (made.issueDate > block.timestamp) revert CollateralNotYetIssued(made.issueDate);
        if (nextUpdate <= block.timestamp) revert CollateralOutOfTime(nextUpdate);
        if (made.tcbEvaluationDataNumber < minTcbEvaluationDataNumber) {
            revert TcbEvaluationBelowMinimum(
                minTcbEvaluationDataNumber, made.tcbEvaluationDataNumber
            );
        }
    }

    function _requireNoRollback(Record memory stored, Record memory made) private pure {
        if (made.issueDate < stored.issueDate) {
            revert CollateralOlderThanStored(stored.issueDate, made.issueDate);
        }
        if (
            made.issueDate == stored.issueDate
                && made.tcbEvaluationDataNumber < stored.tcbEvaluationDataNumber
        ) {
            revert CollateralEvaluationOlderThanStored(
                stored.tcbEvaluationDataNumber, made.tcbEvaluationDataNumber
            );
        }
    }

    /// @dev What is stored, whether it counts or not; all zero where nothing is.
    function _stored(Record memory record) internal view returns (Stored memory stored) {
        if (record.packed == address(0)) return stored;
        stored.issueDate = record.issueDate;
        stored.expiry = record.expiry;
        stored.tcbEvaluationDataNumber = record.tcbEvaluationDataNumber;
        stored.current = block.timestamp <= record.expiry && record.generation == _generation();
        stored.packed = CodeStore.read(record.packed);
    }

    /// @dev Until when a text that this key signed counts: its own end or that of the key's chain.
    function _signed(CollateralTexts.Content memory content, Signature memory signature)
        private
        view
        returns (uint32)
    {
        uint64 chain = _requireTcbSigner(signature.x, signature.y);
        bool ok = P256.verify(
            _p256Verifier(), content.digest, signature.r, signature.s, signature.x, signature.y
        );
        if (!ok) revert CollateralNotSigned(content.digest);
        return chain < content.nextUpdate ? uint32(chain) : content.nextUpdate;
    }

    /// @dev The precompile, or the contract in its place, that checks P-256 signatures.
    function _p256Verifier() internal view virtual returns (address);
}
