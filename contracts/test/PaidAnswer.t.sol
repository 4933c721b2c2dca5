// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {PaidAnswer} from "../src/PaidAnswer.sol";
import {IReceiptVerifier} from "../src/interfaces/IReceiptVerifier.sol";
import {Receipt} from "../src/lib/Receipts.sol";
import {Node, POLICY, START} from "./ReceiptVerifier.t.sol";
import {Test} from "./Test.sol";
import {ReceiptHarness} from "./harness/ReceiptHarness.sol";

bytes32 constant MODEL = keccak256("the model");
bytes constant REQUEST = "how many?";
bytes constant RESPONSE = "enough";

/// @notice Asks, answers rightly and wrongly, waits and asks for refunds; keeps the books.
contract Market is Node {
    PaidAnswer private immutable _paid;
    ReceiptHarness private immutable _verifier;
    bytes32[] private _ids;
    mapping(bytes32 id => uint256) private _prices;
    mapping(bytes32 id => uint256) private _settled;
    uint256 public asked;
    uint256 public answered;
    uint256 public refunded;
    uint256 public open;
    uint256 public mostSettled;
    bool public paidForNothing;

    constructor(PaidAnswer paid, ReceiptHarness verifier) {
        _paid = paid;
        _verifier = verifier;
    }

    function ask(uint96 price, uint32 wait) external {
        uint64 deadline = uint64(block.timestamp + 1 + wait % 1 days);
        vm.deal(address(this), price);
        bytes32 id = _paid.ask{value: price}(REQUEST, MODEL, address(0xBEEF), deadline);
        _ids.push(id);
        _prices[id] = price;
        open += price;
        ++asked;
    }

    function answer(uint8 which, uint8 flaw) external {
        if (_ids.length == 0) return;
        bytes32 id = _ids[which % _ids.length];
        flaw = flaw % 12;
        Receipt memory receipt;
        receipt.modelDigest = flaw == 0 ? bytes32(0) : MODEL;
        receipt.adapterDigest = flaw == 1 ? MODEL : bytes32(0);
        receipt.requestHash = _commitment(flaw == 2 ? RESPONSE : REQUEST);
        receipt.responseHash = _commitment(flaw == 3 ? REQUEST : RESPONSE);
        receipt.context = flaw == 4 ? ~id : id;
        receipt.servedAt = flaw == 5 ? START : uint64(block.timestamp);
        (bytes32 r, bytes32 vs) = _signed(_verifier.structHash(receipt), flaw == 6 ? 2 : 1);
        try _paid.answer(receipt, r, vs, id, 0, RESPONSE) {
            if (flaw < 7) paidForNothing = true;
            ++answered;
            _settle(id);
        } catch {}
    }

    function refund(uint8 which) external {
        if (_ids.length == 0) return;
        bytes32 id = _ids[which % _ids.length];
        try _paid.refund(id) {
            ++refunded;
            _settle(id);
        } catch {}
    }

    function wait(uint32 time) external {
        vm.warp(block.timestamp + time % 1 days);
    }

    receive() external payable {}

    function _settle(bytes32 id) private {
        if (++_settled[id] > mostSettled) mostSettled = _settled[id];
        open -= _prices[id];
    }

    function _commitment(bytes memory body) private pure returns (bytes32) {
        return keccak256(abi.encode(bytes32(0), sha256(body)));
    }
}

contract PaidAnswerInvariants is Test {
    PaidAnswer private _paid;
    Market private _market;

    function setUp() public {
        vm.warp(START + 1 days);
        ReceiptHarness verifier = new ReceiptHarness();
        verifier.put(vm.addr(1), POLICY, START + 3650 days);
        _paid = new PaidAnswer(IReceiptVerifier(verifier), POLICY);
        _market = new Market(_paid, verifier);
        targetContract(address(_market));
    }

    function invariant_TheContractHoldsWhatOpenQuestionsPaid() public view {
        vm.assertEq(address(_paid).balance, _market.open());
    }

    function invariant_AQuestionIsSettledOnceAndForAGenuineAnswer() public view {
        vm.assertLe(_market.mostSettled(), 1);
        vm.assertLe(_market.answered() + _market.refunded(), _market.asked());
        vm.assertFalse(_market.paidForNothing());
    }

    function testTheMarketWorks() public {
        _market.ask(1 ether, 100);
        _market.answer(0, 0);
        vm.assertEq(_market.answered(), 0);
        _market.answer(0, 11);
        vm.assertEq(_market.answered(), 1);
        vm.assertEq(address(0xBEEF).balance, 1 ether);
        _market.ask(1 ether, 100);
        _market.wait(200);
        _market.refund(1);
        vm.assertEq(_market.refunded(), 1);
        vm.assertEq(_market.open(), 0);
    }
}
