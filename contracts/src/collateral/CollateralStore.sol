// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Pki} from "./Pki.sol";
import {QeIdentities} from "./QeIdentities.sol";
import {SignedTexts} from "./SignedTexts.sol";
import {TcbInfos} from "./TcbInfos.sol";

/// @title All collateral that a quote is verified against
/// @notice Certificates and CRLs under one root key, and the TCB infos and QE identities signed
/// under it. Anyone may submit; nobody owns it.
abstract contract CollateralStore is Pki, TcbInfos, QeIdentities {
    /// @param rootX_,rootY_ The root's key.
    /// @param p256_ See `P256`.
    /// @param minTcbEvaluationDataNumber_ Evaluations before this one are not taken.
    constructor(uint256 rootX_, uint256 rootY_, address p256_, uint16 minTcbEvaluationDataNumber_)
        Pki(rootX_, rootY_, p256_)
        SignedTexts(minTcbEvaluationDataNumber_)
    {}

    function _p256Verifier() internal view override returns (address) {
        return p256;
    }
}
