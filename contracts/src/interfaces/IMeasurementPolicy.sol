// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Verdict} from "./IQuoteVerifier.sol";

/// @title Which measured code may hold a key
interface IMeasurementPolicy {
    /// @notice Returns only where a node with this body may be registered; reverts otherwise.
    /// @param body The quote's report body as signed: an SGX report body (384 bytes), a TD report
    /// body of TDX 1.0 (584) or of TDX 1.5 (648). Its length says which.
    /// @param verdict What verification found: the policy decides which TCB statuses it accepts
    /// and how old an evaluation.
    /// @return answer This function's selector, so that a contract which answers any call (a
    /// wallet, a proxy) is not taken for a policy that allows everything.
    function requireAllowed(bytes calldata body, Verdict calldata verdict)
        external
        view
        returns (bytes4 answer);
}
