// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Certificate, Certificates} from "../lib/Certificates.sol";
import {CodeStore} from "../lib/CodeStore.sol";
import {Crl, Crls} from "../lib/Crls.sol";
import {P256} from "../lib/P256.sol";
import {CrlRecord, CrlRecords, KeyRecord, KeyRecords} from "./Records.sol";
import {TcbSigners} from "./Sources.sol";

/// @notice No certificate of this key was ever submitted: call `addCertificate` with it.
error KeyUnknown(bytes32 issuerId);
/// @notice The key's certificate does not allow this use: 1 root, 2 PCK CA, 3 TCB signing.
error KeyRoleWrong(bytes32 issuerId, uint256 role, uint256 expected);
/// @notice The key's certificate, or the root's, ended: call `addCertificate` with its successor.
error KeyExpired(bytes32 issuerId, uint256 notAfter);
/// @notice The root CRL has revoked something since the key's certificate was submitted: submit it
/// again with `addCertificate`, which refuses it should it be the one revoked.
error KeyOutdated(bytes32 issuerId, uint256 generation, uint256 current);
/// @notice A certificate of this key that stays valid for longer is stored already.
error KeySuperseded(bytes32 issuerId, uint256 notAfter);
/// @notice The root's certificate must be for a CA that may have CAs below it.
error RootNotCa();
/// @notice The certificate or CRL is not signed by the key it must be signed by.
error SignatureInvalid(bytes32 issuerId);
/// @notice The issuer named is not the subject of the key's certificate.
error IssuerNameMismatch(bytes32 issuerId);
/// @notice The authority key identifier is not the subject key identifier of the key's certificate.
error AuthorityKeyIdMismatch(bytes32 issuerId);
/// @notice The issuer has revoked this serial number. Nothing under it is trusted any more.
error SerialRevoked(bytes32 issuerId, uint256 serial);
/// @notice No CRL of this issuer was ever submitted: call `updateCrl` with it.
error CrlMissing(bytes32 issuerId);
/// @notice The issuer's CRL, or its issuer's certificate, ended: anyone may call `addCertificate`
/// and `updateCrl` with the current ones from Intel.
error CrlExpired(bytes32 issuerId, uint256 expiry);
/// @notice The root CRL has revoked something since this CRL was submitted: submit its issuer's
/// certificate again with `addCertificate`, then the CRL with `updateCrl`. Anyone may.
error CrlOutdated(bytes32 issuerId, uint256 generation, uint256 current);
/// @notice The CRL is dated later than this block.
error CrlFromFuture(bytes32 issuerId, uint256 thisUpdate);
/// @notice So many of this issuer's CRLs have changed what is revoked that their editions cannot be
/// told apart any more: deploy anew.
error EditionsExhausted(bytes32 issuerId);
/// @notice A CRL dated later, or another of the same date, is stored already.
error CrlNotNewer(bytes32 issuerId, uint256 thisUpdate, uint256 stored);

/// @title The keys that Intel's root vouches for, and what it and its CAs have revoked
/// @notice Anyone may submit any certificate or CRL: all that counts is Intel's signature, the root
/// key fixed at construction, and the order of dates. Nobody can take away or add trust otherwise.
///
/// An issuer is known by `keccak256(abi.encode(x, y))` of its key. The root signs certificates of
/// PCK CAs and of TCB signing keys; which of the two follows from the certificate's constraints.
/// Each time the root CRL revokes a serial it did not revoke before, a new generation begins:
/// certificates accepted earlier count again only after they are submitted again.
abstract contract Pki is TcbSigners {
    /// @notice Roles of keys.
    uint256 private constant ROOT = 1;
    uint256 private constant PCK_CA = 2;
    uint256 private constant TCB_SIGNING = 3;

    /// @notice A certificate counts from now on, for the role given, until `notAfter`.
    event CertificateAdded(bytes32 indexed issuerId, uint256 role, uint256 notAfter);
    /// @notice A CRL counts from now on until `expiry`. `generation` grows with the root's alone.
    event CrlUpdated(
        bytes32 indexed issuerId, uint256 thisUpdate, uint256 expiry, uint256 generation
    );

    /// @notice The root key all trust comes from.
    uint256 public immutable rootX;
    /// @notice The root key all trust comes from.
    uint256 public immutable rootY;
    /// @notice The precompile, or the contract in its place, that checks P-256 signatures.
    address public immutable p256;
    /// @notice The root's issuer id.
    bytes32 public immutable rootId;

    mapping(bytes32 issuerId => KeyRecord) private _keys;
    mapping(bytes32 issuerId => CrlRecord) private _crls;

    /// @param rootX_,rootY_ Intel's SGX root key, or a test root's.
    /// @param p256_ 0x100 where the chain has P256VERIFY; elsewhere a `SoftwareP256`. Construction
    /// fails where it does not verify.
    constructor(uint256 rootX_, uint256 rootY_, address p256_) {
        P256.requireWorking(p256_);
        rootX = rootX_;
        rootY = rootY_;
        p256 = p256_;
        rootId = _idOf(rootX_, rootY_);
    }

    /// @notice Accepts the root's own certificate, or one that the root signed for a PCK CA or a
    /// TCB signing key. The root's certificate and its CRL must have been submitted before others.
    /// @param der The certificate, DER.
    function addCertificate(bytes calldata der) external {
        Certificate memory c = Certificates.read(der);
        bytes32 id = _idOf(c.x, c.y);
        uint256 role = id == rootId ? ROOT : c.ca ? PCK_CA : TCB_SIGNING;
        uint256 notAfter = c.notAfter;
        uint256 generation_;
        if (role == ROOT) {
            if (!c.ca || c.pathLength == 0) revert RootNotCa();
            _requireSigned(rootId, rootX, rootY, c.tbs, c.tbsEnd, c.r, c.s);
            if (c.issuer != Certificates.hashOf(c.subject, c.subjectEnd)) {
                revert IssuerNameMismatch(id);
            }
            if (c.authorityKeyId != c.subjectKeyId) revert AuthorityKeyIdMismatch(id);
        } else {
            KeyRecord root = _requireKey(rootId, ROOT, 0);
            CrlRecord crl = _requireCrl(rootId);
            _requireSigned(rootId, rootX, rootY, c.tbs, c.tbsEnd, c.r, c.s);
            _requireIssuer(rootId, root, c.issuer, c.authorityKeyId);
            _requireNotRevoked(rootId, crl, c.serial);
            notAfter = _earlier(notAfter, root.notAfter());
            generation_ = crl.generation();
        }
        _keep(id, role, c, notAfter, generation_);
    }

    /// @notice Accepts a CRL of the root or of a PCK CA.
    /// @param der The CRL, DER.
    /// @param issuerX,issuerY The key of its issuer, whose certificate was submitted before.
    function updateCrl(bytes calldata der, uint256 issuerX, uint256 issuerY) external {
        bytes32 id = _idOf(issuerX, issuerY);
        CrlRecord stored = _crls[id];
        uint256 generation_ = _crls[rootId].generation();
        KeyRecord key =
            id == rootId ? _requireKey(id, ROOT, 0) : _requireKey(id, PCK_CA, generation_);
        Crl memory crl = Crls.read(der);
        _requireSigned(id, issuerX, issuerY, crl.tbs, crl.tbsEnd, crl.r, crl.s);
        _requireIssuer(id, key, crl.issuer, crl.authorityKeyId);
        if (crl.thisUpdate > block.timestamp) revert CrlFromFuture(id, crl.thisUpdate);
        // Records have 32 bits for a date, as those of TCB infos have: no CRL counts after 2106.
        uint256 expiry = _earlier(_earlier(crl.nextUpdate, key.notAfter()), type(uint32).max);
        if (expiry < block.timestamp) revert CrlExpired(id, expiry);
        _keepCrl(id, stored, crl, expiry, generation_);
    }

    /// @notice What is stored of a key: role 0 where nothing is, 1 root, 2 PCK CA, 3 TCB signing;
    /// until when it counts; whether it does now.
    function keyOf(bytes32 issuerId)
        external
        view
        returns (uint256 role, uint256 notAfter, bool current)
    {
        KeyRecord key = _keys[issuerId];
        (role, notAfter) = (key.role(), key.notAfter());
        bool fresh = role == ROOT || key.generation() == _crls[rootId].generation();
        current = role != 0 && fresh && block.timestamp <= notAfter;
    }

    /// @notice What is stored of an issuer's CRL; all zero where nothing is. It counts until
    /// `expiry`, its nextUpdate or the end of the issuer's certificate it was submitted under: once
    /// that is renewed, the CRL may be submitted again. `revoked` is how many serials it lists;
    /// `current` whether it counts now.
    function crlOf(bytes32 issuerId)
        external
        view
        returns (uint256 thisUpdate, uint256 expiry, uint256 revoked, bool current)
    {
        CrlRecord crl = _crls[issuerId];
        address pointer = crl.revoked();
        if (pointer != address(0)) revoked = CodeStore.read(pointer).length / 8;
        (thisUpdate, expiry) = (crl.thisUpdate(), crl.expiry());
        current = expiry != 0 && block.timestamp <= expiry
            && crl.generation() == _crls[rootId].generation();
    }

    /// @notice Whether the issuer's stored CRL lists this serial.
    function isRevoked(bytes32 issuerId, uint256 serial) external view returns (bool) {
        return Crls.contains(_crls[issuerId].revoked(), Crls.tag(serial));
    }

    /// @notice How many root CRLs revoked anything new.
    function generation() external view returns (uint256) {
        return _generation();
    }

    function _generation() internal view override returns (uint32) {
        return uint32(_crls[rootId].generation());
    }

    function _requireTcbSigner(uint256 x, uint256 y)
        internal
        view
        override
        returns (uint64 expiry)
    {
        CrlRecord crl = _requireCrl(rootId);
        KeyRecord key = _requireKey(_idOf(x, y), TCB_SIGNING, crl.generation());
        return uint64(_earlier(key.notAfter(), crl.expiry()));
    }

    /// @notice The certificate of a PCK CA, its CRL, and the earliest end of these two, the root and
    /// its CRL. Reverts unless all of them count now.
    function _requirePckCa(bytes32 id)
        internal
        view
        returns (KeyRecord key, CrlRecord crl, uint256 expiry)
    {
        CrlRecord root = _requireCrl(rootId);
        key = _requireKey(id, PCK_CA, root.generation());
        (crl, expiry) = _requirePckCrl(id, root);
    }

    /// @notice As `_requirePckCa`, where neither name nor key identifier of the CA is asked for.
    /// @dev The CA's certificate need not be read: that it counts now follows from its CRL.
    /// `updateCrl` stores a CRL only while the certificate counts as a PCK CA's, with no later end,
    /// and under the generation of that moment. Generations never go back, so a CRL of the present
    /// one was stored in it; and `_keep` changes no role and brings no end forward of a key that was
    /// submitted in the present generation. A root CRL that revokes a CA begins a new generation:
    /// from then on the CA's CRL is outdated, and can only be submitted after the CA's certificate,
    /// which is refused. The root keeps its one role and never becomes a PCK CA.
    function _requirePckCrl(bytes32 id) internal view returns (CrlRecord crl, uint256 expiry) {
        if (id == rootId) revert KeyRoleWrong(id, ROOT, PCK_CA);
        return _requirePckCrl(id, _requireCrl(rootId));
    }

    function _requireNotRevoked(bytes32 id, CrlRecord crl, uint256 serial) internal view {
        if (Crls.contains(crl.revoked(), Crls.tag(serial))) revert SerialRevoked(id, serial);
    }

    function _requireSigned(
        bytes32 id,
        uint256 x,
        uint256 y,
        uint256 tbs,
        uint256 tbsEnd,
        uint256 r,
        uint256 s
    ) internal view {
        bytes calldata signed;
        assembly ("memory-safe") {
            // Both positions were checked to lie within the document.
            signed.offset := tbs
            signed.length := sub(tbsEnd, tbs)
        }
        if (!P256.verify(p256, sha256(signed), r, s, x, y)) revert SignatureInvalid(id);
    }

    function _requireIssuer(bytes32 id, KeyRecord key, bytes32 name, bytes20 keyId) internal pure {
        if (!key.isNamed(name)) revert IssuerNameMismatch(id);
        if (!key.hasId(keyId)) revert AuthorityKeyIdMismatch(id);
    }

    function _earlier(uint256 a, uint256 b) internal pure returns (uint256 earlier) {
        assembly ("memory-safe") {
            // a where it is less, b otherwise
            earlier := xor(b, mul(xor(a, b), lt(a, b)))
        }
    }

    function _idOf(uint256 x, uint256 y) internal pure returns (bytes32 id) {
        assembly ("memory-safe") {
            mstore(0, x)
            mstore(0x20, y)
            id := keccak256(0, 0x40)
        }
    }

    function _requireKey(bytes32 id, uint256 role, uint256 current)
        private
        view
        returns (KeyRecord key)
    {
        key = _keys[id];
        if (key.role() == 0) revert KeyUnknown(id);
        if (key.role() != role) revert KeyRoleWrong(id, key.role(), role);
        if (key.generation() != current) revert KeyOutdated(id, key.generation(), current);
        if (block.timestamp > key.notAfter()) revert KeyExpired(id, key.notAfter());
    }

    /// @param root The root's CRL, found to count.
    function _requirePckCrl(bytes32 id, CrlRecord root)
        private
        view
        returns (CrlRecord crl, uint256 expiry)
    {
        crl = _requireCrl(id);
        if (!crl.isOfGeneration(root)) {
            revert CrlOutdated(id, crl.generation(), root.generation());
        }
        expiry = _earlier(root.expiry(), crl.expiry());
    }

    function _requireCrl(bytes32 id) private view returns (CrlRecord crl) {
        crl = _crls[id];
        uint256 expiry = crl.expiry();
        if (block.timestamp > expiry) {
            if (CrlRecord.unwrap(crl) == 0) revert CrlMissing(id);
            revert CrlExpired(id, expiry);
        }
    }

    /// @dev A key that counts keeps its role, and its certificate is replaced only by one that ends
    /// no earlier: an old certificate of a renewed key must not shorten what depends on it.
    function _keep(
        bytes32 id,
        uint256 role,
        Certificate memory c,
        uint256 notAfter,
        uint256 generation_
    ) private {
        KeyRecord key = _keys[id];
        if (key.role() != 0 && key.generation() == generation_) {
            if (key.role() != role) revert KeyRoleWrong(id, key.role(), role);
            if (notAfter < key.notAfter()) revert KeySuperseded(id, key.notAfter());
        }
        bytes32 name = Certificates.hashOf(c.subject, c.subjectEnd);
        _keys[id] = KeyRecords.pack(name, c.subjectKeyId, notAfter, generation_, role);
        emit CertificateAdded(id, role, notAfter);
    }

    function _keepCrl(
        bytes32 id,
        CrlRecord stored,
        Crl memory crl,
        uint256 expiry,
        uint256 generation_
    ) private {
        address revoked = stored.revoked();
        bool same = keccak256(revoked == address(0) ? bytes("") : CodeStore.read(revoked))
            == keccak256(crl.tags);
        if (crl.thisUpdate <= stored.thisUpdate()) {
            // The stored CRL itself may be submitted again: for a new generation, or where its
            // issuer's certificate now ends later; else to no effect.
            bool shorter = expiry < stored.expiry() && stored.generation() == generation_;
            if (crl.thisUpdate != stored.thisUpdate() || !same || shorter) {
                revert CrlNotNewer(id, crl.thisUpdate, stored.thisUpdate());
            }
        }
        uint256 edition = stored.edition();
        if (!same) {
            // No generation of the root begins without an edition: there are never more of them.
            if (id == rootId && _revokesMore(crl.tags, revoked)) generation_ += 1;
            edition += 1;
            if (edition > type(uint16).max) revert EditionsExhausted(id);
            // Where the same serials stay revoked, the code that lists them stays too.
            revoked = crl.tags.length == 0 ? address(0) : CodeStore.write(crl.tags);
        }
        CrlRecord made = CrlRecords.pack(revoked, crl.thisUpdate, expiry, edition, generation_);
        if (CrlRecord.unwrap(made) == CrlRecord.unwrap(stored)) return;
        _crls[id] = made;
        emit CrlUpdated(id, crl.thisUpdate, expiry, generation_);
    }

    function _revokesMore(bytes memory tags, address before) private view returns (bool) {
        for (uint256 at; at < tags.length; at += 8) {
            uint256 tag;
            assembly ("memory-safe") {
                // Eight bytes at `at`, below the length, which is a multiple of eight.
                tag := shr(192, mload(add(add(tags, 0x20), at)))
            }
            if (!Crls.contains(before, tag)) return true;
        }
        return false;
    }
}
