// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC165} from "@openzeppelin/contracts/utils/introspection/IERC165.sol";

import {AllowList} from "./AllowList.sol";
import {IDstackAppAuth} from "./interfaces/IDstackAppAuth.sol";
import {TcbStatus} from "./TcbStatus.sol";

/// @title Answers dstack's key management as an application's contract, from an `AllowList`
/// @notice Register this contract's address as the application's id with a dstack KMS
/// (`registerApp`): the KMS then gives keys to what is allowed here. An id is a pair of system
/// image and compose file. The KMS has checked the quote and worked out what it is asked with;
/// this contract trusts it for that, and does not hold the device or advisories against a node.
/// The KMS does not say which evaluation it judged by, so a minimum, if any, refuses all.
contract DstackAppAuth is AllowList, IDstackAppAuth, IERC165 {
    /// @param delay_ Seconds; see `AllowList`.
    /// @param statuses TCB statuses accepted from the start, as a bit mask of `TcbStatus`.
    constructor(address owner, uint256 delay_, uint16 statuses)
        AllowList(owner, delay_, statuses, 0)
    {}

    /// @notice The id of a compose file on a system image.
    function bootId(bytes32 osImageHash, bytes32 composeHash) public pure returns (bytes32) {
        return keccak256(abi.encode(osImageHash, composeHash));
    }

    /// @inheritdoc IDstackAppAuth
    function isAppAllowed(AppBootInfo calldata bootInfo)
        external
        view
        returns (bool isAllowed, string memory reason)
    {
        if (bootInfo.appId != address(this)) return (false, "not this contract's application");
        (uint256 from, uint16 statuses, uint16 minimumEvaluation) =
            _entry(bootId(bootInfo.osImageHash, bootInfo.composeHash));
        if (from == 0) return (false, "this compose file on this image is not allowed");
        if (from > block.timestamp) return (false, "this compose file is not allowed yet");
        if (minimumEvaluation != 0) return (false, "the age of the TCB evaluation is not known");
        if (statuses & _status(bootInfo.tcbStatus) == 0) return (false, "TCB status not allowed");
        return (true, "");
    }

    /// @inheritdoc IERC165
    function supportsInterface(bytes4 interfaceId) external pure returns (bool) {
        return
            interfaceId == type(IDstackAppAuth).interfaceId
                || interfaceId == type(IERC165).interfaceId;
    }

    /// @dev The bit of Intel's word for a status; none for a word that is not in this list, for
    /// Revoked, and for any other spelling.
    function _status(string calldata word) private pure returns (uint16) {
        bytes32 hash = keccak256(bytes(word));
        if (hash == keccak256("UpToDate")) return _bit(TcbStatus.UP_TO_DATE);
        if (hash == keccak256("SWHardeningNeeded")) return _bit(TcbStatus.SW_HARDENING_NEEDED);
        if (hash == keccak256("ConfigurationNeeded")) return _bit(TcbStatus.CONFIGURATION_NEEDED);
        if (hash == keccak256("ConfigurationAndSWHardeningNeeded")) {
            return _bit(TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED);
        }
        if (hash == keccak256("OutOfDate")) return _bit(TcbStatus.OUT_OF_DATE);
        if (hash == keccak256("OutOfDateConfigurationNeeded")) {
            return _bit(TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED);
        }
        return 0;
    }

    function _bit(uint8 status) private pure returns (uint16) {
        return uint16(1) << status;
    }

    function _tightened() internal pure override {}
}
