// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IReceiptVerifier, WrongContext} from "./interfaces/IReceiptVerifier.sol";
import {Receipt, Receipts} from "./lib/Receipts.sol";

/// @notice There is no such question, or it was answered or refunded already.
error NoSuchQuestion(bytes32 id);
/// @notice Another model answered than was asked for, or one with an adapter on top.
error WrongModel(bytes32 modelDigest, bytes32 adapterDigest);
/// @notice Too late to answer, or to ask with this deadline.
error DeadlinePassed(uint256 deadline);
/// @notice Too early: the question may still be answered.
error DeadlineAhead(uint256 deadline);
/// @notice The recipient refused the money.
error PaymentFailed(address to);

/// @title Example: money that only a genuine answer moves
/// @notice Someone asks and pays in. The provider named in the question sends the request to its
/// node with the question's id as `X-Adyton-Context`, and brings what came back. It is paid if a
/// registered node, running code that the policy allows, with the model asked for, answered this
/// very question with these very bytes. Otherwise the asker takes the money back.
/// @dev A receipt proves what was answered, not that it is any good: a contract that needs a number
/// or a verdict reads it from `response`.
contract PaidAnswer {
    struct Question {
        address asker;
        uint64 deadline;
        address provider;
        uint256 price;
        bytes32 model;
        bytes32 request;
    }

    event Asked(
        bytes32 indexed id, address indexed provider, uint256 price, bytes32 model, bytes request
    );
    event Answered(bytes32 indexed id, address indexed signer, bytes response);
    event Refunded(bytes32 indexed id);

    IReceiptVerifier public immutable verifier;
    /// @notice The policy says which code may answer. It is this contract's, never the caller's.
    address public immutable policy;
    mapping(bytes32 id => Question) public questions;
    uint256 private _asked;

    constructor(IReceiptVerifier verifier_, address policy_) {
        verifier = verifier_;
        policy = policy_;
    }

    /// @notice Asks for an answer of `model` to exactly these bytes, and pays in what it is worth.
    /// @param provider Who is paid; without it, whoever copies an answer first would be.
    function ask(bytes calldata request, bytes32 model, address provider, uint64 deadline)
        external
        payable
        returns (bytes32 id)
    {
        if (deadline <= block.timestamp) revert DeadlinePassed(deadline);
        id = keccak256(abi.encode(block.chainid, address(this), ++_asked));
        questions[id] = Question(msg.sender, deadline, provider, msg.value, model, sha256(request));
        emit Asked(id, provider, msg.value, model, request);
    }

    /// @notice Pays the provider for a verified answer. Anyone may bring it.
    function answer(
        Receipt calldata receipt,
        bytes32 r,
        bytes32 vs,
        bytes32 id,
        bytes32 salt,
        bytes calldata response
    ) external {
        Question memory question = questions[id];
        if (question.asker == address(0)) revert NoSuchQuestion(id);
        if (block.timestamp > question.deadline) revert DeadlinePassed(question.deadline);
        // The answer to this question, by this model, to these bytes, with these bytes.
        if (receipt.context != id) revert WrongContext(receipt.context, id);
        if (receipt.modelDigest != question.model || receipt.adapterDigest != 0) {
            revert WrongModel(receipt.modelDigest, receipt.adapterDigest);
        }
        Receipts.requireOpensHash(receipt.requestHash, salt, question.request);
        Receipts.requireOpens(receipt.responseHash, salt, response);
        address signer = verifier.verifyReceipt(receipt, r, vs, policy);
        // A question is answered once, so nobody needs `consume`. It is gone before money moves.
        delete questions[id];
        emit Answered(id, signer, response);
        _pay(question.provider, question.price);
    }

    /// @notice Gives the asker the money back once the deadline has passed. Anyone may call it.
    function refund(bytes32 id) external {
        Question memory question = questions[id];
        if (question.asker == address(0)) revert NoSuchQuestion(id);
        if (block.timestamp <= question.deadline) revert DeadlineAhead(question.deadline);
        delete questions[id];
        emit Refunded(id);
        _pay(question.asker, question.price);
    }

    function _pay(address to, uint256 amount) private {
        (bool paid,) = to.call{value: amount}("");
        if (!paid) revert PaymentFailed(to);
    }
}
