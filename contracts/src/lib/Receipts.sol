// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice What a node's key signs about one exchange. Where nothing applies the word is zero.
/// @param keysetDigest sha256 of the keyset that lists the key.
/// @param modelDigest sha256 over the digests of every file of the model that answered.
/// @param adapterDigest Likewise of the fine-tuned adapter.
/// @param requestHash keccak256(salt || sha256(request body as it came off the wire)).
/// @param responseHash keccak256(salt || sha256(response body as it was emitted)).
/// @param receiptHash sha256 of the ACI receipt of the same exchange, without its signature.
/// @param context Chosen by whoever asked, so that an answer belongs to one question.
/// @param servedAt Unix seconds, by the node's clock.
struct Receipt {
    bytes32 keysetDigest;
    bytes32 modelDigest;
    bytes32 adapterDigest;
    bytes32 requestHash;
    bytes32 responseHash;
    bytes32 receiptHash;
    bytes32 context;
    uint64 servedAt;
}

/// @notice No key makes this signature: r, s or the parity were damaged on the way.
error BadSignature();

/// @notice s lies in the upper half of the group's order, so the signature is the malleated twin
/// of another. Submit the one that the node made.
error HighS(uint256 s);

/// @notice These bytes under this salt are not what the receipt commits to. Submit the body
/// exactly as it crossed the wire, and the salt that came with it.
error CommitmentMismatch(bytes32 commitment, bytes32 opened);

/// @title Receipts: how they are hashed, whose they are, and what they commit to
/// @notice EIP-712 over the domain (name "Adyton", version "1"), without chain and contract: a
/// receipt states what happened, on whichever chain its node is registered. For one exchange to
/// count once and for one question, see `context` and `ReceiptVerifier.consume`.
library Receipts {
    /// @dev keccak256 of the domain type, keccak256("Adyton") and keccak256("1").
    bytes32 internal constant DOMAIN_SEPARATOR =
        0x9662d4f310cd4f213e5e383ac7759e0fc2fb04bf2a03589d3288de7207ae9ddb;

    bytes32 internal constant TYPEHASH = keccak256(
        "Receipt(bytes32 keysetDigest,bytes32 modelDigest,bytes32 adapterDigest,bytes32 requestHash,bytes32 responseHash,bytes32 receiptHash,bytes32 context,uint64 servedAt)"
    );

    uint256 internal constant HALF_ORDER =
        0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    /// @notice The EIP-712 struct hash. One receipt has one, whatever its signature.
    function structHash(Receipt calldata receipt) internal pure returns (bytes32 hash) {
        bytes32 typehash = TYPEHASH;
        // Eight static words: Solidity has bounded them by the calldata before this point.
        assembly ("memory-safe") {
            let p := mload(0x40)
            mstore(p, typehash)
            calldatacopy(add(p, 0x20), receipt, 0x100)
            hash := keccak256(p, 0x120)
        }
    }

    /// @notice What is signed for a struct of this domain.
    function digest(bytes32 hash) internal pure returns (bytes32 signed) {
        bytes32 separator = DOMAIN_SEPARATOR;
        // Writes 66 bytes after the free memory pointer, which is enough to keep nothing.
        assembly ("memory-safe") {
            let p := mload(0x40)
            mstore(p, hex"1901")
            mstore(add(p, 0x02), separator)
            mstore(add(p, 0x22), hash)
            signed := keccak256(p, 0x42)
        }
    }

    /// @notice The address that signed the struct with this hash. Reverts for a high s, and where
    /// no key fits.
    /// @param vs s, with the parity of the nonce's point in the highest bit (EIP-2098).
    function signerOf(bytes32 hash, bytes32 r, bytes32 vs) internal view returns (address signer) {
        uint256 s = uint256(vs) & (type(uint256).max >> 1);
        if (s > HALF_ORDER) revert HighS(s);
        bytes32 separator = DOMAIN_SEPARATOR;
        // Writes 128 bytes after the free memory pointer, enough to keep nothing, and has the
        // answer put into scratch space. The precompile answers nothing, with success, where no
        // key fits: the length tells.
        assembly ("memory-safe") {
            let p := mload(0x40)
            mstore(p, hex"1901")
            mstore(add(p, 0x02), separator)
            mstore(add(p, 0x22), hash)
            mstore(p, keccak256(p, 0x42))
            mstore(add(p, 0x20), add(27, shr(255, vs)))
            mstore(add(p, 0x40), r)
            mstore(add(p, 0x60), s)
            let ok := staticcall(gas(), 1, p, 0x80, 0, 0x20)
            signer := mul(mload(0), and(ok, eq(returndatasize(), 0x20)))
        }
        if (signer == address(0)) revert BadSignature();
    }

    /// @notice Reverts unless `commitment` was made over exactly `body` with `salt`.
    function requireOpens(bytes32 commitment, bytes32 salt, bytes calldata body) internal pure {
        requireOpensHash(commitment, salt, sha256(body));
    }

    /// @notice Reverts unless `commitment` was made with `salt` over a body of this sha256.
    function requireOpensHash(bytes32 commitment, bytes32 salt, bytes32 bodySha256) internal pure {
        bytes32 opened = keccak256(abi.encode(salt, bodySha256));
        if (opened != commitment) revert CommitmentMismatch(commitment, opened);
    }
}
