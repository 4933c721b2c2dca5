// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ReceiptVerifier} from "../../src/ReceiptVerifier.sol";
import {IReceiptVerifier} from "../../src/interfaces/IReceiptVerifier.sol";
import {MerkleLog} from "../../src/lib/MerkleLog.sol";
import {Receipt, Receipts} from "../../src/lib/Receipts.sol";

/// @title A receipt verifier whose nodes need no quote: registration is tested elsewhere
contract ReceiptHarness is ReceiptVerifier {
    function put(address signer, address policy, uint64 expiry) external {
        _renew(signer, policy, expiry, block.number);
    }

    function structHash(Receipt calldata receipt) external pure returns (bytes32) {
        return Receipts.structHash(receipt);
    }

    function requireOpens(bytes32 commitment, bytes32 salt, bytes calldata body) external pure {
        Receipts.requireOpens(commitment, salt, body);
    }

    function batchRoot(bytes32[] calldata leaves) external pure returns (bytes32) {
        return MerkleLog.batchRoot(leaves);
    }

    function logRoot(bytes32 entry, uint256 index, uint256 size, bytes32[] calldata proof)
        external
        view
        returns (bytes32)
    {
        return MerkleLog.rootOf(MerkleLog.leafHash(entry), index, size, proof);
    }

    function requireConsistent(
        uint256 earlierSize,
        bytes32 earlierRoot,
        uint256 size,
        bytes32 root,
        bytes32[] calldata proof
    ) external view {
        MerkleLog.requireConsistent(earlierSize, earlierRoot, size, root, proof);
    }
}

/// @title A contract that checks receipts inside its own transaction
contract ReceiptCaller {
    IReceiptVerifier public immutable verifier;

    constructor(IReceiptVerifier verifier_) {
        verifier = verifier_;
    }

    function check(Receipt calldata receipt, bytes32 r, bytes32 vs, address policy)
        external
        returns (address)
    {
        return verifier.verifyReceipt(receipt, r, vs, policy);
    }

    function checkDigest(bytes32 structHash, bytes32 r, bytes32 vs, address policy)
        external
        returns (address)
    {
        return verifier.verifyDigest(structHash, r, vs, policy);
    }
}

/// @title A provider or asker that, when it is paid, tries to be paid again
contract Reentrant {
    address private immutable _target;
    bytes private _again;
    /// @notice How often it was paid, and whether calling back succeeded.
    uint256 public payments;
    bool public succeeded;

    constructor(address target) {
        _target = target;
    }

    function arm(bytes calldata again) external {
        _again = again;
    }

    function ask(bytes calldata call_) external payable returns (bytes32 id) {
        (bool ok, bytes memory answer) = _target.call{value: msg.value}(call_);
        require(ok);
        return abi.decode(answer, (bytes32));
    }

    receive() external payable {
        ++payments;
        (bool ok,) = _target.call(_again);
        succeeded = succeeded || ok;
    }
}
