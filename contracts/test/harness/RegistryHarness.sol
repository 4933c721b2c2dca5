// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IMeasurementPolicy} from "../../src/interfaces/IMeasurementPolicy.sol";
import {IQuoteVerifier, Verdict} from "../../src/interfaces/IQuoteVerifier.sol";
import {Hex} from "../../src/lib/Hex.sol";
import {Keyset} from "../../src/lib/Keyset.sol";
import {RecentBlock} from "../../src/lib/RecentBlock.sol";
import {Statement} from "../../src/lib/Statement.sol";
import {NodeRecords} from "../../src/NodeRecords.sol";

/// @notice The quote is not one that the test called genuine.
error NotGenuine(bytes32 quote);

/// @notice Takes for genuine what a test tells it to: stands for the quote verifier, so that the
/// registry's own checks can be tried on their own.
contract FakeQuoteVerifier is IQuoteVerifier {
    mapping(bytes32 quoteAndPlatform => Verdict) public verdicts;

    function believe(bytes calldata quote, bytes calldata platform, Verdict calldata verdict)
        external
    {
        verdicts[_id(quote, platform)] = verdict;
    }

    function verifyQuote(bytes calldata quote, bytes calldata platform)
        external
        view
        returns (Verdict memory verdict)
    {
        bytes32 id = _id(quote, platform);
        verdict = verdicts[id];
        if (verdict.statuses == 0) revert NotGenuine(id);
    }

    function _id(bytes calldata quote, bytes calldata platform) private pure returns (bytes32) {
        return keccak256(abi.encode(keccak256(quote), keccak256(platform)));
    }
}

/// @notice Allows everything: for what is not about the policy.
contract AllowAllPolicy is IMeasurementPolicy {
    function requireAllowed(bytes calldata, Verdict calldata) external pure returns (bytes4) {
        return IMeasurementPolicy.requireAllowed.selector;
    }
}

/// @notice Answers any call with the bytes it was made with, as a wallet or proxy may.
contract AnswersAnything {
    bytes private _answer;

    constructor(bytes memory answer) {
        _answer = answer;
    }

    fallback(bytes calldata) external payable returns (bytes memory) {
        return _answer;
    }
}

/// @notice The libraries of the registry as a contract.
contract RegistryLibraries {
    function readKeyset(bytes calldata keyset, uint256 hints)
        external
        pure
        returns (address signer, uint256 notAfter)
    {
        return Keyset.read(keyset, hints);
    }

    /// @notice What the library makes of a keyset that stands between other bytes of calldata.
    function readKeysetAmong(bytes calldata all, uint256 from, uint256 to, uint256 hints)
        external
        pure
        returns (address signer, uint256 notAfter)
    {
        return Keyset.read(all[from:to], hints);
    }

    function statementHash(bytes32 keysetDigest, bytes32 nonce) external view returns (bytes32) {
        return Statement.hash(keysetDigest, nonce);
    }

    function hexDigits(uint256 value) external pure returns (uint256) {
        return Hex.digits(value);
    }

    function hashOf(uint256 height) external view returns (bytes32) {
        return RecentBlock.hashOf(height);
    }
}

/// @notice Records on their own, renewed at will.
contract RecordsHarness is NodeRecords {
    function renew(address signer, address policy, uint64 expiry, uint256 quotedAt)
        external
        returns (uint64)
    {
        return _renew(signer, policy, expiry, quotedAt);
    }

    function requireServing(address signer, address policy, uint64 servedAt) external view {
        _requireServing(signer, policy, servedAt);
    }
}
