"""Verdicts of NVIDIA's service: one algorithm, one key, one issuer, one nonce, at one time."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

import nvidia_pki as pki
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.errors import CollateralError, MalformedEvidence, VerificationError
from attestation.evidence.nras import DetachedEat
from attestation.verify import VerifiedGpuToken
from attestation.verify.nras import verify_nras


def verify(token: bytes | None = None, **odd: Any) -> tuple[VerifiedGpuToken, ...]:
    arguments = {"jwks": pki.jwks(), "issuer": pki.ISSUER, "now": pki.NOW, "nonce": pki.NONCE}
    return verify_nras(pki.bundle() if token is None else token, **arguments | odd)


def refused(step: str, token: bytes | None = None, **odd: Any) -> None:
    with pytest.raises(VerificationError) as e:
        verify(token, **odd)
    assert e.value.step == step, e.value


def device(kind: str = "gpu", **odd: Any) -> bytes:
    name = "GPU-0" if kind == "gpu" else "SWITCH-0"
    return pki.bundle({name: pki.token(pki.device_claims(kind, **odd))})


def test_a_good_verdict_says_what_the_service_found() -> None:
    (gpu,) = verify()
    assert (gpu.name, gpu.kind, gpu.architecture) == ("GPU-0", "nvidia-gpu", "hopper")
    assert (gpu.driver_version, gpu.vbios_version) == (pki.DRIVER, pki.VBIOS)
    assert (gpu.issuer, gpu.key_id, gpu.nonce) == (pki.ISSUER, "key-1", pki.NONCE)
    assert (gpu.endorsements_not_before, gpu.endorsements_not_after) == (
        pki.NOW - 10,
        pki.NOW + 3600,
    )
    assert gpu.nonce_checked
    assert json.loads(json.dumps(gpu.facts()))["hwmodel"] == "GH100 A01 GSP BROM"


def test_several_devices_each_have_their_token() -> None:
    names = {"GPU-1": pki.device_claims(ueid="1"), "GPU-0": pki.device_claims(ueid="0")}
    tokens = {n: pki.token(c) for n, c in names.items()}
    tokens["SWITCH-0"] = pki.token(pki.device_claims("switch"))
    found = verify(pki.bundle(tokens))
    assert [d.name for d in found] == ["GPU-0", "GPU-1", "SWITCH-0"]
    assert (found[2].kind, found[2].driver_version) == ("nvidia-switch", None)


# Keys and algorithms.


def test_a_token_without_signature_is_refused() -> None:
    claims = pki.device_claims()
    refused("algorithm", pki.bundle({"GPU-0": pki.token(claims, algorithm="none", key=None)}))
    overall = pki.token(pki.common_claims(), algorithm="none", key=None)
    refused("algorithm", pki.bundle(overall=overall))


def test_a_mac_under_the_public_key_is_refused() -> None:
    """Algorithm confusion: the verifier's public key taken as a shared secret."""
    public = pki.service().leaf.key.public_key()
    secret = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    signed = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "HS256", "kid": "key-1"}, pki.common_claims())
    )
    mac = hmac.digest(secret, signed.encode(), "sha256")
    token = f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
    refused("algorithm", pki.bundle(overall=token))


def test_another_curve_is_refused() -> None:
    key = pki.key("p256", ec.SECP256R1())
    refused("algorithm", pki.bundle(overall=pki.token({}, key=key, algorithm="ES256")))


def test_a_foreign_key_under_a_known_name_is_refused() -> None:
    stolen = pki.token(pki.device_claims(), key=pki.key("thief"))
    refused("signature", pki.bundle({"GPU-0": stolen}))


@pytest.mark.parametrize("kid", [None, "key-2", 1, ["key-1"]])
def test_a_missing_or_unknown_key_name_is_refused(kid: Any) -> None:
    import jwt

    header = {"alg": "ES384", "kid": kid} if kid is not None else {"alg": "ES384"}
    encode = jwt.utils.base64url_encode
    overall = ".".join(encode(json.dumps(p).encode()).decode() for p in (header, {}, "x"))
    refused("key", pki.bundle(overall=overall))


def test_a_critical_header_nobody_knows_is_refused() -> None:
    overall = pki.token(pki.common_claims(), {"crit": ["exp"], "exp": 1})
    refused("signature", pki.bundle(overall=overall))


def test_changed_claims_are_refused() -> None:
    head, _, tail = pki.token(pki.common_claims()).split(".")
    body = base64.urlsafe_b64encode(json.dumps(pki.common_claims(exp=9**10)).encode())
    forged = f"{head}.{body.rstrip(b'=').decode()}.{tail}"
    refused("signature", pki.bundle(overall=forged))


def test_the_services_key_may_have_to_lead_to_a_root() -> None:
    root = pki.service().root
    assert verify(roots=[root])
    refused("root", roots=[pki.gpu_chain().root])
    refused("key", jwks=pki.jwks(x5c=None), roots=[root])
    refused("key", jwks=pki.jwks(x5c=[1]), roots=[root])
    refused("chain", jwks=pki.jwks(x5c=[base64.b64encode(root).decode()]), roots=[root])
    with pytest.raises(CollateralError, match="base64"):
        verify(jwks=pki.jwks(x5c=["!"]), roots=[root])
    refused("expired", now=pki.END + 1, roots=[root], leeway_s=1 << 20)


def test_certificates_of_another_key_are_refused() -> None:
    root = pki.service().parties[1]
    other = pki.issue("other service", root, ca=None, usage=("sign",))
    x5c = [base64.b64encode(p.der).decode() for p in (other, root)]
    refused("key", jwks=pki.jwks(x5c=x5c), roots=[root.der])


def rsa_service(bits: int, digest: hashes.HashAlgorithm) -> tuple[bytes, bytes]:
    """Certificates of the service's key under an RSA authority, as NVIDIA's are."""
    root = pki.service().parties[1]
    own = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    authority = (
        x509.CertificateBuilder()
        .subject_name(pki.name("rsa authority"))
        .issuer_name(root.certificate.subject)
        .public_key(own.public_key())
        .serial_number(7)
        .not_valid_before(pki.at(pki.START))
        .not_valid_after(pki.at(pki.END))
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .add_extension(pki._usage(("cert_sign",)), critical=True)
        .sign(root.key, hashes.SHA384())
    )
    leaf = (
        x509.CertificateBuilder()
        .subject_name(pki.name("service"))
        .issuer_name(authority.subject)
        .public_key(pki.service().leaf.key.public_key())
        .serial_number(8)
        .not_valid_before(pki.at(pki.START))
        .not_valid_after(pki.at(pki.END))
        .add_extension(pki._usage(("sign",)), critical=True)
        .sign(own, digest)
    )
    ders = [c.public_bytes(Encoding.DER) for c in (leaf, authority)]
    return pki.jwks(x5c=[base64.b64encode(d).decode() for d in ders]), root.der


def test_nvidias_rsa_authority_is_taken_where_it_is_strong() -> None:
    jwks, root = rsa_service(2048, hashes.SHA256())
    assert verify(jwks=jwks, roots=[root])
    jwks, root = rsa_service(1024, hashes.SHA256())
    refused("chain", jwks=jwks, roots=[root])
    jwks, root = rsa_service(2048, hashes.SHA224())
    refused("chain", jwks=jwks, roots=[root])


@pytest.mark.parametrize(
    "jwks",
    [
        b"",
        b"[]",
        b'{"keys": 1}',
        b'{"keys": [1]}',
        b'{"keys": [{"kid": 1}]}',
        b'{"keys": [{"kid": "a"}, {"kid": "a"}]}',
        b'{"keys": [{}], "keys": []}',
        b" " * (2 << 20),
        pki.jwks(use="enc"),
        pki.jwks(alg="ES256"),
        pki.jwks(kty="RSA"),
        pki.jwks(crv="P-256"),
        pki.jwks(crv="P-521"),
        pki.jwks(x="AAAA"),
        pki.jwks(x=1),
        pki.jwks(kty=None),
        json.dumps({"keys": [{"kid": str(i)} for i in range(300)]}).encode(),
    ],
)
def test_a_key_set_that_cannot_be_used_is_collateral_at_fault(jwks: bytes) -> None:
    with pytest.raises(CollateralError, match="jwks"):
        verify(jwks=jwks)


def test_a_private_key_is_no_public_key() -> None:
    number = pki.service().leaf.key.private_numbers().private_value.to_bytes(48, "big")
    d = base64.urlsafe_b64encode(number).rstrip(b"=").decode()
    with pytest.raises(CollateralError, match="public key"):
        verify(jwks=pki.jwks(d=d))


# Issuer, time, nonce.


def test_another_issuer_is_refused() -> None:
    refused("issuer", issuer="https://nras.attestation.nvidia.com")
    refused("issuer", device(iss="https://elsewhere.example"))
    refused("issuer", device(iss=None))


@pytest.mark.parametrize(
    ("odd", "step"),
    [
        ({"exp": pki.NOW - 1}, "expired"),
        ({"iat": pki.NOW + 1}, "not_yet_valid"),
        ({"nbf": pki.NOW + 1}, "not_yet_valid"),
    ],
)
def test_tokens_hold_for_their_time_and_the_leeway_given(odd: dict[str, int], step: str) -> None:
    refused(step, device(**odd))
    assert verify(device(**odd), leeway_s=1)


@pytest.mark.parametrize("odd", [{"exp": None}, {"iat": None}, {"exp": True}, {"nbf": "soon"}])
def test_tokens_without_readable_times_are_refused(odd: dict[str, Any]) -> None:
    refused("claims", device(**odd))


def test_a_token_need_not_say_from_when() -> None:
    assert verify(device(nbf=None))


def test_a_verdict_for_another_nonce_is_refused() -> None:
    refused("nonce", nonce=b"\x01" * 32)
    refused("nonce", nonce=b"")
    refused("nonce", device(eat_nonce="00" * 32))
    refused("nonce", device(eat_nonce="zz"))
    refused("claims", device(eat_nonce=None))
    assert not verify(nonce=None)[0].nonce_checked


# The verdict.


def test_the_services_refusal_is_kept() -> None:
    refused("overall_result", pki.bundle(**{"x-nvidia-overall-att-result": False}))
    refused("overall_result", pki.bundle(**{"x-nvidia-overall-att-result": "true"}))


@pytest.mark.parametrize("version", ["1.0", "2.0", "4.0", None, 3, ["3.0"]])
def test_claims_of_another_version_than_stated_are_refused(version: Any) -> None:
    """Version 3.0 claims under another number: their names would mean something else."""
    refused("claims", pki.bundle(**{"x-nvidia-ver": version}))


def test_version_2_says_less_and_is_held_to_what_it_says() -> None:
    def bundle(**odd: Any) -> bytes:
        claims = pki.device_claims(version="2.0", hwmodel="GH100", **odd)
        return pki.bundle({"GPU-0": pki.token(claims)}, **{"x-nvidia-ver": "2.0"})

    assert verify(bundle())[0].architecture == "hopper"
    refused("claims", bundle(**{"x-nvidia-gpu-vbios-rim-cert-validated": False}))
    refused("claims", bundle(**{"x-nvidia-gpu-attestation-report-cert-chain-validated": None}))
    switch = pki.token(pki.device_claims("switch", version="2.0"))
    refused("claims", pki.bundle({"SWITCH-0": switch}, **{"x-nvidia-ver": "2.0"}))


def test_device_tokens_other_than_those_the_service_meant_are_refused() -> None:
    genuine = json.loads(pki.bundle())
    other = pki.token(pki.device_claims(ueid="666"))
    for devices in ({"GPU-0": other}, {**genuine[1], "GPU-1": other}, {"GPU-1": other}):
        refused("submods", json.dumps([genuine[0], devices]).encode())


@pytest.mark.parametrize(
    ("odd", "step"),
    [
        ({"dbgstat": "enabled"}, "debug"),
        ({"dbgstat": None}, "debug"),
        ({"measres": "fail"}, "measres"),
        ({"secboot": False}, "secboot"),
        ({"secboot": None}, "secboot"),
        ({"x-nvidia-gpu-arch-check": False}, "claims"),
        ({"x-nvidia-gpu-attestation-report-nonce-match": None}, "claims"),
        ({"x-nvidia-gpu-driver-rim-signature-verified": "true"}, "claims"),
        ({"x-nvidia-gpu-vbios-index-no-conflict": False}, "claims"),
        ({"x-nvidia-gpu-vbios-rim-cert-chain": None}, "revoked"),
        ({"hwmodel": None}, "claims"),
        ({"hwmodel": "GR100 A01"}, "device"),
        ({"hwmodel": "LS_10 A01"}, "kind"),
        ({"ueid": ""}, "claims"),
        ({"x-nvidia-gpu-driver-version": None}, "claims"),
        ({"x-nvidia-gpu-vbios-version": 1}, "claims"),
    ],
)
def test_a_device_that_is_not_as_it_must_be_is_refused(odd: dict[str, Any], step: str) -> None:
    refused(step, device(**odd))


@pytest.mark.parametrize(
    ("member", "value", "step"),
    [
        ("x-nvidia-cert-ocsp-status", "revoked", "revoked"),
        ("x-nvidia-cert-ocsp-status", "unknown", "revoked"),
        ("x-nvidia-cert-status", "expired", "expired"),
    ],
)
def test_a_chain_the_service_found_wanting_is_refused(member: str, value: str, step: str) -> None:
    name = "x-nvidia-switch-bios-rim-cert-chain"
    chain = pki.device_claims("switch")[name] | {member: value}
    refused(step, device("switch", **{name: chain}))


def test_a_switchs_token_under_a_gpus_name_is_refused() -> None:
    token = pki.token(pki.device_claims("switch"))
    refused("claims", pki.bundle({"GPU-0": token}))


# The bundle.


def test_a_bundle_writes_as_it_was_read() -> None:
    eat = DetachedEat.read(pki.bundle())
    assert DetachedEat.read(eat.write()) == eat
    assert eat.overall.header["alg"] == "ES384"


def one(token: str) -> bytes:
    return json.dumps([["JWT", token], {"GPU-0": token}]).encode()


TOKEN = pki.token(pki.common_claims())
HEAD = TOKEN.partition(".")[0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b'[["JWT", 1], {}]',
        b'[["CWT", "x"], {}]',
        b'[["JWT", "a.b.c"]]',
        b" " * (2 << 20),
        one(""),
        one("a.b"),
        one("a.b.c.d"),
        one(TOKEN + "="),
        one(TOKEN.replace(".", "..", 1)),
        one(f"{HEAD}.A.A"),
        one(f"{HEAD}.bnVsbA.AA"),
        one(f"{HEAD}.e30.AB"),
        one(f"{HEAD}.eyJhIjoxLCJhIjoyfQ.AA"),
        one(f"{HEAD}.!!!!.AA"),
        json.dumps([["JWT", TOKEN], {}]).encode(),
        json.dumps([["JWT", TOKEN], {"CPU-0": TOKEN}]).encode(),
        json.dumps([["JWT", TOKEN], {"GPU-0": 1}]).encode(),
        json.dumps([["JWT", TOKEN], {f"GPU-{i}": TOKEN for i in range(65)}]).encode(),
    ],
)
def test_what_is_no_bundle_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedEvidence, match="eat"):
        DetachedEat.read(data)
