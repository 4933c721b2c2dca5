// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice The call that was to be measured reverted.
error MeasuredCallReverted(bytes call);

/// @notice No contract stands at this address.
error NothingToMeasure(address target);

/// @title What one call costs the contract that makes it
contract GasMeter {
    /// @notice The gas that leaves the caller's hands between having encoded a call and holding its
    /// answer.
    /// @param warm Whether the transaction has touched the target before, as a consumer that asks
    /// for several receipts has; the first touch of an account costs 2,500 more. No storage of the
    /// target is touched before either way.
    function costOf(address target, bytes calldata data, bool warm)
        external
        view
        returns (uint256 spent)
    {
        if (warm && target.code.length == 0) revert NothingToMeasure(target);
        bytes memory question = data;
        bool ok;
        // Reads the call just copied; one word of the answer goes to scratch space.
        assembly ("memory-safe") {
            spent := gas()
            ok := staticcall(gas(), target, add(question, 0x20), mload(question), 0, 0x20)
            spent := sub(spent, gas())
        }
        if (!ok) revert MeasuredCallReverted(data);
    }
}
