// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {MeasurementPolicy} from "../src/MeasurementPolicy.sol";
import {NodeRecords} from "../src/NodeRecords.sol";
import {Verdict} from "../src/interfaces/IQuoteVerifier.sol";
import {RecordsHarness} from "./harness/RegistryHarness.sol";
import {Test} from "./Test.sol";

contract MeasurementPolicyTest is Test {
    MeasurementPolicy private policy;

    function setUp() external {
        vm.warp(1_780_000_000);
        policy = new MeasurementPolicy(address(this), new RecordsHarness(), 1 days, 1, 0);
    }

    /// @notice Ids are of the kind's own bytes, whatever stands around the body in calldata.
    function testIdsAreOfWhatIsMeasured(bytes32 seed, uint256 kind, uint256 at) external view {
        uint256 size = [384, 584, 648][kind % 3];
        bytes memory body = new bytes(size);
        for (uint256 i = 0; i < size; ++i) {
            body[i] = bytes1(uint8(uint256(keccak256(abi.encode(seed, i)))));
        }
        bytes32 id = policy.measurementId(body);
        at = bound(at, 0, size - 1);
        body[at] ^= 0x01;
        bool measured =
            size == 384 ? at >= 16 && at < 320 : (at >= 120 && at < 520) || (at >= 600 && at < 648);
        vm.assertEq(policy.measurementId(body) != id, measured);
    }

    /// @notice However rules change, looser ones never come into force before their delay.
    function testLooserNeverComesEarly(uint16[4] memory statuses, uint16[4] memory minimums)
        external
    {
        for (uint256 i = 0; i < 4; ++i) {
            (uint16 was, uint16 least) = policy.tcbRules();
            policy.setTcbRules(statuses[i] & 0x3f, minimums[i]);
            (uint16 is_, uint16 now_) = policy.tcbRules();
            vm.assertEq(is_ & ~was, 0);
            vm.assertGe(now_, least);
            vm.warp(vm.getBlockTimestamp() + 1 days - 1);
            (is_, now_) = policy.tcbRules();
            vm.assertEq(is_ & ~was, 0);
            vm.assertGe(now_, least);
            vm.warp(vm.getBlockTimestamp() + 1);
            (is_, now_) = policy.tcbRules();
            vm.assertEq(is_, statuses[i] & 0x3f);
            vm.assertEq(now_, minimums[i]);
        }
    }
}

/// @notice An owner that lists, delists and changes rules at random, and remembers when it did.
contract Owner is Test {
    MeasurementPolicy public policy;
    mapping(bytes32 id => uint256) public since;
    mapping(uint16 status => uint256) public statusSince;

    constructor() {
        vm.warp(1_780_000_000);
        policy = new MeasurementPolicy(address(this), new RecordsHarness(), 1 days, 0, 0);
    }

    function bodyOf(uint256 which) public pure returns (bytes memory body) {
        body = new bytes(384);
        body[100] = bytes1(uint8(1 + which % 4));
    }

    function allow(uint256 which) external {
        bytes32 id = policy.measurementId(bodyOf(which));
        if (since[id] != 0) return;
        policy.allow(id);
        since[id] = block.timestamp;
    }

    function disallow(uint256 which) external {
        bytes32 id = policy.measurementId(bodyOf(which));
        if (since[id] == 0) return;
        policy.disallow(id);
        since[id] = 0;
    }

    /// @notice Statuses one bit each: remembers since when each has been in what was announced.
    function setTcbRules(uint16 statuses) external {
        statuses &= 0x3f;
        policy.setTcbRules(statuses, 0);
        for (uint16 bit = 0; bit < 6; ++bit) {
            bool listed = statuses >> bit & 1 == 1;
            if (!listed) statusSince[bit] = 0;
            else if (statusSince[bit] == 0) statusSince[bit] = block.timestamp;
        }
    }

    function wait(uint256 time) external {
        vm.warp(block.timestamp + time % 2 days);
    }
}

contract MeasurementPolicyInvariants is Test {
    Owner private owner;

    function setUp() external {
        owner = new Owner();
        targetContract(address(owner));
    }

    /// @notice Whatever is accepted was announced at least the delay ago and not taken back since.
    function invariantNothingIsAcceptedUnannounced() external {
        MeasurementPolicy policy = owner.policy();
        address registry = address(policy.registry());
        for (uint256 which = 0; which < 4; ++which) {
            bytes memory body = owner.bodyOf(which);
            uint256 since = owner.since(policy.measurementId(body));
            for (uint16 bit = 0; bit < 6; ++bit) {
                Verdict memory verdict = Verdict(0, uint16(1) << bit, 0);
                vm.prank(registry);
                try policy.requireAllowed(body, verdict) returns (bytes4) {
                    uint256 status = owner.statusSince(bit);
                    vm.assertTrue(since != 0 && since + 1 days <= block.timestamp);
                    vm.assertTrue(status != 0 && status + 1 days <= block.timestamp);
                } catch {}
            }
        }
    }

    /// @notice The rules that an id's slot repeats are those in force.
    function invariantEveryIdHasTheRules() external {
        MeasurementPolicy policy = owner.policy();
        address registry = address(policy.registry());
        (uint16 statuses,) = policy.tcbRules();
        for (uint256 which = 0; which < 4; ++which) {
            bytes memory body = owner.bodyOf(which);
            uint256 from = policy.allowedFrom(policy.measurementId(body));
            if (from == 0 || from > block.timestamp) continue;
            for (uint16 bit = 0; bit < 6; ++bit) {
                bool accepted = false;
                vm.prank(registry);
                try policy.requireAllowed(body, Verdict(0, uint16(1) << bit, 0)) returns (bytes4) {
                    accepted = true;
                } catch {}
                vm.assertEq(accepted, statuses >> bit & 1 == 1);
            }
        }
    }
}
