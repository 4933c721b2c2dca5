// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AllowList} from "./AllowList.sol";
import {IMeasurementPolicy} from "./interfaces/IMeasurementPolicy.sol";
import {Verdict} from "./interfaces/IQuoteVerifier.sol";
import {NodeRecords} from "./NodeRecords.sol";
import {QuoteLayout} from "./lib/QuoteLayout.sol";

/// @notice No contract stands at the registry's address.
error RegistryMissing(address registry);

/// @notice Another registry asks than the one whose registrations this policy ends: there, what it
/// no longer allows would go on counting. Register with `registry`, or under a policy made for the
/// one that asks.
error RegistryMismatch(address asks, address registry);

/// @notice The policy does not allow the code measured. Ask its owner to `allow` this id, or run
/// what it allows.
error MeasurementNotAllowed(bytes32 id);

/// @notice The code measured will be allowed at this time (Unix seconds), not before.
error NotYetAllowed(uint256 from);

/// @notice These TCB statuses (a bit mask of `TcbStatus`) were found and not allowed. Update the
/// platform's firmware, or ask the policy's owner.
error TcbStatusNotAllowed(uint16 statuses);

/// @notice The collateral in store is of too old an evaluation. Submit newer TCB info and QE
/// identities, as anyone may.
error TcbEvaluationTooOld(uint16 number, uint16 minimum);

/// @notice A report body has 384 bytes (SGX), 584 (TDX 1.0) or 648 (TDX 1.5).
error BodyLengthUnknown(uint256 length);

/// @title Which measured code may be registered, kept by an owner under a delay
/// @notice One id stands for everything that was measured; a node that differs in any of it has
/// another id. The rules are those of `AllowList`. Whatever it no longer allows ends every
/// registration made under it: those it still allows register again.
contract MeasurementPolicy is AllowList, IMeasurementPolicy {
    uint256 private constant SGX_CPUSVN = 16;
    uint256 private constant SGX_REPORT_DATA = 320;
    uint256 private constant TD_ATTRIBUTES = 120;
    uint256 private constant TD_REPORT_DATA = 520;
    uint256 private constant TD_MR_SERVICE_TD = 600;

    /// @notice Where the nodes that this policy allows are registered.
    NodeRecords public immutable registry;

    /// @param delay_ Seconds; see `AllowList`.
    /// @param statuses TCB statuses accepted from the start, as a bit mask of `TcbStatus`.
    /// @param minimumEvaluation The least tcbEvaluationDataNumber accepted.
    constructor(
        address owner,
        NodeRecords registry_,
        uint256 delay_,
        uint16 statuses,
        uint16 minimumEvaluation
    ) AllowList(owner, delay_, statuses, minimumEvaluation) {
        if (address(registry_).code.length == 0) {
            revert RegistryMissing(address(registry_));
        }
        registry = registry_;
    }

    /// @notice Ends every registration under this policy, for example when a key may have leaked.
    function endEpoch() external onlyOwner {
        registry.endEpoch();
    }

    /// @inheritdoc IMeasurementPolicy
    function requireAllowed(bytes calldata body, Verdict calldata verdict)
        external
        view
        returns (bytes4 answer)
    {
        if (msg.sender != address(registry)) {
            revert RegistryMismatch(msg.sender, address(registry));
        }
        bytes32 id = measurementId(body);
        (uint256 from, uint16 statuses, uint16 minimum) = _entry(id);
        if (from == 0) revert MeasurementNotAllowed(id);
        if (from > block.timestamp) revert NotYetAllowed(from);
        if (verdict.statuses & ~statuses != 0) revert TcbStatusNotAllowed(verdict.statuses);
        if (verdict.tcbEvaluationDataNumber < minimum) {
            revert TcbEvaluationTooOld(verdict.tcbEvaluationDataNumber, minimum);
        }
        return IMeasurementPolicy.requireAllowed.selector;
    }

    /// @notice The id of what a report body measures. TDX 1.0: Keccak-256 of bytes 120 to 520, the
    /// TD's attributes to RTMR3. TDX 1.5: the same with bytes 600 to 648 behind it, the service
    /// TD's measurement. SGX: of bytes 16 to 320, all but the platform's SVNs and the report data.
    /// The three have different lengths, so no id is of two kinds.
    function measurementId(bytes calldata body) public pure returns (bytes32 id) {
        uint256 from = TD_ATTRIBUTES;
        uint256 size = TD_REPORT_DATA - TD_ATTRIBUTES;
        uint256 more = 0;
        if (body.length == QuoteLayout.TD15_BODY) {
            more = QuoteLayout.TD15_BODY - TD_MR_SERVICE_TD;
        } else if (body.length == QuoteLayout.SGX_BODY) {
            (from, size) = (SGX_CPUSVN, SGX_REPORT_DATA - SGX_CPUSVN);
        } else if (body.length != QuoteLayout.TD10_BODY) {
            revert BodyLengthUnknown(body.length);
        }
        // Reads end within the body, whose length is known by now; copies go behind the free
        // memory pointer, where nothing is kept.
        assembly ("memory-safe") {
            let p := mload(0x40)
            calldatacopy(p, add(body.offset, from), size)
            calldatacopy(add(p, size), add(body.offset, TD_MR_SERVICE_TD), more)
            id := keccak256(p, add(size, more))
        }
    }

    function _tightened() internal override {
        registry.endEpoch();
    }
}
