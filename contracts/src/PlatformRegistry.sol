// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Pki} from "./collateral/Pki.sol";
import {CrlRecord, KeyRecord, LeafRecord, LeafRecords} from "./collateral/Records.sol";
import {Platforms} from "./collateral/Sources.sol";
import {Certificate, Certificates} from "./lib/Certificates.sol";
import {SgxExtension} from "./lib/SgxExtension.sol";

/// @notice `platform` starts with neither 0 nor 6 (a leaf certificate) nor, where that is allowed,
/// 1 (a leaf already registered), or is shorter or longer than that form.
error PlatformMalformed(uint256 length);
/// @notice This leaf was never registered: send its certificate.
error PlatformUnknown(bytes32 issuerId, uint256 serial);
/// @notice The key or TCB given are not those of the leaf registered under this serial.
error PlatformMismatch(bytes32 issuerId, uint256 serial);
/// @notice The leaf was valid until this time: have Intel issue its successor.
error PlatformExpired(bytes32 issuerId, uint256 serial, uint256 notAfter);
/// @notice A PCK certificate is not a CA's.
error PlatformIsCa();
/// @notice The certificate lacks Intel's SGX extension: it is not a PCK certificate.
error SgxExtensionMissing();

/// @title PCK leaves verified once, known by issuer and serial from then on
/// @notice A leaf is remembered in one slot: what it says, by its hash, when it ends, and by which
/// edition of its issuer's list of revoked serials it was last judged. Its issuer, both CRLs and
/// its own revocation are judged anew at every use; an edition that it was judged by already is
/// not read again, for it is the same list.
abstract contract PlatformRegistry is Pki, Platforms {
    /// @dev issuer id (32), serial (20), then x, y, cpusvn, pcesvn, fmspc, pceid: 90 bytes.
    uint256 private constant KNOWN_FORM = 1 + 32 + 20 + 90;

    mapping(bytes32 leafId => LeafRecord) private _leaves;

    /// @notice Verifies and remembers a leaf, so that quotes of its platform cost less later.
    /// @param platform 0x00, PCK CA key (x, y), PCK leaf certificate (DER).
    function addPlatform(bytes calldata platform) external {
        if (platform.length == 0 || platform[0] != 0) revert PlatformMalformed(platform.length);
        Platform memory p;
        _remember(platform, p);
    }

    /// @notice Until when a registered leaf's certificate is valid; 0 where it is not registered.
    function platformNotAfter(bytes32 issuerId, uint256 serial) external view returns (uint256) {
        return _leaves[_leafId(issuerId, serial)].notAfter();
    }

    function _requirePlatform(bytes calldata platform)
        internal
        override
        returns (Platform memory p)
    {
        uint256 size = platform.length;
        uint256 form = _word(platform, 0) >> 248;
        if (size == KNOWN_FORM && form == 1) _knownLeaf(platform, p);
        else if (size != 0 && form == 0) _remember(platform, p);
        else if (size != 0 && form == 6) _verifyLeaf(platform, p);
        else revert PlatformMalformed(size);
    }

    /// @dev The caller has checked that there are exactly KNOWN_FORM bytes.
    function _knownLeaf(bytes calldata platform, Platform memory p) private {
        bytes32 id = bytes32(_word(platform, 1));
        uint256 serial = _word(platform, 33) >> 96;
        bytes32 leafId = _leafId(id, serial);
        LeafRecord leaf = _leaves[leafId];
        bytes32 said = _hashOfFacts(platform);
        if (!leaf.says(said)) {
            if (LeafRecord.unwrap(leaf) == 0) revert PlatformUnknown(id, serial);
            revert PlatformMismatch(id, serial);
        }
        uint256 notAfter = leaf.notAfter();
        if (block.timestamp > notAfter) revert PlatformExpired(id, serial, notAfter);
        (CrlRecord crl, uint256 expiry) = _requirePckCrl(id);
        uint256 edition = crl.edition();
        if (leaf.edition() != edition) {
            _requireNotRevoked(id, crl, serial);
            _leaves[leafId] = LeafRecords.pack(said, notAfter, edition);
        }
        p.x = _word(platform, 53);
        p.y = _word(platform, 85);
        // cpusvn (16), pcesvn (2), fmspc (6), pceid (2)
        bytes32 tcb = bytes32(_word(platform, 117));
        p.cpusvn = bytes16(tcb);
        p.pcesvn = uint16(bytes2(tcb << 128));
        p.fmspc = bytes6(tcb << 144);
        p.pceid = bytes2(tcb << 192);
        p.expiry = uint64(_earlier(notAfter, expiry));
    }

    /// @dev 32 bytes of `platform`; the caller knows that they are there, or uses only those that are.
    function _word(bytes calldata platform, uint256 at) private pure returns (uint256 value) {
        assembly ("memory-safe") {
            value := calldataload(add(platform.offset, at))
        }
    }

    /// @dev What a leaf says stands in the last 90 bytes of `platform`, of exactly KNOWN_FORM.
    function _hashOfFacts(bytes calldata platform) private pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            // Scratch beyond the free pointer, never kept.
            let facts := mload(0x40)
            calldatacopy(facts, add(platform.offset, 53), 90)
            hash := keccak256(facts, 90)
        }
    }

    function _remember(bytes calldata platform, Platform memory p) private {
        (bytes32 leafId, uint256 notAfter, uint256 edition) = _verifyLeaf(platform, p);
        bytes32 said = keccak256(abi.encodePacked(p.x, p.y, p.cpusvn, p.pcesvn, p.fmspc, p.pceid));
        _leaves[leafId] = LeafRecords.pack(said, notAfter, edition);
    }

    /// @dev After its form: PCK CA key (x, y), PCK leaf certificate (DER).
    function _verifyLeaf(bytes calldata platform, Platform memory p)
        private
        view
        returns (bytes32 leafId, uint256 notAfter, uint256 edition)
    {
        if (platform.length < 66) revert PlatformMalformed(platform.length);
        uint256 issuerX = _word(platform, 1);
        uint256 issuerY = _word(platform, 33);
        bytes32 id = _idOf(issuerX, issuerY);
        Certificate memory c = Certificates.read(platform[65:]);
        (KeyRecord ca, CrlRecord crl, uint256 expiry) = _requirePckCa(id);
        _requireIssuer(id, ca, c.issuer, c.authorityKeyId);
        _requireNotRevoked(id, crl, c.serial);
        _requireSigned(id, issuerX, issuerY, c.tbs, c.tbsEnd, c.r, c.s);
        if (c.ca) revert PlatformIsCa();
        if (c.sgx == 0) revert SgxExtensionMissing();
        (p.x, p.y) = (c.x, c.y);
        (p.fmspc, p.pceid, p.cpusvn, p.pcesvn) = SgxExtension.read(c.sgx, c.sgxEnd);
        p.expiry = uint64(_earlier(c.notAfter, expiry));
        return (_leafId(id, c.serial), c.notAfter, crl.edition());
    }

    function _leafId(bytes32 issuerId, uint256 serial) private pure returns (bytes32 id) {
        assembly ("memory-safe") {
            mstore(0, issuerId)
            mstore(0x20, serial)
            id := keccak256(0, 0x40)
        }
    }
}
