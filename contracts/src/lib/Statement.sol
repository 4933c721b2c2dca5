// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Hex} from "./Hex.sol";
import {Sha256} from "./Sha256.sol";

/// @title The attestation statement and the report data it becomes
/// @notice Exactly these bytes, with no choice left but the two values:
/// `{"keyset_digest":"sha256:<64 hex>","nonce":"<64 hex>","purpose":"aci.report_data.v1"}`
/// Source: ACI (aci/1), section 3.2.
library Statement {
    /// @notice SHA-256 of the statement: the first 32 bytes of the report data; 32 zeros follow.
    function hash(bytes32 keysetDigest, bytes32 nonce) internal view returns (bytes32) {
        (uint256 d1, uint256 d2) = _hex(keysetDigest);
        (uint256 n1, uint256 n2) = _hex(nonce);
        uint256 p;
        // 197 bytes behind the free memory pointer (each write covers what the last left over, and
        // none reaches past 197); nothing is kept there.
        assembly ("memory-safe") {
            p := mload(0x40)
            mstore(p, "{\"keyset_digest\":\"sha256:")
            mstore(add(p, 25), d1)
            mstore(add(p, 57), d2)
            mstore(add(p, 89), "\",\"nonce\":\"")
            mstore(add(p, 100), n1)
            mstore(add(p, 132), n2)
            mstore(add(p, 164), "\",\"purpose\":\"aci.report_data.v1\"")
            mstore8(add(p, 196), 0x7d) // }
        }
        return Sha256.ofMemory(p, 197);
    }

    function _hex(bytes32 value) private pure returns (uint256 high, uint256 low) {
        return (Hex.digits(uint256(value) >> 128), Hex.digits(uint256(value)));
    }
}
