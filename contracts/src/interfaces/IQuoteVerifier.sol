// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice What a verified quote is worth.
/// @param expiry Unix seconds: the earliest end of any certificate, CRL, TCB info or identity used.
/// @param statuses Bit mask of `TcbStatus`: the platform's, the TDX module's and the QE's.
/// @param tcbEvaluationDataNumber The smaller of the TCB info's and the QE identity's.
struct Verdict {
    uint64 expiry;
    uint16 statuses;
    uint16 tcbEvaluationDataNumber;
}

/// @title Complete DCAP verification of one quote against stored, Intel-signed collateral
interface IQuoteVerifier {
    /// @notice Returns only for an authentic quote from a platform that is not revoked, outside
    /// debug mode; reverts with the error of the first check that failed otherwise. Says nothing
    /// about which code is measured or what the report data means.
    /// @param quote The fixed fields of the quote, in the layout of `QuoteLayout`.
    /// @param platform 0x00, PCK CA key (x, y), PCK leaf certificate (DER), which is remembered; the
    /// same with 0x06 in front (no single bit away), which is not; or, for a leaf already
    /// registered, 0x01, issuer id (32), serial (20, left-padded), leaf key x, y, cpusvn (16),
    /// pcesvn (2, big endian), fmspc (6), pceid (2).
    function verifyQuote(bytes calldata quote, bytes calldata platform)
        external
        returns (Verdict memory verdict);
}
