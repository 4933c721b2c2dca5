"""Verification of verdicts of NVIDIA's attestation service (NRAS), offline against its keys.

The service saw the evidence and compared it; its tokens are as good as its key, so a policy
must say that they will do. Only ES384 is ever computed, whatever a token's header asks for.
Spec: RFC 7515, RFC 8725 (JWT best current practices); NVIDIA claims versions 2.0 and 3.0.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from attestation.canonical import loads_strict
from attestation.errors import CollateralError, MalformedEvidence, VerificationError
from attestation.evidence.nras import DetachedEat, Jwt, read_claims
from attestation.verify.model import _SEAL
from attestation.verify.nvidia_device import SWITCHES, architecture_of
from attestation.verify.nvidia_gpu import DeviceKind, VerifiedGpuToken
from attestation.verify.nvidia_path import check_windows, verify_path
from attestation.x509 import Window

NRAS_ISSUER: Final = "https://nras.attestation.nvidia.com"
ALGORITHM: Final = "ES384"
_MAX_JWKS: Final = 1 << 20
_MAX_KEYS: Final = 256
_KINDS: Final[Mapping[str, DeviceKind]] = {"GPU": "nvidia-gpu", "SWITCH": "nvidia-switch"}
_REPORT: Final = ("parsed", "signature-verified", "nonce-match")
_RIM: Final = ("fetched", "signature-verified", "measurements-available")


@dataclass(frozen=True, slots=True)
class _Expected:
    """What the claims of one version say of a good device: what is true, which chains are."""

    flags: tuple[str, ...]
    chains: tuple[str, ...] = ()


def _gpu(report: Sequence[str], rim: Sequence[str], chains: Sequence[str]) -> _Expected:
    return _Expected(
        flags=(
            "x-nvidia-gpu-arch-check",
            *(f"x-nvidia-gpu-attestation-report-{name}" for name in (*_REPORT, *report)),
            *(f"x-nvidia-gpu-{r}-rim-{n}" for r in ("driver", "vbios") for n in (*_RIM, *rim)),
            "x-nvidia-gpu-vbios-index-no-conflict",
        ),
        chains=tuple(f"x-nvidia-gpu-{name}-cert-chain" for name in chains),
    )


# Version 2.0 says of each chain only that it is valid; the service has asked for revocation.
_EXPECTED: Final[Mapping[tuple[str, DeviceKind], _Expected]] = {
    ("2.0", "nvidia-gpu"): _gpu(("cert-chain-validated",), ("cert-validated",), ()),
    ("3.0", "nvidia-gpu"): _gpu(
        ("cert-chain-fwid-match",),
        ("version-match",),
        ("attestation-report", "driver-rim", "vbios-rim"),
    ),
    ("3.0", "nvidia-switch"): _Expected(
        flags=(
            "x-nvidia-switch-arch-check",
            *(
                f"x-nvidia-switch-attestation-report-{name}"
                for name in (*_REPORT, "cert-chain-fwid-match")
            ),
            *(f"x-nvidia-switch-bios-rim-{name}" for name in (*_RIM, "version-match")),
        ),
        chains=(
            "x-nvidia-switch-attestation-report-cert-chain",
            "x-nvidia-switch-bios-rim-cert-chain",
        ),
    ),
}


def _read_keys(jwks: bytes) -> dict[str, Mapping[str, Any]]:
    if len(jwks) > _MAX_JWKS:
        raise CollateralError(f"jwks: longer than {_MAX_JWKS} bytes")
    try:
        document = loads_strict(jwks, "jwks")
    except MalformedEvidence as e:
        raise CollateralError(str(e)) from None
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or len(keys) > _MAX_KEYS:
        raise CollateralError(f"jwks: not a list of up to {_MAX_KEYS} keys")
    out: dict[str, Mapping[str, Any]] = {}
    for key in keys:
        kid = key.get("kid") if isinstance(key, dict) else None
        if not isinstance(kid, str) or kid in out:
            raise CollateralError("jwks: a key has no name, or the name of another")
        out[kid] = key
    return out


def _check_certified(key: Mapping[str, Any], roots: Sequence[bytes], now: int) -> None:
    """The key's own certificates lead to one of `roots` and certify this very key."""
    texts = key.get("x5c")
    if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
        raise VerificationError("key", "the key has no certificates")
    try:
        ders = [base64.b64decode(t, validate=True) for t in texts]
    except ValueError:
        raise CollateralError("jwks: a certificate is not base64") from None
    path = verify_path("x5c", ders, roots, allow_rsa=True)
    check_windows(path.windows, now)
    if path.leaf.key.public_numbers() != _public_key(key).key.public_numbers():
        raise VerificationError("key", "the certificates are for another key")


def _public_key(key: Mapping[str, Any]) -> Any:
    """PyJWT's form of a P-384 signing key. Raises CollateralError."""
    import jwt

    if key.get("use", "sig") != "sig" or key.get("alg", ALGORITHM) != ALGORITHM:
        raise CollateralError("jwks: the key is not for ES384 signatures")
    try:
        parsed = jwt.PyJWK(dict(key), algorithm=ALGORITHM)
    except (jwt.PyJWTError, ValueError, TypeError) as e:
        raise CollateralError(f"jwks: a key cannot be read ({str(e)[:200]})") from None
    if not isinstance(parsed.key, ec.EllipticCurvePublicKey) or key.get("crv") != "P-384":
        raise CollateralError("jwks: the key is not a public key on P-384")
    return parsed


@dataclass(frozen=True, slots=True)
class _Verifier:
    """What every token of one bundle is held against."""

    keys: Mapping[str, Mapping[str, Any]]
    roots: tuple[bytes, ...]
    issuer: str
    nonce: bytes | None
    now: int
    leeway_s: int

    def claims(self, token: Jwt) -> tuple[Mapping[str, Any], Window]:
        """The token's claims and window: signed, from this issuer, for this time and nonce."""
        claims = read_claims("eat.claims", self._payload(token))
        if claims.get("iss") != self.issuer:
            raise VerificationError("issuer", f"the token is from {str(claims.get('iss'))[:80]!r}")
        window = self._window(claims)
        check_windows((window,), self.now)
        stated = _nonce(claims)
        if self.nonce is not None and stated != self.nonce:
            raise VerificationError("nonce", "the verdict was made for another nonce")
        return claims, window

    def _payload(self, token: Jwt) -> bytes:
        import jwt

        if token.header.get("alg") != ALGORITHM:
            raise VerificationError("algorithm", f"{str(token.header.get('alg'))[:16]} tokens")
        kid = token.header.get("kid")
        key = self.keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise VerificationError("key", "the token names no key of the service")
        if self.roots:
            _check_certified(key, self.roots, self.now)
        try:
            payload = jwt.PyJWS(algorithms=[ALGORITHM]).decode(
                token.text, key=_public_key(key), algorithms=[ALGORITHM]
            )
        except jwt.PyJWTError as e:
            raise VerificationError("signature", str(e)[:200]) from None
        return bytes(payload)

    def _window(self, claims: Mapping[str, Any]) -> Window:
        issued, expires = _integer(claims, "iat"), _integer(claims, "exp")
        first = max(issued, _integer(claims, "nbf")) if "nbf" in claims else issued
        return Window("token", first - self.leeway_s, expires + self.leeway_s)


def _integer(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    if type(value) is not int:
        raise VerificationError("claims", f"{name} is not a time")
    return value


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 256:
        raise VerificationError("claims", f"{name} is not stated")
    return value


def _nonce(claims: Mapping[str, Any]) -> bytes:
    try:
        return bytes.fromhex(_text(claims, "eat_nonce"))
    except ValueError:
        raise VerificationError("nonce", "eat_nonce is not hex") from None


def _check_overall(claims: Mapping[str, Any], eat: DetachedEat) -> None:
    """The service accepted everything, and the devices' tokens are those it meant."""
    if claims.get("x-nvidia-overall-att-result") is not True:
        raise VerificationError("overall_result", "the service did not accept the devices")
    expected = {name: ["DIGEST", ["SHA-256", t.sha256]] for name, t in eat.devices.items()}
    if claims.get("submods") != expected:
        raise VerificationError("submods", "the devices' tokens are not those the service made")


def _check_device(claims: Mapping[str, Any], version: Any, kind: DeviceKind) -> None:
    """The service found this device as it must be, in every respect it states."""
    expected = _EXPECTED.get((version, kind)) if isinstance(version, str) else None
    if expected is None:
        raise VerificationError("claims", f"version {str(version)[:16]!r} is not one that is known")
    if claims.get("dbgstat") != "disabled":
        raise VerificationError("debug", f"debug status {str(claims.get('dbgstat'))[:32]!r}")
    if claims.get("measres") != "success":
        raise VerificationError("measres", "the measurements are not NVIDIA's")
    if claims.get("secboot") is not True:
        raise VerificationError("secboot", "the device did not boot securely")
    for name in expected.flags:
        if claims.get(name) is not True:
            raise VerificationError("claims", f"{name} does not hold")
    for name in expected.chains:
        chain = claims.get(name)
        status = chain if isinstance(chain, dict) else {}
        if status.get("x-nvidia-cert-ocsp-status") != "good":
            raise VerificationError("revoked", f"{name} is not good")
        if status.get("x-nvidia-cert-status") != "valid":
            raise VerificationError("expired", f"{name} is not valid")


def _device(name: str, token: Jwt, version: Any, verifier: _Verifier) -> VerifiedGpuToken:
    claims, window = verifier.claims(token)
    kind = _KINDS[name.partition("-")[0]]
    _check_device(claims, version, kind)
    hwmodel = _text(claims, "hwmodel")
    is_switch = kind == "nvidia-switch"
    architecture = architecture_of(hwmodel.partition(" ")[0])
    if (architecture in SWITCHES) != is_switch:
        raise VerificationError("kind", f"{name} is a {hwmodel[:32]}")
    vbios = "x-nvidia-switch-bios-version" if is_switch else "x-nvidia-gpu-vbios-version"
    return VerifiedGpuToken(
        name=name,
        kind=kind,
        architecture=architecture,
        ueid=_text(claims, "ueid"),
        hwmodel=hwmodel,
        driver_version=None if is_switch else _text(claims, "x-nvidia-gpu-driver-version"),
        vbios_version=_text(claims, vbios),
        verified_at=verifier.now,
        endorsements_not_before=window.not_before,
        endorsements_not_after=window.not_after,
        issuer=verifier.issuer,
        key_id=str(token.header["kid"]),
        nonce=_nonce(claims),
        nonce_checked=verifier.nonce is not None,
        seal=_SEAL,
    )


def verify_nras(
    token: bytes,
    jwks: bytes,
    issuer: str,
    now: int,
    *,
    nonce: bytes | None,
    leeway_s: int = 0,
    roots: Sequence[bytes] = (),
) -> tuple[VerifiedGpuToken, ...]:
    """The service behind `jwks` accepted these devices, and its verdict holds at `now`.

    `token` is a detached EAT bundle, `jwks` the service's key set (both JSON), `issuer` its
    exact name, `nonce` the bytes the evidence was made for; None must be said aloud.
    `leeway_s` widens the tokens' windows for clocks that differ. With `roots` (DER) the
    key's own certificates must lead to one of them (NVIDIA's lead to its Attestation Service
    CA, by way of an RSA authority); without, the caller vouches for `jwks`.
    Raises MalformedEvidence, CollateralError, or VerificationError naming the step.
    """
    eat = DetachedEat.read(token)
    verifier = _Verifier(_read_keys(jwks), tuple(roots), issuer, nonce, now, leeway_s)
    overall, _ = verifier.claims(eat.overall)
    _check_overall(overall, eat)
    version = overall.get("x-nvidia-ver")
    return tuple(_device(name, t, version, verifier) for name, t in sorted(eat.devices.items()))
