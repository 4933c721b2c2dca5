// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Platforms, QeIdentitySource, TcbInfoSource} from "./collateral/Sources.sol";
import {IQuoteVerifier, Verdict} from "./interfaces/IQuoteVerifier.sol";
import {P256} from "./lib/P256.sol";
import {QuoteLayout} from "./lib/QuoteLayout.sol";
import {Reports} from "./lib/Reports.sol";
import {Sha256} from "./lib/Sha256.sol";
import {TcbLevels} from "./lib/TcbLevels.sol";

/// @notice The TEE type of the header is not that of the quote's version.
error TeeTypeMismatch(uint256 version, bytes4 teeType);
/// @notice The attestation key is not ECDSA over P-256 (type 2, little endian).
error AttestationKeyTypeUnsupported(bytes2 keyType);
/// @notice The quote is not from Intel's quoting enclave.
error QeVendorUnknown(bytes16 vendor);
/// @notice The attestation key did not sign this header and body.
error QuoteSignatureInvalid();
/// @notice The PCK did not sign this report of the quoting enclave: the platform named is another
/// one, or the quote was changed.
error QeReportSignatureInvalid();
/// @notice The TCB info of this family is for another provisioning certification enclave.
error PceidMismatch(bytes2 platform, bytes2 tcbInfo);

/// @title Verification of one quote, all but its certificates
/// @notice The checks of Intel's quote verification library (`QuoteVerifier::verify`) and of its
/// appraisal of TD attributes. Each has an error of its own; nothing is returned but from a quote
/// that passed them all.
abstract contract QuoteVerification is IQuoteVerifier, Platforms, TcbInfoSource, QeIdentitySource {
    using QuoteLayout for bytes;

    bytes2 private constant ECDSA_P256 = 0x0200;
    uint32 private constant TDX = 0x81000000;
    bytes16 private constant INTEL = 0x939a7233f79c4ca9940a0db3957f0607;

    /// @dev Offsets in what follows the signed part.
    uint256 private constant KEY = 64;
    uint256 private constant QE_REPORT = 128;
    uint256 private constant QE_SIGNATURE = 512;
    uint256 private constant AUTH = 576;
    /// @dev Of TEE_TCB_SVN_2 in a TDX 1.5 body.
    uint256 private constant CURRENT_SVNS = QuoteLayout.TD10_BODY;

    /// @inheritdoc IQuoteVerifier
    function verifyQuote(bytes calldata quote, bytes calldata platform)
        external
        override
        returns (Verdict memory)
    {
        return _verifyQuote(quote, platform);
    }

    function _verifyQuote(bytes calldata quote, bytes calldata platform)
        internal
        returns (Verdict memory verdict)
    {
        (uint256 start, uint256 end) = QuoteLayout.body(quote);
        bytes calldata body = quote.slice(start, end);
        bytes calldata tail = quote.slice(end, quote.length);
        bool tdx = _requireHeader(quote.word(0));
        if (tdx) Reports.requireTd(body);
        else Reports.requireEnclave(body);
        Platform memory known = _requirePlatform(platform);
        _requireSignatures(quote.slice(0, end), tail, known.x, known.y);
        (uint256 qe, uint256 qeUntil, uint256 qeNumber) =
            _judgeQe(tail.slice(QE_REPORT, QE_SIGNATURE), tdx);
        (uint256 tcb, uint256 tcbUntil, uint256 tcbNumber) = _judgeTcb(body, known, tdx);
        verdict.expiry = uint64(_least(known.expiry, _least(qeUntil, tcbUntil)));
        verdict.statuses = uint16(qe | tcb);
        verdict.tcbEvaluationDataNumber = uint16(_least(qeNumber, tcbNumber));
    }

    /// @dev Verifies signatures as P256VERIFY does (EIP-7951); found working when deployed.
    function _p256() internal view virtual returns (address);

    /// @dev True for TDX. `first` is the first word of the header, its version one of 3, 4 and 5.
    function _requireHeader(uint256 first) private pure returns (bool tdx) {
        uint256 version = first >> 248;
        tdx = version != 3;
        bytes2 keyType = bytes2(uint16(first >> 224));
        if (keyType != ECDSA_P256) revert AttestationKeyTypeUnsupported(keyType);
        uint32 tee = uint32(first >> 192);
        if (tee != (tdx ? TDX : 0)) revert TeeTypeMismatch(version, bytes4(tee));
        bytes16 vendor = bytes16(uint128(first >> 32));
        if (vendor != INTEL) revert QeVendorUnknown(vendor);
    }

    /// @dev From the PCK to the QE's report, to the attestation key, to the quote. `tail` is what
    /// follows the signed part, `QuoteLayout.TAIL` bytes.
    function _requireSignatures(
        bytes calldata signed,
        bytes calldata tail,
        uint256 pckX,
        uint256 pckY
    ) private view {
        bytes calldata report = tail.slice(QE_REPORT, QE_SIGNATURE);
        if (!_verify(Sha256.ofCalldata(report), tail, QE_SIGNATURE, pckX, pckY)) {
            revert QeReportSignatureInvalid();
        }
        Reports.requireReportData(report, _binding(tail));
        uint256 x = tail.word(KEY);
        if (!_verify(Sha256.ofCalldata(signed), tail, 0, x, tail.word(KEY + 32))) {
            revert QuoteSignatureInvalid();
        }
    }

    /// @dev The signature, r and s, stands in `tail` at `offset`.
    function _verify(bytes32 hash, bytes calldata tail, uint256 offset, uint256 x, uint256 y)
        private
        view
        returns (bool)
    {
        return P256.verify(_p256(), hash, tail.word(offset), tail.word(offset + 32), x, y);
    }

    /// @dev What the QE's report says of an attestation key: the hash of it and the auth data.
    function _binding(bytes calldata tail) private view returns (bytes32) {
        uint256 pointer;
        // 64 bytes of key and 32 of auth data behind the free memory pointer, where nothing is kept
        assembly ("memory-safe") {
            pointer := mload(0x40)
            calldatacopy(pointer, add(tail.offset, KEY), 0x40)
            calldatacopy(add(pointer, 0x40), add(tail.offset, AUTH), 0x20)
        }
        return Sha256.ofMemory(pointer, 0x60);
    }

    function _judgeQe(bytes calldata report, bool tdx)
        private
        view
        returns (uint256 statuses, uint256 expiry, uint256 number)
    {
        bytes memory identity;
        (identity, expiry, number) = _qeIdentity(tdx);
        statuses = TcbLevels.qe(identity, Reports.requireQe(report, identity));
    }

    function _judgeTcb(bytes calldata body, Platform memory known, bool tdx)
        private
        view
        returns (uint256 statuses, uint256 expiry, uint256 number)
    {
        bytes memory info;
        (info, expiry, number) = _tcbInfo(known.fmspc, tdx);
        if (bytes2(info) != known.pceid) revert PceidMismatch(known.pceid, bytes2(info));
        statuses =
            tdx ? _tdxStatuses(info, body, known) : TcbLevels.sgx(info, known.cpusvn, known.pcesvn);
    }

    /// @dev A TDX 1.5 body states the SVNs at launch and those of now, after updates of the module
    /// that preserved the TD. Both must do; the statuses of both are returned.
    function _tdxStatuses(bytes memory info, bytes calldata body, Platform memory known)
        private
        pure
        returns (uint256 statuses)
    {
        bytes16 svns = bytes16(bytes32(body.word(0)));
        statuses = TcbLevels.tdx(info, known.cpusvn, known.pcesvn, svns);
        if (body.length != QuoteLayout.TD15_BODY) return statuses;
        bytes16 current = bytes16(bytes32(body.word(CURRENT_SVNS)));
        if (current == svns) return statuses;
        statuses |= TcbLevels.tdx(info, known.cpusvn, known.pcesvn, current);
    }

    function _least(uint256 a, uint256 b) private pure returns (uint256) {
        return a < b ? a : b;
    }
}
