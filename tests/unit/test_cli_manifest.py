"""`adyton manifest` over small inputs, good and bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from manifest_inputs import TINY_MANIFEST, libpal, signing_key

from adyton.cli import main
from attestation.manifest.measure import measure
from attestation.manifest.sigstruct import Sigstruct, verify_sigstruct
from attestation.policy import load_policy

HASH = "ab" * 32
SOUND = f"""\
[libos]
entrypoint = "/bin/server"
[loader]
entrypoint = {{ uri = "file:libos", sha256 = "{HASH}" }}
argv = ["server"]
[fs]
root = {{ type = "tmpfs" }}
[sgx]
remote_attestation = "dcap"
isvprodid = 7
isvsvn = 3
enclave_size = "4M"
max_threads = 4
use_exinfo = true
edmm_enable = true
trusted_files = [{{ uri = "file:a", sha256 = "{HASH}" }}]
""".encode()


class Desk:
    """Files in a folder, and the command run over them."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.file("libpal.so", libpal())
        self.file("ok.manifest.sgx", SOUND.replace(b'"4M"', b'"16M"'))
        self.pem("rsa.pem", signing_key())
        self.pem("ed.pem", Ed25519PrivateKey.from_private_bytes(b"\x05" * 32))

    def file(self, name: str, data: bytes) -> Path:
        (self.folder / name).write_bytes(data)
        return self.folder / name

    def pem(self, name: str, key: Any) -> None:
        private = serialization.PrivateFormat.PKCS8
        plain = serialization.NoEncryption()
        self.file(name, key.private_bytes(serialization.Encoding.PEM, private, plain))

    def run(self, *words: str, json_too: bool = True) -> tuple[int, Any]:
        """Exit code and output; words that name files here become their paths."""
        places = [str(self.folder / w) if (self.folder / w).is_file() else w for w in words]
        places = [p.replace("@OUT/", f"{self.folder}/") for p in places]
        self.capsys.readouterr()
        code = main(["manifest", *places, *(["--json"] if json_too else [])])
        out = self.capsys.readouterr()
        return code, json.loads(out.out) if json_too else out.out + out.err


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


def test_a_sound_manifest_passes(desk: Desk) -> None:
    code, out = desk.run("lint", "ok.manifest.sgx")
    assert (code, out["verdict"], out["findings"], out["complete"]) == (0, "accept", [], True)
    code, text = desk.run("lint", "ok.manifest.sgx", json_too=False)
    assert code == 0
    assert "nothing to refuse; 1 trusted files" in text


def test_a_dangerous_manifest_exits_with_5_and_says_why(desk: Desk) -> None:
    desk.file("bad.manifest.sgx", SOUND.replace(b"[sgx]\n", b"[sgx]\ndebug = true\n"))
    code, out = desk.run("lint", "bad.manifest.sgx")
    assert code == 5
    assert [f["field"] for f in out["findings"]] == ["sgx.debug"]
    assert "host reads" in out["findings"][0]["expected"]


def test_hashes_may_be_missing_before_signing_only(desk: Desk) -> None:
    unhashed = SOUND.replace(f', sha256 = "{HASH}" }}]'.encode(), b" }]")
    desk.file("a.manifest", unhashed)
    desk.file("a.manifest.sgx", unhashed)
    code, out = desk.run("lint", "a.manifest")
    assert (code, out["complete"]) == (0, False)
    assert "no hash yet" in out["notes"][0]
    assert desk.run("lint", "a.manifest", json_too=False)[0] == 0
    assert desk.run("lint", "a.manifest.sgx")[0] == 5
    assert desk.run("measure", "a.manifest.sgx", "--libpal", "libpal.so")[0] == 3


def test_what_is_no_manifest_exits_with_3(desk: Desk) -> None:
    desk.file("junk", b"\xff\x00")
    assert desk.run("lint", "junk")[0] == 3
    assert desk.run("measure", "junk", "--libpal", "libpal.so")[0] == 3


def test_measuring_prints_what_the_function_says(desk: Desk) -> None:
    desk.file("tiny.sgx", TINY_MANIFEST)
    expected = measure(TINY_MANIFEST, libpal()).mr_enclave
    code, out = desk.run("measure", "tiny.sgx", "--libpal", "libpal.so")
    assert (code, out["mr_enclave"], out["gramine_layout"]) == (0, expected, "1.9")
    code, text = desk.run("measure", "tiny.sgx", "--libpal", "libpal.so", json_too=False)
    assert text == f"{expected}\n"


def sign(desk: Desk, name: str, *more: str, key: str = "rsa.pem", day: str = "2026-11-22") -> Any:
    words = ("--libpal", "libpal.so", "--key", key, "--date", day, "--out", "@OUT/x.sig")
    return desk.run("sign", name, *words, *more)


def test_signing_twice_gives_the_same_sigstruct(desk: Desk) -> None:
    code, out = sign(desk, "ok.manifest.sgx")
    assert code == 0
    first = (desk.folder / "x.sig").read_bytes()
    assert sign(desk, "ok.manifest.sgx")[0] == 0
    assert (desk.folder / "x.sig").read_bytes() == first
    read = Sigstruct.read(first)
    verify_sigstruct(read)
    assert out["mr_enclave"] == read.enclave_hash.hex()
    assert out["mr_signer"] == read.mr_signer
    assert (out["isv_prod_id"], out["isv_svn"], out["debug"]) == (7, 3, False)


def test_what_the_linter_refuses_is_not_signed_unless_somebody_insists(desk: Desk) -> None:
    desk.file("tiny.sgx", TINY_MANIFEST)
    assert sign(desk, "tiny.sgx")[0] == 5
    assert not (desk.folder / "x.sig").exists()
    assert sign(desk, "tiny.sgx", "--dangerous-unlinted")[0] == 0


@pytest.mark.parametrize("key", ["ed.pem", "libpal.so"])
def test_other_keys_are_a_usage_error(desk: Desk, key: str) -> None:
    assert sign(desk, "ok.manifest.sgx", key=key)[0] == 2


@pytest.mark.parametrize("day", ["today", "2026-02-30"])
def test_a_date_that_is_none_is_a_usage_error(desk: Desk, day: str) -> None:
    assert sign(desk, "ok.manifest.sgx", day=day)[0] == 2


def test_people_are_told_what_was_signed(desk: Desk) -> None:
    words = ("--libpal", "libpal.so", "--key", "rsa.pem", "--date", "2026-11-22")
    _, text = desk.run("sign", "ok.manifest.sgx", *words, "--out", "@OUT/x.sig", json_too=False)
    assert "mr_signer" in text


# --- reference --------------------------------------------------------------------------------


def publish(desk: Desk, *more: str, release: str = "adyton@1.0", code: int = 0) -> Any:
    words = ("--release", release, "--key", "ed.pem", "--out", "@OUT/values.json", *more)
    got, out = desk.run("reference", *words)
    assert got == code, out
    return out


def test_what_was_measured_is_published_and_a_policy_reads_it(desk: Desk) -> None:
    measured = desk.run("measure", "ok.manifest.sgx", "--libpal", "libpal.so")[1]
    desk.file("measured.json", json.dumps(measured).encode())
    desk.file(
        "more.json", json.dumps({"tdx": [{"mr_td": "cd" * 48, "rt_mr1": "ef" * 48}]}).encode()
    )
    given = ("--measurements", "measured.json", "--measurements", "more.json")
    out = publish(desk, *given, "--mr-td", "AB" * 48, "--snp", "12" * 48, "--pcr0", "34" * 48)
    section = {"file": "values.json", "public_keys": out["public_keys"]}
    document = {"version": 1, "name": "mine", "reference_values": section}
    desk.file("policy.yaml", yaml.safe_dump(document).encode())
    (release,) = load_policy(desk.folder / "policy.yaml").references
    assert release.label == "adyton@1.0"
    assert [dict(r) for r in release.measurements["sgx"]] == [
        {"mr_enclave": measured["mr_enclave"]}
    ]
    assert [dict(r) for r in release.measurements["tdx"]] == [
        {"mr_td": "ab" * 48},
        {"mr_td": "cd" * 48, "rt_mr1": "ef" * 48},
    ]
    assert set(release.measurements) == {"sgx", "tdx", "sev-snp", "nitro"}


def test_publishing_twice_gives_the_same_bytes(desk: Desk) -> None:
    files = []
    for _ in range(2):
        publish(desk, "--mr-td", "ab" * 48, "--mr-td", "ab" * 48, "--not-after", "1800000000")
        files.append((desk.folder / "values.json").read_bytes())
    assert files[0] == files[1]
    assert files[0].count(b'"mr_td"') == 1


def test_releases_are_added_to_a_file_of_ours_only(desk: Desk) -> None:
    publish(desk, "--mr-td", "ab" * 48)
    out = publish(desk, "--mr-td", "cd" * 48, "--extend", "values.json", release="adyton@1.1")
    assert out["releases"] == ["adyton@1.0", "adyton@1.1"]
    publish(desk, "--mr-td", "cd" * 48, "--extend", "values.json", release="adyton@1.1", code=3)
    desk.pem("ed.pem", Ed25519PrivateKey.from_private_bytes(b"\x06" * 32))
    publish(desk, "--mr-td", "ef" * 48, "--extend", "values.json", release="adyton@2", code=4)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--mr-td", "ab" * 32),
        ("--mr-enclave", "zz" * 32),
        ("--measurements", "rsa.pem"),
        ("--measurements", "list.json"),
        ("--mr-td", "ab" * 48, "--key", "rsa.pem"),
        ("--mr-td", "ab" * 48, "--key", "libpal.so"),
    ],
)
def test_what_cannot_be_published_is_refused(desk: Desk, words: tuple[str, ...]) -> None:
    desk.file("list.json", b"[1]")
    base = ("--release", "a@1", "--key", "ed.pem", "--out", "@OUT/values.json")
    assert desk.run("reference", *base, *words)[0] in (2, 3)
    assert not (desk.folder / "values.json").exists()


def test_a_release_has_a_name_and_a_version(desk: Desk) -> None:
    publish(desk, "--mr-td", "ab" * 48, release="adyton", code=2)


def test_people_are_told_the_key_that_policies_need(desk: Desk) -> None:
    words = ("--release", "a@1", "--key", "ed.pem", "--mr-td", "ab" * 48)
    _, text = desk.run("reference", *words, "--out", "@OUT/v.json", json_too=False)
    public = Ed25519PrivateKey.from_private_bytes(b"\x05" * 32).public_key().public_bytes_raw()
    assert public.hex() in text


# --- render -----------------------------------------------------------------------------------


def test_a_template_of_ones_own_is_rendered_without_a_bundle(desk: Desk) -> None:
    desk.file("own.template", b'libos.entrypoint = "/bin/{{ tee }}"\nsgx.isvsvn = {{ isv_svn }}\n')
    (desk.folder / "libsysdb.so").write_bytes(b"libos")
    words = ("--no-bundle", "--template", "own.template", "--set", "isv_svn=9")
    code, out = desk.run("render", "--out", "@OUT/made", *words, "--gramine", str(desk.folder))
    assert (code, out["complete"], out["trusted_files"]) == (0, True, 0)
    text = (desk.folder / "made/adyton.manifest.sgx").read_text()
    assert 'entrypoint = "/bin/gramine"' in text
    assert "isvsvn = 9" in text
    assert (desk.folder / "made/adyton.manifest").read_text() == text
    code, told = desk.run("render", "--out", "@OUT/other", *words, json_too=False)
    assert code == 0
    assert "not complete" in told or (desk.folder / "other/adyton.manifest.sgx").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--set", "port=x"),
        ("--set", "nothing=1"),
        ("--chat-model", "missing.gguf", "--embedding-model", "x=missing"),
    ],
)
def test_mistakes_in_options_are_usage_errors(desk: Desk, words: tuple[str, ...]) -> None:
    assert desk.run("render", "--out", "@OUT/made", *words)[0] == 2


def test_the_nodes_template_needs_its_bundle(desk: Desk) -> None:
    code, out = desk.run("render", "--out", "@OUT/made", "--no-bundle")
    assert code == 1
    assert "file:bundle/" in out["reason"]
