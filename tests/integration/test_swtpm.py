"""A real TPM 2.0, in software: keys, registers and quotes that tpm2-tools made.

Skipped where swtpm or tpm2-tools are missing (Debian: swtpm, tpm2-tools).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest
from attested import flip
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from nitro_pki import NOW
from tpm_device import AK, CA, quoted

from attestation.errors import VerificationError
from attestation.evidence.tpm import TpmSignature
from attestation.evidence.tpm_public import TpmPublic
from attestation.verify.tpm import TpmReport, verify_tpm
from attestation.verify.tpm_key import BoundKey, certified_key, enrolled_key

TOOLS: Final = ("swtpm", "tpm2_quote", "tpm2_createek", "tpm2_makecredential", "tpm2_sign")
MISSING: Final = [tool for tool in TOOLS if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

NONCE: Final = hashlib.sha256(b"chosen by the caller").digest()
SELECTED: Final = (0, 7, 16)
EXTENDED: Final = hashlib.sha256(b"a workload").digest()


@dataclass(frozen=True)
class Tpm:
    """A running swtpm; its files and its socket stand in `home`."""

    home: Path

    def run(self, tool: str, *args: str) -> bytes:
        env = {**os.environ, "TPM2TOOLS_TCTI": f"swtpm:path={self.home / 'tpm'}"}
        done = subprocess.run(
            [tool, *args], cwd=self.home, env=env, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{tool}: {done.stderr.decode(errors='replace')}"
        return done.stdout

    def read(self, name: str) -> bytes:
        return (self.home / name).read_bytes()

    def flush(self) -> None:
        """Transient objects fill the few slots a TPM has."""
        self.run("tpm2_flushcontext", "-t")


@dataclass(frozen=True)
class Quoted:
    message: bytes
    signature: bytes
    pcrs: dict[int, bytes]


@pytest.fixture(scope="module")
def tpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tpm]:
    home = tmp_path_factory.mktemp("tpm")
    process = subprocess.Popen(
        [
            *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={home}"),
            *("--ctrl", f"type=unixio,path={home / 'tpm.ctrl'}"),
            *("--server", f"type=unixio,path={home / 'tpm'}"),
            *("--flags", "not-need-init,startup-clear"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 20
        while not (home / "tpm").exists() or not (home / "tpm.ctrl").exists():
            assert process.poll() is None, "swtpm ended"
            assert time.monotonic() < deadline, "swtpm did not start"
            time.sleep(0.02)
        device = Tpm(home)
        device.run("tpm2_pcrextend", f"16:sha256={EXTENDED.hex()}")
        yield device
    finally:
        process.terminate()
        process.wait(10)


def make_key(tpm: Tpm, name: str, kind: str = "ecc", scheme: str = "ecdsa") -> TpmPublic:
    """An attestation key under the endorsement key of its kind."""
    tpm.run("tpm2_createek", "-c", f"ek-{kind}.ctx", "-G", kind, "-u", f"ek-{kind}.pub")
    tpm.flush()
    tpm.run(
        *("tpm2_createak", "-C", f"ek-{kind}.ctx", "-c", f"{name}.ctx", "-G", kind),
        *("-g", "sha256", "-s", scheme, "-u", f"{name}.pub", "-f", "tss", "-n", f"{name}.name"),
    )
    tpm.flush()
    return TpmPublic.read(tpm.read(f"{name}.pub")[2:])


def activate(tpm: Tpm, name: str, kind: str = "ecc") -> bytes:
    """Credential activation: the Name of a key that is in the TPM of this endorsement key."""
    secret = os.urandom(16)
    (tpm.home / "secret").write_bytes(secret)
    named = tpm.read(f"{name}.name")
    tpm.run(
        *("tpm2_makecredential", "-u", f"ek-{kind}.pub", "-s", "secret"),
        *("-n", named.hex(), "-o", "credential"),
    )
    tpm.flush()
    tpm.run("tpm2_startauthsession", "--policy-session", "-S", "session.ctx")
    tpm.run("tpm2_policysecret", "-S", "session.ctx", "-c", "e")
    tpm.run(
        *("tpm2_activatecredential", "-c", f"{name}.ctx", "-C", f"ek-{kind}.ctx"),
        *("-i", "credential", "-o", "activated", "-P", "session:session.ctx"),
    )
    tpm.run("tpm2_flushcontext", "session.ctx")
    tpm.flush()
    assert tpm.read("activated") == secret
    return named


def take_quote(tpm: Tpm, name: str, scheme: str = "ecdsa") -> Quoted:
    selection = ",".join(map(str, SELECTED))
    tpm.run(
        *("tpm2_quote", "-c", f"{name}.ctx", "-l", f"sha256:{selection}", "-q", NONCE.hex()),
        *(
            "-g",
            "sha256",
            "--scheme",
            scheme,
            "-m",
            "message",
            "-s",
            "signature",
            "-o",
            "pcrs",
            "-F",
            "values",
        ),
    )
    tpm.flush()
    values = tpm.read("pcrs")
    pcrs = {i: values[32 * n : 32 * n + 32] for n, i in enumerate(SELECTED)}
    return Quoted(tpm.read("message"), tpm.read("signature"), pcrs)


@pytest.fixture(scope="module")
def enrolled(tpm: Tpm) -> BoundKey:
    public = make_key(tpm, "ak")
    return enrolled_key(public.write(), {activate(tpm, "ak")})


@pytest.fixture(scope="module")
def taken(tpm: Tpm, enrolled: BoundKey) -> Quoted:
    return take_quote(tpm, "ak")


def verify(q: Quoted, key: BoundKey, nonce: bytes | None = NONCE) -> TpmReport:
    return verify_tpm(q.message, q.signature, q.pcrs, key, NOW, nonce=nonce)


def step(q: Quoted, key: BoundKey, nonce: bytes | None = NONCE) -> str:
    with pytest.raises(VerificationError) as e:
        verify(q, key, nonce)
    return e.value.step


def test_a_real_quote_is_accepted(taken: Quoted, enrolled: BoundKey) -> None:
    report = verify(taken, enrolled)
    assert (report.bank, report.binding, report.report_data) == ("sha256", "enrolled", NONCE)
    assert report.pcrs[16] == hashlib.sha256(bytes(32) + EXTENDED).digest()
    assert report.quote.write() == taken.message
    assert TpmSignature.read(taken.signature).write() == taken.signature


@pytest.mark.parametrize(("kind", "scheme"), [("rsa", "rsassa"), ("rsa", "rsapss")])
def test_keys_of_every_scheme(tpm: Tpm, kind: str, scheme: str) -> None:
    public = make_key(tpm, scheme, kind, scheme)
    key = enrolled_key(public.write(), {activate(tpm, scheme, kind)})
    assert public.is_attestation_key
    assert verify(take_quote(tpm, scheme, scheme), key).binding == "enrolled"


def test_the_name_is_the_tpms_own(tpm: Tpm, enrolled: BoundKey) -> None:
    raw = tpm.read("ak.pub")
    public = TpmPublic.read(raw[2:])
    assert public.write() == raw[2:]
    assert public.name == tpm.read("ak.name")


def test_a_certificate_issued_after_activation_vouches(
    tpm: Tpm, taken: Quoted, enrolled: BoundKey
) -> None:
    pem = tpm.run("tpm2_readpublic", "-c", "ak.ctx", "-f", "pem", "-o", "ak.pem")
    assert pem
    tpm.flush()
    issued = replace(AK, public=load_pem_public_key(tpm.read("ak.pem")))
    key = certified_key((issued.der(), CA.der()), [CA.der()], NOW, public=tpm.read("ak.pub")[2:])
    assert verify(taken, key).binding == "certificate"


def test_another_nonce_is_refused(taken: Quoted, enrolled: BoundKey) -> None:
    assert step(taken, enrolled, bytes(32)) == "nonce"


def test_an_old_quote_does_not_answer_for_new_registers(
    tpm: Tpm, taken: Quoted, enrolled: BoundKey
) -> None:
    claimed = taken.pcrs | {16: hashlib.sha256(taken.pcrs[16] + EXTENDED).digest()}
    assert step(replace(taken, pcrs=claimed), enrolled) == "pcr_digest"


def test_damaged_signatures_are_refused(taken: Quoted, enrolled: BoundKey) -> None:
    damaged = flip(taken.signature, len(taken.signature) * 8 - 1)
    assert step(replace(taken, signature=damaged), enrolled) == "signature"


def test_damaged_quotes_are_refused(taken: Quoted, enrolled: BoundKey) -> None:
    firmware = taken.message.index(NONCE) + len(NONCE) + 17
    damaged = flip(taken.message, firmware * 8)
    assert step(replace(taken, message=damaged), enrolled) == "signature"


def test_another_key_of_the_same_tpm_is_refused(tpm: Tpm, enrolled: BoundKey) -> None:
    make_key(tpm, "stranger")
    assert step(take_quote(tpm, "stranger"), enrolled) == "signature"


def test_a_key_that_is_not_restricted_signs_forgeries_and_is_refused(
    tpm: Tpm, enrolled: BoundKey
) -> None:
    """Why attributes matter: this TPM key signs a quote over registers nobody has."""
    tpm.run("tpm2_createprimary", "-C", "o", "-c", "primary.ctx", "-G", "ecc")
    attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign"
    tpm.run(
        *("tpm2_create", "-C", "primary.ctx", "-G", "ecc", "-a", attributes),
        *("-u", "loose.pub", "-r", "loose.priv"),
    )
    tpm.flush()
    tpm.run(
        *("tpm2_load", "-C", "primary.ctx", "-u", "loose.pub", "-r", "loose.priv"),
        *("-c", "loose.ctx"),
    )
    tpm.flush()
    wanted = dict.fromkeys(SELECTED, b"\xab" * 32)
    forged = quoted(wanted, extra_data=NONCE).write()
    (tpm.home / "forged").write_bytes(forged)
    tpm.run(
        *("tpm2_sign", "-c", "loose.ctx", "-g", "sha256", "-s", "ecdsa"),
        *("-o", "forged.sig", "forged"),
    )
    tpm.flush()
    public = TpmPublic.read(tpm.read("loose.pub")[2:])
    with pytest.raises(VerificationError) as e:
        enrolled_key(public.write(), {public.name})
    assert e.value.step == "key_attributes"
    # Its signature is good, so a verifier that trusted the bare key would have believed it.
    key = certified_key(_certificate(public), [CA.der()], NOW)
    signature = tpm.read("forged.sig")
    assert verify_tpm(forged, signature, wanted, key, NOW).pcrs == wanted
    assert step(Quoted(forged, signature, wanted), enrolled) == "signature"


def _certificate(public: TpmPublic) -> tuple[bytes, ...]:
    """What a careless CA would issue."""
    from attestation.verify.tpm_key import public_key

    return replace(AK, public=public_key(public)).der(), CA.der()
