// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {P256 as Curve} from "@openzeppelin/contracts/utils/cryptography/P256.sol";

/// @title P256VERIFY in Solidity, for chains that lack the precompile of EIP-7951
/// @notice Has the precompile's interface: 160 bytes in (hash, r, s, x, y); one word of value 1 out
/// for a valid signature, nothing for anything else. About 40 times dearer. Whoever deploys the
/// verifier names this contract; nothing falls back to it by itself.
contract SoftwareP256 {
    /// @dev The library takes only the lower of the two values of s, to make signatures unique; the
    /// precompile takes both, and (r, n - s) is valid exactly where (r, s) is.
    fallback(bytes calldata input) external returns (bytes memory) {
        if (input.length != 160) return "";
        (bytes32 hash, bytes32 r, uint256 s, bytes32 x, bytes32 y) =
            abi.decode(input, (bytes32, bytes32, uint256, bytes32, bytes32));
        if (s >= Curve.N) return "";
        if (s > Curve.N / 2) s = Curve.N - s;
        if (!Curve.verifySolidity(hash, r, bytes32(s), x, y)) return "";
        return abi.encode(1);
    }
}
