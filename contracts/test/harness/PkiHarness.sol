// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {PlatformRegistry} from "../../src/PlatformRegistry.sol";
import {Pki} from "../../src/collateral/Pki.sol";

/// @notice Certificates, CRLs and platforms without the rest of verification, for tests.
contract PkiHarness is PlatformRegistry {
    constructor(uint256 rootX_, uint256 rootY_, address p256_) Pki(rootX_, rootY_, p256_) {}

    function requirePlatform(bytes calldata platform) external returns (Platform memory) {
        return _requirePlatform(platform);
    }

    /// @notice The platform, and the gas it took inside the call.
    function metered(bytes calldata platform) external returns (uint256 used) {
        used = gasleft();
        _requirePlatform(platform);
        used -= gasleft();
    }

    /// @notice Until when a PCK CA and its CRL count, as uses of a known leaf ask.
    function requirePckCrl(bytes32 issuerId) external view returns (uint256 expiry) {
        (, expiry) = _requirePckCrl(issuerId);
    }

    function requireTcbSigner(uint256 x, uint256 y) external view returns (uint64) {
        return _requireTcbSigner(x, y);
    }
}
