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
    bytes2 private constant ECDSA_P256 = 0x0200;
    uint32 private constant TDX = 0x81000000;
    bytes16 private constant INTEL = 0x939a7233f79c4ca9940a0db3957f0607;

    /// @dev Offsets in what follows the signed part.
    uint256 private constant KEY = 64;
    uint256 private constant QE_REPORT = 128;
    uint256 private constant QE_SIGNATURE = QE_REPORT + QuoteLayout.QE_REPORT;
    uint256 private constant AUTH = QE_SIGNATURE + 64;
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
        bytes calldata body = quote[start:end];
        bytes calldata tail = quote[end:];
        bool tdx = _requireHeader(QuoteLayout.word(quote, 0));
        if (tdx) Reports.requireTd(body);
        else Reports.requireEnclave(body);
        Platform memory known = _requirePlatform(platform);
        _requireSignatures(quote[:end], tail, known.x, known.y);
        verdict.expiry = known.expiry;
        uint256 number = _judgeQe(verdict, tail[QE_REPORT:QE_SIGNATURE], tdx);
        uint256 other = _judgeTcb(verdict, body, known, tdx);
        verdict.tcbEvaluationDataNumber = uint16(number < other ? number : other);
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
        bytes calldata report = tail[QE_REPORT:QE_SIGNATURE];
        if (!_verify(Sha256.ofCalldata(report), tail[QE_SIGNATURE:AUTH], pckX, pckY)) {
            revert QeReportSignatureInvalid();
        }
        bytes calldata key = tail[KEY:QE_REPORT];
        Reports.requireReportData(report, _binding(key, tail[AUTH:]));
        uint256 x = QuoteLayout.word(key, 0);
        if (!_verify(Sha256.ofCalldata(signed), tail[:KEY], x, QuoteLayout.word(key, 32))) {
            revert QuoteSignatureInvalid();
        }
    }

    /// @dev `signature` is r, s.
    function _verify(bytes32 hash, bytes calldata signature, uint256 x, uint256 y)
        private
        view
        returns (bool)
    {
        uint256 r = QuoteLayout.word(signature, 0);
        return P256.verify(_p256(), hash, r, QuoteLayout.word(signature, 32), x, y);
    }

    /// @dev What the QE's report says of an attestation key: the hash of it and the auth data.
    function _binding(bytes calldata key, bytes calldata auth) private view returns (bytes32) {
        uint256 pointer;
        // 64 and 32 bytes behind the free memory pointer, where nothing is kept
        assembly ("memory-safe") {
            pointer := mload(0x40)
            calldatacopy(pointer, key.offset, 0x40)
            calldatacopy(add(pointer, 0x40), auth.offset, 0x20)
        }
        return Sha256.ofMemory(pointer, 0x60);
    }

    function _judgeQe(Verdict memory verdict, bytes calldata report, bool tdx)
        private
        view
        returns (uint256 number)
    {
        (bytes memory identity, uint64 expiry, uint16 evaluation) = _qeIdentity(tdx);
        uint256 isvsvn = Reports.requireQe(report, identity);
        verdict.statuses |= uint16(TcbLevels.qe(identity, isvsvn));
        _lower(verdict, expiry);
        return evaluation;
    }

    function _judgeTcb(Verdict memory verdict, bytes calldata body, Platform memory known, bool tdx)
        private
        view
        returns (uint256 number)
    {
        (bytes memory info, uint64 expiry, uint16 evaluation) = _tcbInfo(known.fmspc, tdx);
        if (bytes2(info) != known.pceid) revert PceidMismatch(known.pceid, bytes2(info));
        uint256 statuses =
            tdx ? _tdxStatuses(info, body, known) : TcbLevels.sgx(info, known.cpusvn, known.pcesvn);
        verdict.statuses |= uint16(statuses);
        _lower(verdict, expiry);
        return evaluation;
    }

    /// @dev A TDX 1.5 body states the SVNs at launch and those of now, after updates of the module
    /// that preserved the TD. Both must do; the statuses of both are returned.
    function _tdxStatuses(bytes memory info, bytes calldata body, Platform memory known)
        private
        pure
        returns (uint256 statuses)
    {
        bytes16 svns = bytes16(bytes32(QuoteLayout.word(body, 0)));
        statuses = TcbLevels.tdx(info, known.cpusvn, known.pcesvn, svns);
        if (body.length != QuoteLayout.TD15_BODY) return statuses;
        bytes16 current = bytes16(bytes32(QuoteLayout.word(body, CURRENT_SVNS)));
        if (current == svns) return statuses;
        statuses |= TcbLevels.tdx(info, known.cpusvn, known.pcesvn, current);
    }

    function _lower(Verdict memory verdict, uint64 expiry) private pure {
        if (expiry < verdict.expiry) verdict.expiry = expiry;
    }
}
