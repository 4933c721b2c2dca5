// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice No version 3 (SGX), 4 or 5 (TDX) quote. Other formats cannot be proved to this contract.
error QuoteVersionUnsupported(uint256 version);
/// @notice The body type and size of a version 5 quote are neither TDX 1.0's nor TDX 1.5's.
/// @param descriptor The six bytes as they stand in the quote.
error QuoteBodyUnsupported(bytes6 descriptor);
/// @notice The quote is shorter than the fields of its version: it was cut, or not compacted.
error QuoteTruncated(uint256 length, uint256 expected);
/// @notice Bytes follow the quote that nobody signed: compact it again.
error QuoteTrailingBytes(uint256 length, uint256 expected);

/// @title Where the fixed fields of a compact quote stand
/// @notice A compact quote is the signed part of the quote byte for byte (header, for version 5 the
/// body's type and size, body), then the signature (64), the attestation key (64), the QE report
/// (384), its signature (64) and the QE authentication data (32). Everything that stands between
/// these in a quote, lengths and PEM, is left out.
/// Source: Intel TDX DCAP Quoting Library API, appendix A.3 and A.4; SGX ECDSA QuoteGenReference,
/// appendix A.
library QuoteLayout {
    uint256 internal constant HEADER = 48;
    uint256 internal constant SGX_BODY = 384;
    uint256 internal constant TD10_BODY = 584;
    uint256 internal constant TD15_BODY = 648;
    uint256 internal constant V5_DESCRIPTOR = 6;
    uint256 internal constant QE_REPORT = 384;
    uint256 internal constant QE_AUTH = 32;
    uint256 internal constant TAIL = 64 + 64 + QE_REPORT + 64 + QE_AUTH;

    bytes6 internal constant TD10_DESCRIPTOR = 0x020048020000;
    bytes6 internal constant TD15_DESCRIPTOR = 0x030088020000;

    /// @notice Where the body starts and ends; the signed part ends where the body does. The quote
    /// has exactly the length of its version: `quote.length == end + TAIL`.
    function body(bytes calldata quote) internal pure returns (uint256 start, uint256 end) {
        uint256 least = HEADER + SGX_BODY + TAIL;
        if (quote.length < least) revert QuoteTruncated(quote.length, least);
        uint256 first = word(quote, 0);
        uint256 version = (first >> 248) | ((first >> 232) & 0xff00);
        start = HEADER;
        if (version == 4) end = HEADER + TD10_BODY;
        else if (version == 3) end = HEADER + SGX_BODY;
        else if (version == 5) (start, end) = _version5(quote);
        else revert QuoteVersionUnsupported(version);
        if (quote.length < end + TAIL) revert QuoteTruncated(quote.length, end + TAIL);
        if (quote.length > end + TAIL) revert QuoteTrailingBytes(quote.length, end + TAIL);
    }

    /// @notice The 32 bytes of `part` at `offset`. The caller knows that `part` reaches that far,
    /// or masks what lies beyond.
    function word(bytes calldata part, uint256 offset) internal pure returns (uint256 value) {
        assembly ("memory-safe") {
            value := calldataload(add(part.offset, offset))
        }
    }

    /// @notice The bytes of `part` from `from` on, up to `to`. The caller knows that they are there:
    /// `body` found every length exact.
    function slice(bytes calldata part, uint256 from, uint256 to)
        internal
        pure
        returns (bytes calldata found)
    {
        assembly ("memory-safe") {
            found.offset := add(part.offset, from)
            found.length := sub(to, from)
        }
    }

    function _version5(bytes calldata quote) private pure returns (uint256 start, uint256 end) {
        bytes6 descriptor = bytes6(bytes32(word(quote, HEADER)));
        start = HEADER + V5_DESCRIPTOR;
        if (descriptor == TD10_DESCRIPTOR) end = start + TD10_BODY;
        else if (descriptor == TD15_DESCRIPTOR) end = start + TD15_BODY;
        else revert QuoteBodyUnsupported(descriptor);
    }
}
