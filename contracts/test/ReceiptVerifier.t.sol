// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {NodeUnknown, ServedBeforeRegistration, ServedInFuture} from "../src/NodeRecords.sol";
import {AlreadyConsumed} from "../src/ReceiptVerifier.sol";
import {WrongContext} from "../src/interfaces/IReceiptVerifier.sol";
import {HighS, Receipt, Receipts} from "../src/lib/Receipts.sol";
import {Test} from "./Test.sol";
import {ReceiptHarness} from "./harness/ReceiptHarness.sol";

uint256 constant ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
uint64 constant START = 1_780_000_000;
address constant POLICY = address(0x9011C1);

/// @notice Signs as a node does.
abstract contract Node is Test {
    function _signed(bytes32 structHash, uint256 key)
        internal
        pure
        returns (bytes32 r, bytes32 vs)
    {
        uint8 v;
        bytes32 s;
        (v, r, s) = vm.sign(key, Receipts.digest(structHash));
        vs = bytes32(uint256(s) | uint256(v - 27) << 255);
    }
}

contract ReceiptVerifierTest is Node {
    ReceiptHarness private _verifier;

    function setUp() public {
        vm.warp(START);
        _verifier = new ReceiptHarness();
        vm.warp(START + 1 days);
    }

    function testAnyReceiptOfAnyNode(Receipt calldata any, uint256 key, uint64 servedAt) public {
        key = bound(key, 1, ORDER - 1);
        Receipt memory receipt = any;
        receipt.servedAt = uint64(bound(servedAt, START + 1 days, START + 2 days));
        _verifier.put(vm.addr(key), POLICY, START + 3 days);
        vm.warp(START + 2 days);
        bytes32 hash = _verifier.structHash(receipt);
        (bytes32 r, bytes32 vs) = _signed(hash, key);
        vm.assertEq(_verifier.verifyReceipt(receipt, r, vs, POLICY), vm.addr(key));
        vm.assertEq(_verifier.verifyDigest(hash, r, vs, POLICY), vm.addr(key));
    }

    function testStructHashIsTheStandards(Receipt calldata receipt) public view {
        bytes32 due = keccak256(abi.encode(Receipts.TYPEHASH, receipt));
        vm.assertEq(_verifier.structHash(receipt), due);
    }

    function testAnyFlippedBitIsSomebodyElses(Receipt calldata any, uint256 bit) public {
        Receipt memory receipt = any;
        receipt.servedAt = START + 1 days;
        address signer = vm.addr(7);
        _verifier.put(signer, POLICY, START + 3 days);
        (bytes32 r, bytes32 vs) = _signed(_verifier.structHash(receipt), 7);
        bit = bound(bit, 0, 9 * 256 - 1);
        bytes32 mask = bytes32(1 << bit % 256);
        if (bit / 256 == 0) receipt.keysetDigest ^= mask;
        else if (bit / 256 == 1) receipt.modelDigest ^= mask;
        else if (bit / 256 == 2) receipt.adapterDigest ^= mask;
        else if (bit / 256 == 3) receipt.requestHash ^= mask;
        else if (bit / 256 == 4) receipt.responseHash ^= mask;
        else if (bit / 256 == 5) receipt.receiptHash ^= mask;
        else if (bit / 256 == 6) receipt.context ^= mask;
        else if (bit / 256 == 7) r ^= mask;
        else vs ^= mask;
        vm.expectRevert();
        _verifier.verifyReceipt(receipt, r, vs, POLICY);
    }

    /// The other half's s does not verify, whether it fits beside the parity or not.
    function testNoHighS(bytes32 hash, bytes32 r, uint256 s, bool odd) public {
        s = bound(s, ORDER / 2 + 1, type(uint256).max >> 1);
        vm.expectRevert(abi.encodeWithSelector(HighS.selector, s));
        _verifier.verifyDigest(hash, r, bytes32(s | (odd ? 1 << 255 : 0)), POLICY);
    }

    function testRandomSignaturesAreNobodys(bytes32 hash, bytes32 r, bytes32 vs) public {
        _verifier.put(address(0), POLICY, START + 3 days);
        vm.expectRevert();
        _verifier.verifyDigest(hash, r, vs, POLICY);
    }

    function testOnlyWhatWasServedWhileRegistered(uint64 servedAt, uint64 from, uint64 lasts)
        public
    {
        from = uint64(bound(from, START + 1 days, START + 10 days));
        lasts = uint64(bound(lasts, 1, 10 days));
        vm.warp(from);
        _verifier.put(vm.addr(7), POLICY, from + lasts);
        vm.warp(START + 30 days);
        servedAt = uint64(bound(servedAt, START, START + 40 days));
        Receipt memory receipt;
        receipt.servedAt = servedAt;
        (bytes32 r, bytes32 vs) = _signed(_verifier.structHash(receipt), 7);
        if (servedAt > START + 30 days) vm.expectPartialRevert(ServedInFuture.selector);
        else if (servedAt < from) vm.expectPartialRevert(ServedBeforeRegistration.selector);
        else if (servedAt >= from + lasts) vm.expectRevert();
        _verifier.verifyReceipt(receipt, r, vs, POLICY);
    }

    function testAnotherPolicysNodeIsUnknown(address policy, uint256 key) public {
        vm.assume(policy != POLICY);
        key = bound(key, 1, ORDER - 1);
        _verifier.put(vm.addr(key), policy, START + 3 days);
        Receipt memory receipt;
        receipt.servedAt = START + 1 days;
        (bytes32 r, bytes32 vs) = _signed(_verifier.structHash(receipt), key);
        vm.expectRevert(abi.encodeWithSelector(NodeUnknown.selector, vm.addr(key), POLICY));
        _verifier.verifyReceipt(receipt, r, vs, POLICY);
    }

    function testOnlyItsOwnContext(bytes32 context, bytes32 other) public {
        vm.assume(context != other);
        Receipt memory receipt;
        receipt.context = context;
        vm.expectRevert(abi.encodeWithSelector(WrongContext.selector, context, other));
        _verifier.consume(receipt, 0, 0, POLICY, other);
    }

    function testOpensToItsBodyOnly(bytes32 salt, bytes calldata body, bytes calldata other)
        public
    {
        bytes32 commitment = keccak256(abi.encodePacked(salt, sha256(body)));
        _verifier.requireOpens(commitment, salt, body);
        if (keccak256(body) == keccak256(other)) return;
        vm.expectRevert();
        _verifier.requireOpens(commitment, salt, other);
    }
}

/// @notice Consumes a few receipts again and again, under valid signatures of several kinds.
contract Consumers is Node {
    ReceiptHarness private immutable _verifier;
    mapping(address consumer => mapping(bytes32 structHash => uint256)) private _uses;
    uint256 public mostUses;
    uint256 public successes;
    bool public refusedFirstUse;

    constructor(ReceiptHarness verifier) {
        _verifier = verifier;
    }

    function consume(uint8 which, uint8 who, uint8 key) external {
        Receipt memory receipt;
        receipt.context = bytes32(uint256(which % 4));
        receipt.servedAt = START + 1 days;
        bytes32 hash = _verifier.structHash(receipt);
        (bytes32 r, bytes32 vs) = _signed(hash, 1 + key % 2);
        address consumer = address(uint160(0xC0 + who % 3));
        vm.prank(consumer);
        try _verifier.consume(receipt, r, vs, POLICY, receipt.context) {
            ++successes;
            uint256 uses = ++_uses[consumer][hash];
            if (uses > mostUses) mostUses = uses;
        } catch {
            if (_uses[consumer][hash] == 0) refusedFirstUse = true;
        }
    }
}

contract ConsumeInvariants is Test {
    Consumers private _consumers;

    function setUp() public {
        vm.warp(START + 1 days);
        ReceiptHarness verifier = new ReceiptHarness();
        verifier.put(vm.addr(1), POLICY, START + 3 days);
        verifier.put(vm.addr(2), POLICY, START + 3 days);
        _consumers = new Consumers(verifier);
        targetContract(address(_consumers));
    }

    function invariant_AReceiptIsUsedOnceByEach() public view {
        vm.assertLe(_consumers.mostUses(), 1);
        vm.assertLe(_consumers.successes(), 12);
        vm.assertFalse(_consumers.refusedFirstUse());
    }
}
