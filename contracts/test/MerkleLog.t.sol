// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Test} from "./Test.sol";
import {ReceiptHarness} from "./harness/ReceiptHarness.sol";

/// @title Trees by their definition: recursive, one split at a time
/// @notice Source: RFC 9162, sections 2.1.1, 2.1.3.1 and 2.1.4.1.
library Defined {
    function root(bytes32[] memory leaves, uint256 from, uint256 to, bool keccak)
        internal
        pure
        returns (bytes32)
    {
        if (to - from == 1) return _hash(abi.encodePacked(uint8(0), leaves[from]), keccak);
        uint256 k = split(to - from);
        bytes32 left = root(leaves, from, from + k, keccak);
        bytes32 right = root(leaves, from + k, to, keccak);
        return _hash(abi.encodePacked(uint8(1), left, right), keccak);
    }

    function inclusion(bytes32[] memory leaves, uint256 index, uint256 from, uint256 to)
        internal
        pure
        returns (bytes32[] memory)
    {
        if (to - from == 1) return new bytes32[](0);
        uint256 middle = from + split(to - from);
        if (index < middle) {
            return _with(inclusion(leaves, index, from, middle), root(leaves, middle, to, false));
        }
        return _with(inclusion(leaves, index, middle, to), root(leaves, from, middle, false));
    }

    function consistency(bytes32[] memory leaves, uint256 m, uint256 from, uint256 to, bool whole)
        internal
        pure
        returns (bytes32[] memory)
    {
        bytes32[] memory none = new bytes32[](0);
        if (m == to) return whole ? none : _with(none, root(leaves, from, to, false));
        uint256 middle = from + split(to - from);
        if (m <= middle) {
            return
                _with(consistency(leaves, m, from, middle, whole), root(leaves, middle, to, false));
        }
        return _with(consistency(leaves, m, middle, to, false), root(leaves, from, middle, false));
    }

    function split(uint256 n) internal pure returns (uint256 k) {
        k = 1;
        while (k << 1 < n) k <<= 1;
    }

    function _hash(bytes memory data, bool keccak) private pure returns (bytes32) {
        return keccak ? keccak256(data) : sha256(data);
    }

    function _with(bytes32[] memory list, bytes32 last)
        private
        pure
        returns (bytes32[] memory longer)
    {
        longer = new bytes32[](list.length + 1);
        for (uint256 i; i < list.length; ++i) {
            longer[i] = list[i];
        }
        longer[list.length] = last;
    }
}

contract MerkleLogTest is Test {
    ReceiptHarness private _trees;

    function setUp() public {
        _trees = new ReceiptHarness();
    }

    function testBatchRootIsTheDefinitions(bytes32 seed, uint256 size) public view {
        size = bound(size, 1, 130);
        bytes32[] memory leaves = _leaves(seed, size);
        vm.assertEq(_trees.batchRoot(leaves), Defined.root(leaves, 0, size, true));
    }

    function testBatchRootTellsLeavesApart(bytes32 seed, uint256 size, uint256 at, uint256 bit)
        public
        view
    {
        size = bound(size, 1, 70);
        at = bound(at, 0, size - 1);
        bytes32[] memory leaves = _leaves(seed, size);
        bytes32 root = _trees.batchRoot(leaves);
        leaves[at] ^= bytes32(1 << bound(bit, 0, 255));
        vm.assertNotEq(_trees.batchRoot(leaves), root);
    }

    function testBatchRootTellsOrderAndNumberApart(bytes32 seed, uint256 size, uint256 a, uint256 b)
        public
        view
    {
        size = bound(size, 2, 70);
        a = bound(a, 0, size - 1);
        b = bound(b, 0, size - 1);
        bytes32[] memory leaves = _leaves(seed, size);
        bytes32 root = _trees.batchRoot(leaves);
        vm.assertNotEq(_trees.batchRoot(_leaves(seed, size - 1)), root);
        (leaves[a], leaves[b]) = (leaves[b], leaves[a]);
        vm.assertTrue((_trees.batchRoot(leaves) == root) == (a == b));
    }

    function testEveryEntryIsFoundAndOnlyThere(
        bytes32 seed,
        uint256 size,
        uint256 index,
        uint256 other
    ) public view {
        size = bound(size, 1, 70);
        index = bound(index, 0, size - 1);
        other = bound(other, 0, size - 1);
        bytes32[] memory leaves = _leaves(seed, size);
        bytes32[] memory proof = Defined.inclusion(leaves, index, 0, size);
        bytes32 root = Defined.root(leaves, 0, size, false);
        vm.assertEq(_trees.logRoot(leaves[index], index, size, proof), root);
        if (other == index) return;
        vm.assertNotEq(_trees.logRoot(leaves[other], index, size, proof), root);
        try _trees.logRoot(leaves[index], other, size, proof) returns (bytes32 found) {
            vm.assertNotEq(found, root);
        } catch {}
    }

    function testAnotherProofProvesNothing(
        bytes32 seed,
        uint256 size,
        uint256 index,
        bytes32[] calldata proof
    ) public view {
        size = bound(size, 1, 70);
        index = bound(index, 0, size - 1);
        bytes32[] memory leaves = _leaves(seed, size);
        bytes32[] memory right = Defined.inclusion(leaves, index, 0, size);
        if (keccak256(abi.encode(right)) == keccak256(abi.encode(proof))) return;
        try _trees.logRoot(leaves[index], index, size, proof) returns (bytes32 found) {
            vm.assertNotEq(found, Defined.root(leaves, 0, size, false));
        } catch {}
    }

    function testEveryGrowthIsFollowed(bytes32 seed, uint256 earlier, uint256 size) public view {
        size = bound(size, 2, 70);
        earlier = bound(earlier, 1, size - 1);
        bytes32[] memory leaves = _leaves(seed, size);
        _trees.requireConsistent(
            earlier,
            Defined.root(leaves, 0, earlier, false),
            size,
            Defined.root(leaves, 0, size, false),
            Defined.consistency(leaves, earlier, 0, size, true)
        );
    }

    function testNoRewritingIsFollowed(bytes32 seed, uint256 earlier, uint256 size, uint256 at)
        public
    {
        size = bound(size, 2, 70);
        earlier = bound(earlier, 1, size - 1);
        bytes32[] memory leaves = _leaves(seed, size);
        bytes32 before = Defined.root(leaves, 0, earlier, false);
        leaves[bound(at, 0, earlier - 1)] ^= bytes32(uint256(1));
        bytes32 root = Defined.root(leaves, 0, size, false);
        bytes32[] memory proof = Defined.consistency(leaves, earlier, 0, size, true);
        vm.expectRevert();
        _trees.requireConsistent(earlier, before, size, root, proof);
    }

    function testAnotherConsistencyProofProvesNothing(
        bytes32 seed,
        uint256 earlier,
        uint256 size,
        bytes32[] calldata proof
    ) public {
        size = bound(size, 2, 70);
        earlier = bound(earlier, 1, size - 1);
        bytes32[] memory leaves = _leaves(seed, size);
        bytes32[] memory right = Defined.consistency(leaves, earlier, 0, size, true);
        if (keccak256(abi.encode(right)) == keccak256(abi.encode(proof))) return;
        bytes32 before = Defined.root(leaves, 0, earlier, false);
        bytes32 root = Defined.root(leaves, 0, size, false);
        vm.expectRevert();
        _trees.requireConsistent(earlier, before, size, root, proof);
    }

    function _leaves(bytes32 seed, uint256 size) private pure returns (bytes32[] memory leaves) {
        leaves = new bytes32[](size);
        for (uint256 i; i < size; ++i) {
            leaves[i] = keccak256(abi.encode(seed, i));
        }
    }
}
