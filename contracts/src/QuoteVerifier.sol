// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {PlatformRegistry} from "./PlatformRegistry.sol";
import {QuoteVerification} from "./QuoteVerification.sol";
import {CollateralStore} from "./collateral/CollateralStore.sol";

/// @title DCAP verification of SGX and TDX quotes, complete and on-chain
/// @notice Holds the collateral, the platforms and the checks. Nobody owns it, nothing in it can
/// be replaced, and anybody may submit what Intel has signed; who trusts it trusts the root key it
/// was deployed with.
contract QuoteVerifier is CollateralStore, PlatformRegistry, QuoteVerification {
    /// @param rootX_,rootY_ The key of Intel's SGX root CA, or of a test's.
    /// @param p256_ 0x100 where the chain has P256VERIFY (EIP-7951); elsewhere a contract with the
    /// same interface. Deployment fails where it does not verify.
    /// @param minTcbEvaluationDataNumber_ TCB infos and identities of earlier evaluations are not
    /// taken.
    constructor(uint256 rootX_, uint256 rootY_, address p256_, uint16 minTcbEvaluationDataNumber_)
        CollateralStore(rootX_, rootY_, p256_, minTcbEvaluationDataNumber_)
    {}

    function _p256() internal view override returns (address) {
        return p256;
    }
}
