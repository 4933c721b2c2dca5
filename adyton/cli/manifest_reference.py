"""`adyton manifest reference`: which measurements a release has, signed for policies to read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from adyton.cli.options import READABLE, json_option
from adyton.cli.output import print_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from attestation.policy.reference import Release

REGISTERS: Final = {
    "tdx": ("mr_td", 96),
    "sgx": ("mr_enclave", 64),
    "sev-snp": ("measurement", 96),
    "nitro": ("pcr0", 96),
}
"""The register that names the workload, and its hex length, by TEE."""
_MAX_BYTES: Final = 1 << 20


def _hex(tee: str, text: str) -> dict[str, str]:
    register, size = REGISTERS[tee]
    value = text.strip().lower()
    try:
        right = len(bytes.fromhex(value)) * 2 == size == len(value)
    except ValueError:
        right = False
    if not right:
        raise click.UsageError(f"{register} of {tee} has {size} hex characters: {text[:20]!r}")
    return {register: value}


def _from_file(path: Path) -> dict[str, list[dict[str, str]]]:
    """Measurements in a JSON file: as a policy writes them, or as `manifest measure` does."""
    from attestation.canonical import loads_strict

    with path.open("rb") as f:
        document = loads_strict(f.read(_MAX_BYTES), path.name)
    if isinstance(document, dict) and isinstance(document.get("mr_enclave"), str):
        return {"sgx": [_hex("sgx", document["mr_enclave"])]}
    if isinstance(document, dict) and all(isinstance(v, list) for v in document.values()):
        return document
    raise click.UsageError(f"--measurements: {path} lists no measurements")


def _collect(named: dict[str, tuple[str, ...]], files: tuple[Path, ...]) -> dict[str, Any]:
    """Every measurement given, by TEE, each once."""
    found: dict[str, list[dict[str, str]]] = {}
    for tee, texts in named.items():
        for text in texts:
            found.setdefault(tee, []).append(_hex(tee, text))
    for path in files:
        for tee, alternatives in _from_file(path).items():
            found.setdefault(tee, []).extend(alternatives)
    if not any(found.values()):
        raise click.UsageError("name at least one measurement")
    return {tee: _once(values) for tee, values in found.items()}


def _once(values: list[dict[str, str]]) -> tuple[dict[str, str], ...]:
    out: list[dict[str, str]] = []
    for value in values:
        if value not in out:
            out.append(value)
    return tuple(out)


def _key(path: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        with path.open("rb") as f:
            key = load_pem_private_key(f.read(_MAX_BYTES), password=None)
    except (ValueError, TypeError) as e:
        raise click.UsageError(f"--key: {path} is no unencrypted PEM key ({e})") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise click.UsageError(f"--key: {path} is no Ed25519 key")
    return key


def _earlier(path: Path | None, keys: list[Ed25519PrivateKey]) -> tuple[Release, ...]:
    """The releases of an earlier file, which must be ours: nobody's words are signed unread."""
    from attestation.policy.reference import MAX_FILE, verify_reference

    if path is None:
        return ()
    with path.open("rb") as f:
        data = f.read(MAX_FILE + 1)
    return verify_reference(data, [k.public_key().public_bytes_raw() for k in keys])


@click.command()
@click.option("--release", required=True, metavar="NAME@VERSION", help="adyton@0.2.0, say.")
@click.option("--mr-enclave", multiple=True, metavar="HEX", help="SGX. May be repeated.")
@click.option("--mr-td", multiple=True, metavar="HEX", help="TDX. May be repeated.")
@click.option("--snp", multiple=True, metavar="HEX", help="SEV-SNP, from sev-snp-measure, say.")
@click.option("--pcr0", multiple=True, metavar="HEX", help="AWS Nitro. May be repeated.")
@click.option(
    "--measurements",
    "files",
    type=READABLE,
    multiple=True,
    help="JSON: {tee: [{register: hex}]}, or what `manifest measure --json` printed.",
)
@click.option(
    "--not-after",
    type=click.IntRange(0, 4294967295),
    metavar="UNIX",
    help="When these measurements stop counting.",
)
@click.option("--extend", type=READABLE, help="Keep the releases of this file, signed by --key.")
@click.option("--key", "keys", type=READABLE, multiple=True, required=True, help="Ed25519, PEM.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
@json_option
def reference(
    *,
    release: str,
    mr_enclave: tuple[str, ...],
    mr_td: tuple[str, ...],
    snp: tuple[str, ...],
    pcr0: tuple[str, ...],
    files: tuple[Path, ...],
    not_after: int | None,
    extend: Path | None,
    keys: tuple[Path, ...],
    out: Path,
    as_json: bool,
) -> None:
    """Write signed reference values: what a release measures as, for policies to accept.

    Equal inputs give equal bytes. A policy names the file and the public key printed here.
    """
    from attestation.policy.reference import Release, sign_reference

    name, separator, version = release.rpartition("@")
    if not separator:
        raise click.UsageError("--release is NAME@VERSION")
    signers = [_key(path) for path in keys]
    named = {"tdx": mr_td, "sgx": mr_enclave, "sev-snp": snp, "nitro": pcr0}
    new = Release(name, version, _collect(named, files), not_after)
    releases = (*_earlier(extend, signers), new)
    out.write_bytes(sign_reference(releases, signers))
    public = [key.public_key().public_bytes_raw().hex() for key in signers]
    if as_json:
        labels = sorted(r.label for r in releases)
        print_json({"file": str(out), "public_keys": public, "releases": labels})
        return
    click.echo(f"{out}: {len(releases)} releases")
    for text in public:
        click.echo(f"  public key {text}")
