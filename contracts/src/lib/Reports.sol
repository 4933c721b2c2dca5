// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {QuoteLayout} from "./QuoteLayout.sol";

/// @notice The enclave runs in debug mode: anybody on its host reads its memory. Build and sign it
/// for production.
error EnclaveIsDebug();
/// @notice The TD runs in debug mode: its host reads its memory and state.
error TdIsDebug();
/// @notice The TD may be profiled from outside: its host learns how it runs.
error TdIsProfiled(bytes8 attributes);
/// @notice TD attributes that Intel reserves are set: what they permit is not known here.
error TdAttributesReserved(bytes8 attributes);
/// @notice The TD may be migrated to a platform that this quote says nothing about.
error TdIsMigratable(bytes8 attributes);
/// @notice The TD's report depends on service TDs (SERVTD_EXT), which are not judged here.
error TdHasServiceExtension(bytes8 attributes);
/// @notice A service TD is bound to the TD and may reach into it.
error ServiceTdBound();
/// @notice SEPT_VE_DISABLE is not set: the host can make the TD's own memory trap at its choosing.
error SeptVeNotDisabled(bytes8 attributes);
/// @notice The TDX module is not signed by Intel: MRSIGNERSEAM is not zero.
error SeamSignerUnknown();
/// @notice The TDX module's attributes are not zero: it is no production module.
error SeamAttributesSet(bytes8 attributes);
/// @notice Reserved bytes of an enclave's report are set: what they mean is not known here.
error ReportReservedBytesSet();
/// @notice The quoting enclave runs in debug mode: its keys are nobody's secret.
error QeIsDebug();
/// @notice The quoting enclave is not signed by Intel.
error QeSignerMismatch(bytes32 mrsigner);
/// @notice The quoting enclave's attributes are not those of Intel's, under their mask.
error QeAttributesMismatch(bytes16 attributes);
/// @notice The quoting enclave's MISCSELECT is not that of Intel's, under its mask.
error QeMiscSelectMismatch(bytes4 miscselect);
/// @notice The enclave that signed is another of Intel's, not the one that quotes this TEE.
error QeProductMismatch(bytes2 expected, bytes2 isvprodid);
/// @notice The quoting enclave's report vouches for another attestation key.
error AttestationKeyNotBound(bytes32 expected, bytes32 stated);
/// @notice The quoting enclave's report data goes on after the hash of the attestation key.
error QeReportDataNotPadded(bytes32 stated);

/// @title What the reports of enclaves and TDs must say, whatever code they measure
/// @notice Every function is given a slice of exactly the report's size; offsets are those of
/// `sgx_report_body_t` and of the TD report body (Intel TDX DCAP Quoting Library API, A.3.2).
library Reports {
    uint256 private constant SGX_DEBUG = 0x02 << 248;

    /// @dev TD attributes as they stand in a report, lowest byte first. Intel TDX Module ABI
    /// specification 348551-008, table 3.23.
    uint64 private constant TD_DEBUG = 0x0100000000000000;
    uint64 private constant TD_PROFILED = 0x7000000000000000;
    uint64 private constant TD_RESERVED = 0x8eff8007ffffff3f;
    uint64 private constant TD_SERVICE_EXTENSION = 0x0000020000000000;
    uint64 private constant TD_SEPT_VE_DISABLE = 0x0000001000000000;
    uint64 private constant TD_MIGRATABLE = 0x0000002000000000;

    /// @notice Reverts unless the SGX report body is of an enclave in production mode.
    function requireEnclave(bytes calldata report) internal pure {
        _requireReserved(report);
        if (QuoteLayout.word(report, 48) & SGX_DEBUG != 0) revert EnclaveIsDebug();
    }

    /// @notice Reverts unless the TD report body (1.0 or 1.5) is of a TD that nobody outside may
    /// look into, run by a TDX module of Intel's.
    function requireTd(bytes calldata report) internal pure {
        // MRSIGNERSEAM (48), SEAMATTRIBUTES (8), TDATTRIBUTES (8)
        uint256 last = QuoteLayout.word(report, 96);
        if (QuoteLayout.word(report, 64) | (last >> 128) != 0) revert SeamSignerUnknown();
        bytes8 seam = bytes8(uint64(last >> 64));
        if (seam != 0) revert SeamAttributesSet(seam);
        _requireAttributes(uint64(last));
        if (report.length != QuoteLayout.TD15_BODY) return;
        // MRSERVICETD (48) is the end of a 1.5 body
        if (QuoteLayout.word(report, 600) | QuoteLayout.word(report, 616) != 0) {
            revert ServiceTdBound();
        }
    }

    /// @notice Reverts unless `report` is of the quoting enclave that `identity` describes, packed as
    /// `QeIdentitySource` says; returns its ISVSVN.
    function requireQe(bytes calldata report, bytes memory identity)
        internal
        pure
        returns (uint256 isvsvn)
    {
        _requireReserved(report);
        uint256 attributes = QuoteLayout.word(report, 48);
        if (attributes & SGX_DEBUG != 0) revert QeIsDebug();
        bytes32 signer = bytes32(QuoteLayout.word(report, 128));
        if (signer != bytes32(_at(identity, 0))) revert QeSignerMismatch(signer);
        uint256 expected = _at(identity, 32);
        // the expected attributes stand above their mask
        if (((attributes ^ expected) >> 128) & uint128(expected) != 0) {
            revert QeAttributesMismatch(bytes16(uint128(attributes >> 128)));
        }
        expected = _at(identity, 64);
        // miscselect (4), its mask (4), isvprodid (2, big endian)
        uint256 misc = QuoteLayout.word(report, 16) >> 224;
        if ((misc ^ (expected >> 224)) & uint32(expected >> 192) != 0) {
            revert QeMiscSelectMismatch(bytes4(uint32(misc)));
        }
        uint256 product = QuoteLayout.word(report, 256);
        isvsvn = _littleEndian16(product >> 224);
        product = _littleEndian16(product >> 240);
        if (product != uint16(expected >> 176)) {
            revert QeProductMismatch(bytes2(uint16(expected >> 176)), bytes2(uint16(product)));
        }
    }

    /// @notice Reverts unless the report data of an enclave is `hash` and 32 zero bytes.
    function requireReportData(bytes calldata report, bytes32 hash) internal pure {
        bytes32 stated = bytes32(QuoteLayout.word(report, 320));
        if (stated != hash) revert AttestationKeyNotBound(hash, stated);
        stated = bytes32(QuoteLayout.word(report, 352));
        if (stated != 0) revert QeReportDataNotPadded(stated);
    }

    function _requireAttributes(uint64 attributes) private pure {
        uint64 odd = TD_DEBUG | TD_PROFILED | TD_RESERVED | TD_SERVICE_EXTENSION | TD_MIGRATABLE;
        if (attributes & (odd | TD_SEPT_VE_DISABLE) == TD_SEPT_VE_DISABLE) return;
        bytes8 stated = bytes8(attributes);
        if (attributes & TD_DEBUG != 0) revert TdIsDebug();
        if (attributes & TD_PROFILED != 0) revert TdIsProfiled(stated);
        if (attributes & TD_RESERVED != 0) revert TdAttributesReserved(stated);
        if (attributes & TD_MIGRATABLE != 0) revert TdIsMigratable(stated);
        if (attributes & TD_SERVICE_EXTENSION != 0) revert TdHasServiceExtension(stated);
        revert SeptVeNotDisabled(stated);
    }

    /// @dev The five reserved spans: 20..32, 96..128, 160..192 and 262..304.
    function _requireReserved(bytes calldata report) private pure {
        uint256 any = QuoteLayout.word(report, 0) << 160;
        any |= QuoteLayout.word(report, 96) | QuoteLayout.word(report, 160);
        any |= QuoteLayout.word(report, 262) | QuoteLayout.word(report, 272);
        if (any != 0) revert ReportReservedBytesSet();
    }

    function _littleEndian16(uint256 value) private pure returns (uint256) {
        return ((value & 0xff) << 8) | ((value >> 8) & 0xff);
    }

    /// @dev The word of packed data at `offset`, which lies inside whatever follows it is masked.
    function _at(bytes memory packed, uint256 offset) private pure returns (uint256 value) {
        assembly ("memory-safe") {
            value := mload(add(add(packed, 0x20), offset))
        }
    }
}
