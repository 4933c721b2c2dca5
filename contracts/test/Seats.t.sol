// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AlreadySeated, NodeRecords} from "../src/NodeRecords.sol";
import {Receipt} from "../src/lib/Receipts.sol";
import {Node, START} from "./ReceiptVerifier.t.sol";
import {Test} from "./Test.sol";
import {ReceiptHarness} from "./harness/ReceiptHarness.sol";

/// @notice Does the same to two registries, except that seats are taken in one of them only.
contract Registries is Node {
    ReceiptHarness private immutable _seated = new ReceiptHarness();
    ReceiptHarness private immutable _plain = new ReceiptHarness();
    uint256 public accepted;
    uint256 public refused;
    uint256 public seats;
    bool public differed;

    function put(uint8 key, uint8 policy, uint32 lasts) external {
        uint64 expiry = uint64(block.timestamp + lasts % 3 days);
        try _seated.put(vm.addr(1 + key % 3), _policy(policy), expiry) {
            _plain.put(vm.addr(1 + key % 3), _policy(policy), expiry);
        } catch {
            vm.expectRevert();
            _plain.put(vm.addr(1 + key % 3), _policy(policy), expiry);
        }
    }

    function takeSeat(uint8 key, uint8 policy, uint8 seat) external {
        try _seated.takeSeat(vm.addr(1 + key % 3), _policy(policy), seat % 4) {
            ++seats;
        } catch {}
    }

    function endEpoch(uint8 policy, uint8 really) external {
        if (really % 4 != 0) return;
        vm.prank(_policy(policy));
        _seated.endEpoch();
        vm.prank(_policy(policy));
        _plain.endEpoch();
    }

    function wait(uint32 time) external {
        vm.warp(block.timestamp + time % 1 days);
        vm.roll(block.number + 1);
    }

    function verify(uint8 key, uint8 policy, uint32 ago) external {
        Receipt memory receipt;
        receipt.servedAt = uint64(block.timestamp + 1 hours - ago % 2 days);
        (bytes32 r, bytes32 vs) = _signed(_plain.structHash(receipt), 1 + key % 3);
        (bool one, bytes memory a) = address(_seated)
            .call(abi.encodeCall(_seated.verifyReceipt, (receipt, r, vs, _policy(policy))));
        (bool other, bytes memory b) = address(_plain)
            .call(abi.encodeCall(_plain.verifyReceipt, (receipt, r, vs, _policy(policy))));
        if (one != other || keccak256(a) != keccak256(b)) differed = true;
        if (one) ++accepted;
        else ++refused;
    }

    /// @notice Whether every seat of each policy belongs to another node, registered since the
    /// epoch ended, and such a node is told that it needs no other.
    function sound() external returns (bool) {
        for (uint8 i; i < 2; ++i) {
            address policy = _policy(i);
            NodeRecords.Seat[] memory all = _seated.seatedNodes(policy);
            for (uint256 seat; seat < all.length; ++seat) {
                if (!_soundSeat(policy, all[seat])) return false;
                for (uint256 other; other < seat; ++other) {
                    if (all[other].signer == all[seat].signer) return false;
                }
            }
        }
        return true;
    }

    function _soundSeat(address policy, NodeRecords.Seat memory seat) private returns (bool) {
        NodeRecords.Node memory node = _seated.nodeOf(seat.signer, policy);
        if (seat.expiry != node.expiry) return false;
        if (node.renewedAt <= _seated.epochEndedAt(policy)) return false;
        vm.expectPartialRevert(AlreadySeated.selector);
        _seated.takeSeat(seat.signer, policy, type(uint256).max);
        return true;
    }

    function _policy(uint8 policy) private pure returns (address) {
        return address(uint160(0xA0 + policy % 2));
    }
}

contract SeatsInvariants is Test {
    Registries private _registries;

    function setUp() public {
        vm.warp(START);
        _registries = new Registries();
        targetContract(address(_registries));
    }

    /// @notice The random calls do what they are for: otherwise nothing below would mean anything.
    function testTheCallsSeatAndAccept() external {
        _registries.put(0, 0, 2 days);
        _registries.takeSeat(0, 0, 0);
        vm.assertEq(_registries.seats(), 1);
        _registries.verify(0, 0, 1 hours);
        vm.assertEq(_registries.accepted(), 1);
        vm.assertTrue(_registries.sound());
        _registries.endEpoch(0, 0);
        _registries.verify(0, 0, 1 hours);
        vm.assertEq(_registries.refused(), 1);
        vm.assertFalse(_registries.differed());
    }

    function invariant_SeatsChangeNoAnswer() public view {
        vm.assertFalse(_registries.differed());
    }

    function invariant_EverySeatIsOfOneNodeOfThisEpoch() public {
        vm.assertTrue(_registries.sound());
    }
}
