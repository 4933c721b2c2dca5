// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice What is stored of a certified key, in one slot; zero where nothing is.
/// From the highest bit down: name (96 bits, the first of keccak256 of the subject's name, all its
/// DER), key id (96, the first of keccak256 of the subject key identifier), notAfter (40),
/// generation (16), role (8).
type KeyRecord is uint256;

/// @notice What is stored of an issuer's CRL, in one slot; zero where nothing is.
/// From the highest bit down: generation (16), edition (16), expiry (32: nextUpdate, or the end of
/// its issuer's certificate where that is earlier), thisUpdate (32), address of the code that holds
/// the tags of revoked serials (160, zero where none is revoked).
///
/// The edition counts how often the issuer's list of revoked serials was replaced by another one.
/// Issuer and edition name one list for ever: it never goes back, and where it stays so does the
/// list, also where that is empty.
type CrlRecord is uint256;

/// @notice What is stored of a PCK leaf, in one slot; zero where nothing is.
/// From the highest bit down: commitment (200 bits, the first of a hash of what the leaf says),
/// notAfter (40), edition (16) of its issuer's list by which it was last found not revoked.
type LeafRecord is uint256;

using KeyRecords for KeyRecord global;
using CrlRecords for CrlRecord global;
using LeafRecords for LeafRecord global;

/// @title The fields of a `KeyRecord`
library KeyRecords {
    function pack(bytes32 name, bytes20 keyId, uint256 until, uint256 generation_, uint256 role_)
        internal
        pure
        returns (KeyRecord)
    {
        uint256 names = (uint256(name) >> 160) << 160 | (uint256(_hashOf(keyId)) >> 160) << 64;
        uint256 rest = uint256(uint40(until)) << 24 | uint256(uint16(generation_)) << 8;
        return KeyRecord.wrap(names | rest | uint8(role_));
    }

    /// @notice Whether the certified subject has the name of this hash.
    function isNamed(KeyRecord key, bytes32 name) internal pure returns (bool) {
        return (KeyRecord.unwrap(key) ^ uint256(name)) >> 160 == 0;
    }

    /// @notice Whether the certified key has this identifier.
    function hasId(KeyRecord key, bytes20 keyId) internal pure returns (bool) {
        return (KeyRecord.unwrap(key) >> 64 ^ uint256(_hashOf(keyId)) >> 160) << 160 == 0;
    }

    function notAfter(KeyRecord key) internal pure returns (uint256) {
        return (KeyRecord.unwrap(key) >> 24) & 0xffffffffff;
    }

    function generation(KeyRecord key) internal pure returns (uint256) {
        return (KeyRecord.unwrap(key) >> 8) & 0xffff;
    }

    function role(KeyRecord key) internal pure returns (uint256) {
        return KeyRecord.unwrap(key) & 0xff;
    }

    function _hashOf(bytes20 keyId) private pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            mstore(0, keyId)
            hash := keccak256(0, 20)
        }
    }
}

/// @title The fields of a `CrlRecord`
library CrlRecords {
    /// @dev Times must be below 2^32; generation and edition below 2^16.
    function pack(
        address pointer,
        uint256 issued,
        uint256 until,
        uint256 edition_,
        uint256 generation_
    ) internal pure returns (CrlRecord) {
        uint256 dates = until << 192 | issued << 160;
        return CrlRecord.wrap(generation_ << 240 | edition_ << 224 | dates | uint160(pointer));
    }

    function revoked(CrlRecord crl) internal pure returns (address) {
        return address(uint160(CrlRecord.unwrap(crl)));
    }

    function thisUpdate(CrlRecord crl) internal pure returns (uint256) {
        return (CrlRecord.unwrap(crl) >> 160) & 0xffffffff;
    }

    function expiry(CrlRecord crl) internal pure returns (uint256) {
        return (CrlRecord.unwrap(crl) >> 192) & 0xffffffff;
    }

    function edition(CrlRecord crl) internal pure returns (uint256) {
        return (CrlRecord.unwrap(crl) >> 224) & 0xffff;
    }

    /// @notice Whether both were submitted in the same generation.
    function isOfGeneration(CrlRecord crl, CrlRecord other) internal pure returns (bool) {
        return (CrlRecord.unwrap(crl) ^ CrlRecord.unwrap(other)) >> 240 == 0;
    }

    function generation(CrlRecord crl) internal pure returns (uint256) {
        return CrlRecord.unwrap(crl) >> 240;
    }
}

/// @title The fields of a `LeafRecord`
library LeafRecords {
    /// @dev `until` must be below 2^40, as every date of a certificate is; `edition_` below 2^16.
    function pack(bytes32 hash, uint256 until, uint256 edition_)
        internal
        pure
        returns (LeafRecord)
    {
        return LeafRecord.wrap((uint256(hash) >> 56) << 56 | until << 16 | edition_);
    }

    /// @notice Whether what was hashed is what the leaf says.
    function says(LeafRecord leaf, bytes32 hash) internal pure returns (bool) {
        return (LeafRecord.unwrap(leaf) ^ uint256(hash)) >> 56 == 0;
    }

    function notAfter(LeafRecord leaf) internal pure returns (uint256) {
        return (LeafRecord.unwrap(leaf) >> 16) & 0xffffffffff;
    }

    function edition(LeafRecord leaf) internal pure returns (uint256) {
        return LeafRecord.unwrap(leaf) & 0xffff;
    }
}
