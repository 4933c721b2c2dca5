// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title What dstack's key management contract asks of an application's contract
/// @notice The names and order of the members are dstack's (`IAppAuth`); the interface id of
/// ERC-165 is 0x1e079198.
interface IDstackAppAuth {
    /// @param appId The application: the address of the contract asked.
    /// @param composeHash SHA-256 of its compose file.
    /// @param instanceId One running copy of it.
    /// @param deviceId The machine.
    /// @param mrAggregated SHA-256 over the TD's measurements.
    /// @param mrSystem SHA-256 over those of the system alone.
    /// @param osImageHash The system image.
    /// @param tcbStatus Intel's word for the platform's state, such as "UpToDate".
    /// @param advisoryIds Intel's advisories that apply to it.
    struct AppBootInfo {
        address appId;
        bytes32 composeHash;
        address instanceId;
        bytes32 deviceId;
        bytes32 mrAggregated;
        bytes32 mrSystem;
        bytes32 osImageHash;
        string tcbStatus;
        string[] advisoryIds;
    }

    /// @notice Whether the application may start, and so be given its keys; if not, why.
    function isAppAllowed(AppBootInfo calldata bootInfo)
        external
        view
        returns (bool isAllowed, string memory reason);
}
