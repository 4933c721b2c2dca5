// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title What the parts of the collateral store ask of each other
/// @notice Each part implements one of these and uses the others through them, so that none knows
/// how another keeps its data. All times are Unix seconds.

/// @notice Keys that may sign TCB infos and QE identities, and the generation they belong to.
abstract contract TcbSigners {
    /// @notice Grows each time a root CRL revokes anything it did not revoke before. What an
    /// earlier generation vouched for must be submitted again before it counts.
    function _generation() internal view virtual returns (uint32);

    /// @notice Reverts unless (x, y) is the key of an unexpired TCB signing certificate of the
    /// current generation; returns the earliest end in its chain, the root's CRL included.
    function _requireTcbSigner(uint256 x, uint256 y) internal view virtual returns (uint64 expiry);
}

/// @notice PCK leaves, verified now or earlier.
abstract contract Platforms {
    /// @param x,y The PCK's public key.
    /// @param fmspc The platform's family.
    /// @param pceid Big endian, as in the certificate.
    /// @param cpusvn The sixteen component SVNs, the first in the highest byte.
    /// @param expiry Earliest end of leaf, CA and root certificates and of both their CRLs.
    struct Platform {
        uint256 x;
        uint256 y;
        bytes6 fmspc;
        bytes2 pceid;
        uint16 pcesvn;
        bytes16 cpusvn;
        uint64 expiry;
    }

    /// @notice Reads `platform` (see `IQuoteVerifier`), verifies and remembers a leaf not yet known,
    /// and reverts unless the whole chain is valid now and nothing in it is revoked.
    function _requirePlatform(bytes calldata platform) internal virtual returns (Platform memory);
}

/// @notice TCB levels by platform family.
abstract contract TcbInfoSource {
    /// @notice The current, unexpired TCB info for this family; reverts where there is none.
    /// @return packed pceid (2), number of module identities (1), number of levels (1);
    /// module identities: version (1), number of levels (1), each level isvsvn (1), status (1);
    /// levels, best first: sgx svns (16), for TDX tdx svns (16), pcesvn (2, big endian), status (1).
    /// Every module's signer and attributes are zero and its mask is all ones: nothing else is stored.
    function _tcbInfo(bytes6 fmspc, bool tdx)
        internal
        view
        virtual
        returns (bytes memory packed, uint64 expiry, uint16 tcbEvaluationDataNumber);
}

/// @notice Identities of Intel's quoting enclaves.
abstract contract QeIdentitySource {
    /// @notice The current, unexpired identity of the QE (`tdx` false) or TDQE.
    /// @return packed mrsigner (32), attributes (16), attributesMask (16), miscselect (4),
    /// miscselectMask (4) (bytes as they stand in a report), isvprodid (2, big endian), number of
    /// levels (1); levels, best first: isvsvn (2, big endian), status (1).
    function _qeIdentity(bool tdx)
        internal
        view
        virtual
        returns (bytes memory packed, uint64 expiry, uint16 tcbEvaluationDataNumber);
}
