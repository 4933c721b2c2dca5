// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC165, IERC8274} from "./interfaces/IERC8274.sol";
import {IReceiptVerifier} from "./interfaces/IReceiptVerifier.sol";
import {Receipt} from "./lib/Receipts.sol";

/// @notice The metadata is not abi.encode(bytes32 modelDigest, bytes32 adapterDigest).
error MetadataLength(uint256 length);

/// @notice The proof is not abi.encode(bytes32 keysetDigest, bytes32 receiptHash, bytes32 context,
/// uint64 servedAt, bytes32 r, bytes32 vs).
error ProofLength(uint256 length);

/// @title Receipts for contracts that speak ERC-8274
/// @notice `inputHash` and `outputHash` are the receipt's `requestHash` and `responseHash`:
/// keccak256(salt || sha256(body)). The policy is fixed at deployment and not taken from the
/// metadata, so that no caller can bring one that allows everything. The receipt is put together
/// from all the arguments, so whatever argument lies, another text is hashed, and the signature
/// leads to a key that nobody registered.
/// @dev `verify` returns true or reverts with the reason: a caller that forgets to look at the
/// result is safe. The ERC gives no place to a request's context: it is part of the proof and bound
/// by the signature, but whether it is the caller's own, and whether a proof was used before, is
/// the business of the outer layer, which has the task's id.
contract ReceiptProofAdapter is IERC8274, IERC165 {
    /// @notice Where nodes are registered.
    IReceiptVerifier public immutable verifier;

    /// @notice The measurement policy that nodes must be registered under.
    address public immutable policy;

    constructor(IReceiptVerifier verifier_, address policy_) {
        verifier = verifier_;
        policy = policy_;
    }

    /// @inheritdoc IERC8274
    function verify(
        bytes32 inputHash,
        bytes32 outputHash,
        bytes calldata metadata,
        bytes calldata proof
    ) external view returns (bool) {
        if (metadata.length != 64) revert MetadataLength(metadata.length);
        if (proof.length != 192) revert ProofLength(proof.length);
        Receipt memory receipt;
        bytes32 r;
        bytes32 vs;
        receipt.requestHash = inputHash;
        receipt.responseHash = outputHash;
        (receipt.modelDigest, receipt.adapterDigest) = abi.decode(metadata, (bytes32, bytes32));
        (receipt.keysetDigest, receipt.receiptHash, receipt.context, receipt.servedAt, r, vs) =
            abi.decode(proof, (bytes32, bytes32, bytes32, uint64, bytes32, bytes32));
        verifier.verifyReceipt(receipt, r, vs, policy);
        return true;
    }

    /// @inheritdoc IERC8274
    function proofSystem() public pure returns (string memory) {
        return "tee/adyton";
    }

    /// @inheritdoc IERC8274
    function proofProfile() external view returns (bytes32) {
        return keccak256(
            abi.encodePacked(proofSystem(), keccak256(abi.encode(block.chainid, verifier, policy)))
        );
    }

    /// @inheritdoc IERC165
    function supportsInterface(bytes4 interfaceId) external pure returns (bool) {
        return interfaceId == type(IERC8274).interfaceId || interfaceId == type(IERC165).interfaceId;
    }
}
