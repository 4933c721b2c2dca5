// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {QuoteVerification} from "../../src/QuoteVerification.sol";
import {P256} from "../../src/lib/P256.sol";

/// @notice The test stated no TCB info of this family, or no QE identity of this TEE.
error NothingGiven();

/// @title Quote verification with platform, TCB info and QE identity as the test states them
/// @notice Answers are kept as they would be after decoding; nothing about them is checked here.
contract QuoteHarness is QuoteVerification {
    struct Document {
        bytes packed;
        uint64 expiry;
        uint16 number;
    }

    Platform private _platform;
    mapping(bytes6 fmspc => mapping(bool tdx => Document)) private _infos;
    mapping(bool tdx => Document) private _identities;

    address private immutable _verifier;

    constructor(address p256) {
        P256.requireWorking(p256);
        _verifier = p256;
    }

    function setPlatform(Platform calldata platform) external {
        _platform = platform;
    }

    function setTcbInfo(bytes6 fmspc, bool tdx, Document calldata info) external {
        _infos[fmspc][tdx] = info;
    }

    function setQeIdentity(bool tdx, Document calldata identity) external {
        _identities[tdx] = identity;
    }

    /// @notice What the answers alone cost, to be taken off the cost of a verification.
    function readSources(bool tdx) external returns (uint256 gas) {
        gas = gasleft();
        Platform memory platform = _requirePlatform(msg.data[:0]);
        _tcbInfo(platform.fmspc, tdx);
        _qeIdentity(tdx);
        gas -= gasleft();
    }

    /// @notice What a verification costs, answers included and the call itself not.
    function gasOf(bytes calldata quote, bytes calldata platform) external returns (uint256 gas) {
        gas = gasleft();
        _verifyQuote(quote, platform);
        gas -= gasleft();
    }

    function _p256() internal view override returns (address) {
        return _verifier;
    }

    function _requirePlatform(bytes calldata) internal override returns (Platform memory) {
        return _platform;
    }

    function _tcbInfo(bytes6 fmspc, bool tdx)
        internal
        view
        override
        returns (bytes memory, uint64, uint16)
    {
        Document storage found = _infos[fmspc][tdx];
        if (found.packed.length == 0) revert NothingGiven();
        return (found.packed, found.expiry, found.number);
    }

    function _qeIdentity(bool tdx) internal view override returns (bytes memory, uint64, uint16) {
        Document storage found = _identities[tdx];
        if (found.packed.length == 0) revert NothingGiven();
        return (found.packed, found.expiry, found.number);
    }
}
