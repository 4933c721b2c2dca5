// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice What is stored of a certified key, in one slot; zero where nothing is.
/// From the highest bit down: name (96 bits, the first of keccak256 of the subject's name, all its
/// DER), key id (96, the first of keccak256 of the subject key identifier), notAfter (40),
/// generation (16), role (8).
type KeyRecord is uint256;

/// @notice What is stored of an issuer's CRL, in one slot; zero where nothing is.
/// From the highest bit down: generation (16), expiry (40: nextUpdate, or the end of its issuer's
/// certificate where that is earlier), thisUpdate (40), address of the code that holds the tags of
/// revoked serials (160, zero where none is revoked).
type CrlRecord is uint256;

using KeyRecords for KeyRecord global;
using CrlRecords for CrlRecord global;

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
    function pack(address pointer, uint256 issued, uint256 until, uint256 generation_)
        internal
        pure
        returns (CrlRecord)
    {
        uint256 dates = uint256(uint40(until)) << 200 | uint256(uint40(issued)) << 160;
        return CrlRecord.wrap(generation_ << 240 | dates | uint160(pointer));
    }

    function revoked(CrlRecord crl) internal pure returns (address) {
        return address(uint160(CrlRecord.unwrap(crl)));
    }

    function thisUpdate(CrlRecord crl) internal pure returns (uint256) {
        return (CrlRecord.unwrap(crl) >> 160) & 0xffffffffff;
    }

    function expiry(CrlRecord crl) internal pure returns (uint256) {
        return (CrlRecord.unwrap(crl) >> 200) & 0xffffffffff;
    }

    function generation(CrlRecord crl) internal pure returns (uint256) {
        return CrlRecord.unwrap(crl) >> 240;
    }
}
