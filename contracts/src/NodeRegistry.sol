// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IMeasurementPolicy} from "./interfaces/IMeasurementPolicy.sol";
import {IQuoteVerifier, Verdict} from "./interfaces/IQuoteVerifier.sol";
import {ReceiptVerifier} from "./ReceiptVerifier.sol";
import {Keyset} from "./lib/Keyset.sol";
import {QuoteLayout} from "./lib/QuoteLayout.sol";
import {RecentBlock} from "./lib/RecentBlock.sol";
import {Sha256} from "./lib/Sha256.sol";
import {Statement} from "./lib/Statement.sol";

/// @notice No contract stands at the quote verifier's address.
error QuoteVerifierMissing(address verifier);

/// @notice The quote was not made for this keyset, this contract on this chain and this block.
/// Ask the node for a quote over `registrationNonce` of the block.
error ReportDataMismatch(bytes32 expected, bytes32 actual);

/// @notice The second half of the report data is not zero.
error ReportDataPadding(bytes32 actual);

/// @notice The evidence ran out at this time (Unix seconds): submit newer collateral.
error EvidenceExpired(uint256 expiry);

/// @notice The node's keys ended at this time (Unix seconds): register its present ones.
error KeysetExpired(uint256 notAfter);

/// @notice No contract stands at the policy's address: nothing would say which code may hold a key.
error PolicyMissing(address policy);

/// @notice What stands at the policy's address does not answer as a policy does.
error PolicyAnswerInvalid(address policy);

/// @title Keys that are proved to live in approved, genuine enclaves
/// @notice Anyone may register any node: only the proof counts, and who submits it gains nothing.
/// What is remembered is kept per policy, so each consumer sees the nodes of the policy it trusts.
contract NodeRegistry is ReceiptVerifier {
    /// @notice Checks quotes, and keeps the collateral to do so.
    IQuoteVerifier public immutable quotes;

    /// @notice A node was registered, or its registration renewed.
    /// @param keysetDigest SHA-256 of the keyset: receipts name it.
    /// @param expiry Unix seconds: when the record ends.
    /// @param statuses,tcbEvaluationDataNumber What verification found; see `Verdict`.
    event NodeRegistered(
        address indexed signer,
        address indexed policy,
        bytes32 indexed keysetDigest,
        uint64 expiry,
        uint16 statuses,
        uint16 tcbEvaluationDataNumber
    );

    constructor(IQuoteVerifier quotes_) {
        if (address(quotes_).code.length == 0) revert QuoteVerifierMissing(address(quotes_));
        quotes = quotes_;
    }

    /// @notice Records that `signer` is held by code that `policy` allows, on a genuine platform,
    /// until the first of its collateral or its keyset expires. The quote must be bound to the
    /// keyset and to a block of the last 8,191, so it cannot be replayed to another chain or
    /// contract, nor kept for later.
    /// @param quote Compact, as in `QuoteLayout`.
    /// @param platform See `IQuoteVerifier`.
    /// @param keyset The keyset's exact canonical JSON.
    /// @param hints Where in it the key and its end stand; see `Keyset`.
    /// @param blockNumber The block that the quote's nonce is made from; see `registrationNonce`.
    /// @param policy Decides which measurements and TCB statuses are acceptable.
    /// @return signer The address whose receipts count from now on.
    function register(
        bytes calldata quote,
        bytes calldata platform,
        bytes calldata keyset,
        uint256 hints,
        uint256 blockNumber,
        IMeasurementPolicy policy
    ) external returns (address signer) {
        Verdict memory verdict = quotes.verifyQuote(quote, platform);
        bytes calldata body = _body(quote);
        bytes32 digest = Sha256.ofCalldata(keyset);
        _requireReportData(body, Statement.hash(digest, registrationNonce(blockNumber)));
        uint256 notAfter;
        (signer, notAfter) = Keyset.read(keyset, hints);
        if (verdict.expiry <= block.timestamp) revert EvidenceExpired(verdict.expiry);
        if (notAfter <= block.timestamp) revert KeysetExpired(notAfter);
        uint64 expiry = notAfter < verdict.expiry ? uint64(notAfter) : verdict.expiry;
        _requireAllowed(policy, body, verdict);
        expiry = _renew(signer, address(policy), expiry, blockNumber);
        emit NodeRegistered(
            signer,
            address(policy),
            digest,
            expiry,
            verdict.statuses,
            verdict.tcbEvaluationDataNumber
        );
    }

    /// @notice The nonce of a statement for a registration here, bound to a recent block: SHA-256
    /// of "adyton.register.v1", the chain's id (32 bytes), this contract's address (20), the
    /// block's number (32) and its hash (32).
    function registrationNonce(uint256 blockNumber) public view returns (bytes32) {
        return sha256(
            abi.encodePacked(
                "adyton.register.v1",
                block.chainid,
                address(this),
                blockNumber,
                RecentBlock.hashOf(blockNumber)
            )
        );
    }

    function _body(bytes calldata quote) private pure returns (bytes calldata) {
        (uint256 start, uint256 end) = QuoteLayout.body(quote);
        return quote[start:end];
    }

    function _requireReportData(bytes calldata body, bytes32 expected) private pure {
        uint256 at = body.length == QuoteLayout.SGX_BODY ? 320 : 520;
        bytes32 actual = bytes32(body[at:at + 32]);
        if (actual != expected) revert ReportDataMismatch(expected, actual);
        bytes32 padding = bytes32(body[at + 32:at + 64]);
        if (padding != 0) revert ReportDataPadding(padding);
    }

    /// @dev The policy's own error passes through. A contract that answers to anything, with
    /// nothing or with something else, is not a policy.
    function _requireAllowed(IMeasurementPolicy policy, bytes calldata body, Verdict memory verdict)
        private
        view
    {
        if (address(policy).code.length == 0) revert PolicyMissing(address(policy));
        bytes memory question = abi.encodeCall(IMeasurementPolicy.requireAllowed, (body, verdict));
        bytes32 answer;
        // Reads the call just encoded, and has one word answered to scratch space; a refusal is
        // copied behind the free memory pointer. Any other length leaves `answer` zero.
        assembly ("memory-safe") {
            if iszero(staticcall(gas(), policy, add(question, 0x20), mload(question), 0, 0x20)) {
                let p := mload(0x40)
                returndatacopy(p, 0, returndatasize())
                revert(p, returndatasize())
            }
            if eq(returndatasize(), 0x20) { answer := mload(0) }
        }
        if (answer != bytes32(IMeasurementPolicy.requireAllowed.selector)) {
            revert PolicyAnswerInvalid(address(policy));
        }
    }
}
