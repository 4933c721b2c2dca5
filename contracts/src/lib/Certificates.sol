// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Dates} from "./Dates.sol";
import {Der, DerOverrun, DerTrailing} from "./Der.sol";

/// @notice Only version 3 certificates and version 2 CRLs are read.
error VersionUnsupported();
/// @notice The algorithm, named in the signed part or beside the signature, is not ECDSA with
/// SHA-256 without parameters.
error SignatureAlgorithmUnsupported();
/// @notice The subject's key is not an uncompressed point on P-256.
error PublicKeyUnsupported();
/// @notice The signature is not an ECDSA-Sig-Value of two integers and nothing else.
error SignatureMalformed();
/// @notice The certificate is valid only from this time on.
error CertificateNotYetValid(uint256 notBefore);
/// @notice The certificate was valid until this time: get its successor from Intel.
error CertificateExpired(uint256 notAfter);
/// @notice The serial number is zero: it would identify nothing.
error SerialMissing();
/// @notice An extension stands twice: which one counts would be the reader's choice.
error ExtensionRepeated(bytes32 oid);
/// @notice A critical extension that is not understood here forbids use of the document.
error CriticalExtensionUnknown(bytes32 oid);
/// @notice An extension's value, critical flag or identifier is not in the one form it may have.
error ExtensionMalformed(bytes32 oid);
/// @notice There is no authority key identifier of 20 bytes.
error AuthorityKeyIdMissing();
/// @notice There is no subject key identifier of 20 bytes.
error SubjectKeyIdMissing();
/// @notice There is no basic-constraints extension, so nobody said whether this is a CA.
error BasicConstraintsMissing();
/// @notice There is no key-usage extension, so nobody said what the key is for.
error KeyUsageMissing();
/// @notice A CA's key must be for signing certificates and CRLs, any other for digital signatures
/// and for neither of these.
error KeyUsageUnsuitable(bool ca, uint256 usage);

/// @notice What is checked of a certificate beyond its structure, and where its parts stand.
/// @param tbsEnd The signed part reaches from `tbs` to here (calldata offsets).
/// @param issuer Hash of the issuer's name, all its DER.
/// @param subject Where the subject's name stands, until `subjectEnd`.
/// @param pathLength The greatest number of CAs below this one, 2^256-1 where it is not limited.
/// @param sgx Where the value of Intel's SGX extension starts, 0 where there is none.
struct Certificate {
    uint256 tbs;
    uint256 tbsEnd;
    uint256 r;
    uint256 s;
    uint256 serial;
    bytes32 issuer;
    uint256 subject;
    uint256 subjectEnd;
    uint256 notAfter;
    uint256 x;
    uint256 y;
    bytes20 authorityKeyId;
    bytes20 subjectKeyId;
    bool ca;
    uint256 pathLength;
    uint256 sgx;
    uint256 sgxEnd;
}

/// @title X.509 certificates of Intel's SGX PKI, read completely and strictly
/// @notice Reading proves nothing: whoever reads checks the signature, issuer and revocation.
/// Source: RFC 5280; Intel SGX PCK Certificate and CRL Profile Specification 1.5.
library Certificates {
    /// @dev OBJECT IDENTIFIERs, whole.
    uint256 private constant AUTHORITY_KEY_ID = 0x0603551d23;
    uint256 private constant SUBJECT_KEY_ID = 0x0603551d0e;
    uint256 private constant KEY_USAGE = 0x0603551d0f;
    uint256 private constant BASIC_CONSTRAINTS = 0x0603551d13;
    uint256 private constant SGX = 0x06092a864886f84d010d01;
    /// @dev SEQUENCE { OBJECT IDENTIFIER ecdsa-with-SHA256 }.
    uint256 private constant ALGORITHM = 0x300a06082a8648ce3d040302;
    /// @dev SubjectPublicKeyInfo of a P-256 key up to the point's coordinates.
    uint256 private constant KEY = 0x3059301306072a8648ce3d020106082a8648ce3d03010703420004;

    /// @dev Extensions up to the 20 bytes of the identifier.
    uint256 private constant PLAIN_AUTHORITY_KEY_ID = 0x301f0603551d23041830168014;
    uint256 private constant PLAIN_SUBJECT_KEY_ID = 0x301d0603551d0e04160414;
    /// @dev Extensions of leaves, whole and critical: no CA, for digital signatures and to be held
    /// to them.
    uint256 private constant LEAF_CONSTRAINTS = 0x300c0603551d130101ff04023000;
    uint256 private constant LEAF_USAGE = 0x300e0603551d0f0101ff0404030206c0;

    uint256 private constant HAS_AUTHORITY_KEY_ID = 1;
    uint256 private constant HAS_SUBJECT_KEY_ID = 2;
    uint256 private constant HAS_KEY_USAGE = 4;
    uint256 private constant HAS_BASIC_CONSTRAINTS = 8;
    uint256 private constant HAS_SGX = 16;

    /// @notice The certificate that `der` is, valid now.
    function read(bytes calldata der) internal view returns (Certificate memory c) {
        unchecked {
            uint256 at;
            assembly ("memory-safe") {
                at := der.offset
            }
            uint256 end = at + der.length;
            at = Der.openLast(at, end, Der.SEQUENCE);
            c.tbs = at;
            uint256 tbs;
            (tbs, at) = Der.open(at, end, Der.SEQUENCE);
            c.tbsEnd = at;
            (c.r, c.s) = signature(at, end);
            _readTbs(c, tbs, at);
        }
    }

    /// @notice The signature that stands from `at` to `end`, algorithm first.
    function signature(uint256 at, uint256 end) internal pure returns (uint256 r, uint256 s) {
        unchecked {
            at = algorithm(at, end);
            // BIT STRING without unused bits, of a SEQUENCE that fills it: 72 bytes at most.
            uint256 size = end - at;
            if (size > 80 || Der.word(at) >> 216 != 0x0300003000 + ((size - 2) << 24) + size - 5) {
                revert SignatureMalformed();
            }
            at += 5;
            (r, at) = Der.unsigned(at, end, 32);
            (s, at) = Der.unsigned(at, end, 32);
            if (at != end) revert DerTrailing(Der.INTEGER);
        }
    }

    /// @notice The position after the algorithm at `at`, which must be ECDSA with SHA-256.
    function algorithm(uint256 at, uint256 end) internal pure returns (uint256 next) {
        unchecked {
            next = at + 12;
            if (next > end || Der.word(at) >> 160 != ALGORITHM) {
                revert SignatureAlgorithmUnsupported();
            }
        }
    }

    /// @notice Hash of the element from `at` to `next`.
    function hashOf(uint256 at, uint256 next) internal pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            // Scratch beyond the free pointer, never kept. `next` was checked against the end.
            let p := mload(0x40)
            calldatacopy(p, at, sub(next, at))
            hash := keccak256(p, sub(next, at))
        }
    }

    /// @notice One extension at `at`: its identifier (the OBJECT IDENTIFIER whole, right-aligned),
    /// whether it is critical, and where its value stands.
    function extension(uint256 at, uint256 end)
        internal
        pure
        returns (uint256 oid, bool critical, uint256 value, uint256 next)
    {
        unchecked {
            (value, next) = Der.open(at, end, Der.SEQUENCE);
            uint256 head = Der.word(value);
            uint256 size = (head >> 240) ^ (Der.OBJECT_IDENTIFIER << 8);
            if (size > 30) revert ExtensionMalformed(bytes32(head));
            oid = head >> (240 - (size << 3));
            // The value's end is checked against the extension's, and with it what comes before.
            value += 2 + size;
            head = Der.word(value);
            if (head >> 248 == Der.BOOLEAN) {
                // DER: true is 0xff, and false, the default, is not written.
                if (head >> 232 != 0x0101ff) revert ExtensionMalformed(bytes32(oid));
                critical = true;
                value += 3;
            }
            value = Der.openLast(value, next, Der.OCTET_STRING);
        }
    }

    /// @notice The 20 bytes of an authority key identifier whose value stands from `value` to
    /// `next`: that identifier and nothing else.
    function authorityKeyId(uint256 value, uint256 next) internal pure returns (bytes20) {
        unchecked {
            if (next - value != 24 || Der.word(value) >> 224 != 0x30168014) {
                revert AuthorityKeyIdMissing();
            }
            return bytes20(bytes32(Der.word(value + 4)));
        }
    }

    function _readTbs(Certificate memory c, uint256 at, uint256 end) private view {
        unchecked {
            if (at + 5 > end || Der.word(at) >> 216 != 0xa003020102) revert VersionUnsupported();
            (c.serial, at) = Der.unsigned(at + 5, end, 20);
            if (c.serial == 0) revert SerialMissing();
            at = algorithm(at, end);
            (, uint256 next) = Der.open(at, end, Der.SEQUENCE);
            c.issuer = hashOf(at, next);
            (uint256 dates, uint256 datesEnd) = Der.open(next, end, Der.SEQUENCE);
            c.notAfter = _readValidity(dates, datesEnd);
            (, next) = Der.open(datesEnd, end, Der.SEQUENCE);
            (c.subject, c.subjectEnd) = (datesEnd, next);
            if (next + 91 > end || Der.word(next) >> 40 != KEY) revert PublicKeyUnsupported();
            c.x = Der.word(next + 27);
            c.y = Der.word(next + 59);
            at = Der.openLast(next + 91, end, 0xa3);
            _readExtensions(c, Der.openLast(at, end, Der.SEQUENCE), end);
        }
    }

    function _readValidity(uint256 at, uint256 end) private view returns (uint256 notAfter) {
        uint256 notBefore;
        (notBefore, at) = Dates.read(at, end);
        if (block.timestamp < notBefore) revert CertificateNotYetValid(notBefore);
        (notAfter, at) = Dates.read(at, end);
        if (block.timestamp > notAfter) revert CertificateExpired(notAfter);
        if (at != end) revert DerTrailing(Der.SEQUENCE);
    }

    function _readExtensions(Certificate memory c, uint256 at, uint256 end) private pure {
        unchecked {
            uint256 seen;
            uint256 usage;
            while (at < end) {
                uint256 head = Der.word(at);
                // Key identifiers as every certificate has them, by one comparison; read below, in
                // whatever way they are written, to the same effect. The end is checked after all.
                if (head >> 152 == PLAIN_AUTHORITY_KEY_ID && seen & HAS_AUTHORITY_KEY_ID == 0) {
                    seen |= HAS_AUTHORITY_KEY_ID;
                    c.authorityKeyId = bytes20(bytes32(Der.word(at + 13)));
                    at += 33;
                    continue;
                }
                if (head >> 168 == PLAIN_SUBJECT_KEY_ID && seen & HAS_SUBJECT_KEY_ID == 0) {
                    seen |= HAS_SUBJECT_KEY_ID;
                    c.subjectKeyId = bytes20(bytes32(Der.word(at + 11)));
                    at += 31;
                    continue;
                }
                if (head >> 144 == LEAF_CONSTRAINTS && seen & HAS_BASIC_CONSTRAINTS == 0) {
                    seen |= HAS_BASIC_CONSTRAINTS;
                    at += 14;
                    continue;
                }
                if (head >> 128 == LEAF_USAGE && seen & HAS_KEY_USAGE == 0) {
                    seen |= HAS_KEY_USAGE;
                    usage = 0xc0;
                    at += 16;
                    continue;
                }
                (uint256 oid, bool critical, uint256 value, uint256 next) = extension(at, end);
                uint256 kind;
                if (oid == AUTHORITY_KEY_ID) {
                    kind = HAS_AUTHORITY_KEY_ID;
                    c.authorityKeyId = authorityKeyId(value, next);
                } else if (oid == SUBJECT_KEY_ID) {
                    kind = HAS_SUBJECT_KEY_ID;
                    c.subjectKeyId = _subjectKeyId(value, next);
                } else if (oid == KEY_USAGE) {
                    kind = HAS_KEY_USAGE;
                    usage = _keyUsage(value, next);
                } else if (oid == BASIC_CONSTRAINTS) {
                    kind = HAS_BASIC_CONSTRAINTS;
                    (c.ca, c.pathLength) = _basicConstraints(value, next);
                } else if (oid == SGX) {
                    kind = HAS_SGX;
                    (c.sgx, c.sgxEnd) = (value, next);
                } else if (critical) {
                    revert CriticalExtensionUnknown(bytes32(oid));
                }
                if (seen & kind != 0) revert ExtensionRepeated(bytes32(oid));
                seen |= kind;
                at = next;
            }
            if (at != end) revert DerOverrun(Der.SEQUENCE);
            if (seen & HAS_AUTHORITY_KEY_ID == 0) revert AuthorityKeyIdMissing();
            if (seen & HAS_SUBJECT_KEY_ID == 0) revert SubjectKeyIdMissing();
            if (seen & HAS_KEY_USAGE == 0) revert KeyUsageMissing();
            if (seen & HAS_BASIC_CONSTRAINTS == 0) revert BasicConstraintsMissing();
            // Bits of the first byte: digitalSignature 0x80, keyCertSign 0x04, cRLSign 0x02.
            if (c.ca ? usage & 0x06 != 0x06 : usage & 0x86 != 0x80) {
                revert KeyUsageUnsuitable(c.ca, usage);
            }
        }
    }

    function _subjectKeyId(uint256 value, uint256 next) private pure returns (bytes20) {
        unchecked {
            if (next - value != 22 || Der.word(value) >> 240 != 0x0414) {
                revert SubjectKeyIdMissing();
            }
            return bytes20(bytes32(Der.word(value + 2)));
        }
    }

    /// @dev The first byte of the named bits, of one or two.
    function _keyUsage(uint256 value, uint256 next) private pure returns (uint256) {
        unchecked {
            uint256 head = Der.word(value);
            uint256 size = next - value;
            if (
                (head >> 240) + 2 != size + 0x0300 || size < 4 || size > 5 || head >> 232 & 0xff > 7
            ) {
                revert ExtensionMalformed(bytes32(KEY_USAGE));
            }
            return (head >> 224) & 0xff;
        }
    }

    /// @dev SEQUENCE { cA BOOLEAN DEFAULT FALSE, pathLenConstraint INTEGER OPTIONAL }.
    function _basicConstraints(uint256 value, uint256 next)
        private
        pure
        returns (bool ca, uint256 pathLength)
    {
        unchecked {
            uint256 size = next - value;
            uint256 head = Der.word(value);
            if (size == 2 && head >> 240 == 0x3000) return (false, 0);
            if (size == 5 && head >> 216 == 0x30030101ff) return (true, type(uint256).max);
            // path lengths above 127 would take more bytes, and nobody has such a PKI
            if (size == 8 && head >> 200 == 0x30060101ff0201 && (head >> 192) & 0x80 == 0) {
                return (true, (head >> 192) & 0xff);
            }
            revert ExtensionMalformed(bytes32(BASIC_CONSTRAINTS));
        }
    }
}
