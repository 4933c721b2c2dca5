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

/// @notice The quote verifier does not answer as one does: the registry was deployed with
/// something else, and can register nothing.
error QuoteVerifierAnswerInvalid(address verifier);

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
    uint256 private constant SGX_REPORT_DATA = 320;
    uint256 private constant TD_REPORT_DATA = 520;

    /// @notice Checks quotes, and keeps the collateral to do so.
    IQuoteVerifier public immutable quotes;

    /// @notice A node was registered, or its registration renewed.
    /// @param keysetDigest SHA-256 of the keyset: receipts name it.
    /// @param facts When the record ends (Unix seconds, the low 64 bits), and what verification
    /// found: the statuses (16 bits above it) and the tcbEvaluationDataNumber (16 above those).
    event NodeRegistered(
        address indexed signer, address indexed policy, bytes32 indexed keysetDigest, uint256 facts
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
        Verdict memory verdict = _verdict(quote, platform);
        bytes calldata body = _body(quote);
        bytes32 digest = Sha256.ofCalldata(keyset);
        _requireReportData(body, Statement.hash(digest, registrationNonce(blockNumber)));
        uint256 expiry;
        (signer, expiry) = Keyset.read(keyset, hints);
        if (expiry <= block.timestamp) revert KeysetExpired(expiry);
        if (verdict.expiry <= block.timestamp) revert EvidenceExpired(verdict.expiry);
        if (verdict.expiry < expiry) expiry = verdict.expiry;
        _requireAllowed(policy, body, verdict);
        expiry = _renew(signer, address(policy), uint64(expiry), blockNumber);
        uint256 facts = uint256(verdict.tcbEvaluationDataNumber) << 80 | uint256(verdict.statuses)
            << 64 | expiry;
        emit NodeRegistered(signer, address(policy), digest, facts);
    }

    /// @notice The nonce of a statement for a registration here, bound to a recent block: SHA-256
    /// of "adyton.register.v1", the chain's id (32 bytes), this contract's address (20), the
    /// block's number (32) and its hash (32).
    function registrationNonce(uint256 blockNumber) public view returns (bytes32) {
        bytes32 blockHash = RecentBlock.hashOf(blockNumber);
        uint256 p;
        // 134 bytes behind the free memory pointer, where nothing is kept.
        assembly ("memory-safe") {
            p := mload(0x40)
            mstore(p, "adyton.register.v1")
            mstore(add(p, 18), chainid())
            mstore(add(p, 50), shl(96, address()))
            mstore(add(p, 70), blockNumber)
            mstore(add(p, 102), blockHash)
        }
        return Sha256.ofMemory(p, 134);
    }

    /// @dev `quotes.verifyQuote(quote, platform)`; its errors pass through.
    function _verdict(bytes calldata quote, bytes calldata platform)
        private
        returns (Verdict memory verdict)
    {
        address verifier = address(quotes);
        bytes4 selector = IQuoteVerifier.verifyQuote.selector;
        bool sound;
        // The call is written behind the free memory pointer, where nothing is kept: two offsets,
        // then each argument with its length, padded to words. A struct's members stand in memory
        // as they do in an answer, which therefore goes straight to its place.
        assembly ("memory-safe") {
            let p := mload(0x40)
            mstore(p, selector)
            let padded := and(add(quote.length, 0x1f), not(0x1f))
            mstore(add(p, 0x04), 0x40)
            mstore(add(p, 0x24), add(padded, 0x60))
            mstore(add(p, 0x44), quote.length)
            calldatacopy(add(p, 0x64), quote.offset, quote.length)
            let q := add(add(p, 0x64), padded)
            mstore(q, platform.length)
            calldatacopy(add(q, 0x20), platform.offset, platform.length)
            padded := and(add(platform.length, 0x1f), not(0x1f))
            if iszero(
                call(gas(), verifier, 0, p, sub(add(add(q, 0x20), padded), p), verdict, 0x60)
            ) {
                returndatacopy(p, 0, returndatasize())
                revert(p, returndatasize())
            }
            let excess :=
                or(
                    shr(64, mload(verdict)),
                    shr(16, or(mload(add(verdict, 0x20)), mload(add(verdict, 0x40))))
                )
            sound := and(eq(returndatasize(), 0x60), iszero(excess))
        }
        if (!sound) revert QuoteVerifierAnswerInvalid(verifier);
    }

    /// @dev The layout has found that the quote reaches beyond the body's end.
    function _body(bytes calldata quote) private pure returns (bytes calldata body) {
        (uint256 start, uint256 end) = QuoteLayout.body(quote);
        assembly ("memory-safe") {
            body.offset := add(quote.offset, start)
            body.length := sub(end, start)
        }
    }

    /// @dev A body ends behind its report data, whichever kind it is.
    function _requireReportData(bytes calldata body, bytes32 expected) private pure {
        uint256 at = body.length == QuoteLayout.SGX_BODY ? SGX_REPORT_DATA : TD_REPORT_DATA;
        bytes32 actual = bytes32(QuoteLayout.word(body, at));
        if (actual != expected) revert ReportDataMismatch(expected, actual);
        unchecked {
            bytes32 padding = bytes32(QuoteLayout.word(body, at + 32));
            if (padding != 0) revert ReportDataPadding(padding);
        }
    }

    /// @dev The policy's own error passes through. A contract that answers to anything, with
    /// nothing or with something else, is not a policy.
    function _requireAllowed(IMeasurementPolicy policy, bytes calldata body, Verdict memory verdict)
        private
        view
    {
        if (address(policy).code.length == 0) revert PolicyMissing(address(policy));
        bytes4 selector = IMeasurementPolicy.requireAllowed.selector;
        bytes32 answer;
        // The call is written behind the free memory pointer, where nothing is kept: the body's
        // offset, the verdict's three members, the body with its length, padded to words. One word
        // of the answer goes to scratch space; an answer of any other length leaves `answer` zero.
        assembly ("memory-safe") {
            let p := mload(0x40)
            mstore(p, selector)
            mstore(add(p, 0x04), 0x80)
            mcopy(add(p, 0x24), verdict, 0x60)
            mstore(add(p, 0x84), body.length)
            calldatacopy(add(p, 0xa4), body.offset, body.length)
            let size := add(0xa4, and(add(body.length, 0x1f), not(0x1f)))
            if iszero(staticcall(gas(), policy, p, size, 0, 0x20)) {
                returndatacopy(p, 0, returndatasize())
                revert(p, returndatasize())
            }
            if eq(returndatasize(), 0x20) { answer := mload(0) }
        }
        if (answer != bytes32(selector)) revert PolicyAnswerInvalid(address(policy));
    }
}
