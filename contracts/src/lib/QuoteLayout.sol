// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice The quote's version, or its version 5 body type, is none of those supported.
error QuoteVersionUnsupported(uint256 version);
/// @notice The quote is shorter than the fields of its version.
error QuoteTruncated(uint256 length);

/// @title Where the fixed fields of a compact quote stand
/// @notice A compact quote is the signed part of the quote byte for byte (header, for version 5 the
/// body's type and size, body), then the signature (64), the attestation key (64), the QE report
/// (384), its signature (64) and the QE authentication data to the end. Everything that stands
/// between these in a quote, lengths and PEM, is left out.
/// Source: Intel TDX DCAP Quoting Library API, appendix A.3 and A.4; SGX ECDSA QuoteGenReference,
/// appendix A.
library QuoteLayout {
    uint256 internal constant HEADER = 48;
    uint256 internal constant SGX_BODY = 384;
    uint256 internal constant TD10_BODY = 584;
    uint256 internal constant TD15_BODY = 648;
    uint256 internal constant V5_DESCRIPTOR = 6;
    uint256 internal constant QE_REPORT = 384;
    uint256 internal constant TAIL = 64 + 64 + QE_REPORT + 64;

    /// @notice Where the body starts and ends; the signed part ends where the body does.
    function body(bytes calldata quote) internal pure returns (uint256 start, uint256 end) {
        if (quote.length < HEADER + SGX_BODY + TAIL) revert QuoteTruncated(quote.length);
        uint256 version = uint8(quote[0]) | (uint256(uint8(quote[1])) << 8);
        start = HEADER;
        if (version == 3) {
            end = start + SGX_BODY;
        } else if (version == 4) {
            end = start + TD10_BODY;
        } else if (version == 5) {
            // body type and size, both little endian: 2 is TDX 1.0, 3 is TDX 1.5
            uint256 descriptor = uint48(bytes6(quote[HEADER:HEADER + V5_DESCRIPTOR]));
            start = HEADER + V5_DESCRIPTOR;
            if (descriptor == 0x020048020000) end = start + TD10_BODY;
            else if (descriptor == 0x030088020000) end = start + TD15_BODY;
            else revert QuoteVersionUnsupported(descriptor);
        } else {
            revert QuoteVersionUnsupported(version);
        }
        if (quote.length < end + TAIL) revert QuoteTruncated(quote.length);
    }
}
