// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Intel's TCB statuses as this project numbers them, on-chain and in Python
/// @notice Sets of statuses are bit masks: bit `n` is status `n`. Revoked never reaches a policy:
/// verification refuses it.
library TcbStatus {
    uint8 internal constant UP_TO_DATE = 0;
    uint8 internal constant SW_HARDENING_NEEDED = 1;
    uint8 internal constant CONFIGURATION_NEEDED = 2;
    uint8 internal constant CONFIGURATION_AND_SW_HARDENING_NEEDED = 3;
    uint8 internal constant OUT_OF_DATE = 4;
    uint8 internal constant OUT_OF_DATE_CONFIGURATION_NEEDED = 5;
    uint8 internal constant REVOKED = 6;
}
