// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice No code, or code that does not answer as P256VERIFY does, stands at the address given.
error P256VerifierMissing(address verifier);

/// @title ECDSA over P-256 through one contract chosen at deployment
/// @notice The verifier is the precompile of EIP-7951 (address 0x100) or a contract with the same
/// interface: 160 bytes in (hash, r, s, x, y), one word of value 1 out, anything else a refusal.
/// On a chain without the precompile a call to it succeeds and returns nothing, so the length of
/// what came back is part of every check.
library P256 {
    address internal constant PRECOMPILE = address(0x100);

    /// @notice True only when `verifier` answered exactly the word 1.
    function verify(address verifier, bytes32 hash, uint256 r, uint256 s, uint256 x, uint256 y)
        internal
        view
        returns (bool ok)
    {
        assembly ("memory-safe") {
            let p := mload(0x40)
            mstore(p, hash)
            mstore(add(p, 0x20), r)
            mstore(add(p, 0x40), s)
            mstore(add(p, 0x60), x)
            mstore(add(p, 0x80), y)
            mstore(0, 0)
            ok := staticcall(gas(), verifier, p, 0xa0, 0, 0x20)
            ok := and(and(ok, eq(returndatasize(), 0x20)), eq(mload(0), 1))
        }
    }

    /// @notice Reverts unless `verifier` accepts a known signature and refuses it over another hash.
    /// The signature is the first of the test vectors of RFC 6979, appendix A.2.5 (SHA-256, "sample").
    function requireWorking(address verifier) internal view {
        uint256 x = 0x60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6;
        uint256 y = 0x7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299;
        uint256 r = 0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716;
        uint256 s = 0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8;
        bytes32 hash = sha256("sample");
        if (!verify(verifier, hash, r, s, x, y)) revert P256VerifierMissing(verifier);
        if (verify(verifier, ~hash, r, s, x, y)) revert P256VerifierMissing(verifier);
    }
}
