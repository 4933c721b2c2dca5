"""`adyton manifest`: render, lint, measure and sign Gramine manifests, and publish what they
measure as reference values. No network, no enclave, the same bytes wherever it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from adyton.cli.failures import NotDone
from adyton.cli.manifest_reference import reference
from adyton.cli.options import READABLE, json_option
from adyton.cli.output import print_json

if TYPE_CHECKING:
    from attestation.manifest.bundle import Bundle
    from attestation.manifest.measure import Measurement
    from attestation.manifest.render import Gramine, Rendered

CHAT_ID: Final = "smollm2-135m-instruct"
EMBEDDING_ID: Final = "all-minilm-l6-v2"
MANIFEST: Final = "adyton.manifest"
_MAX_KEY_BYTES: Final = 64 << 10
_FOLDER = click.Path(file_okay=False, path_type=Path)
_LIBPAL = click.option(
    "--libpal",
    type=READABLE,
    required=True,
    help="Gramine's sgx/libpal.so, of the version that will run.",
)


@click.group(name="manifest")
def manifest() -> None:
    """Gramine manifests: render, lint, measure, sign, publish (needs adyton[manifest])."""


def _need(*modules: str) -> None:
    from importlib.util import find_spec

    if absent := [m for m in modules if find_spec(m) is None]:
        raise NotDone(f"{', '.join(absent)} missing: pip install 'adyton[manifest]'")


def _model(text: str, default_id: str) -> tuple[str, Path]:
    """(id, path) of `[ID=]PATH`."""
    id, separator, path = text.partition("=")
    place = Path(path if separator else text)
    if not place.exists():
        raise click.UsageError(f"there is no model at {place}")
    return (id if separator else place.name.removesuffix(".gguf").lower() or default_id), place


def _models(
    chat: str | None, embedding: str | None, python: Path | None
) -> dict[str, tuple[str, Path]]:
    """By kind, the (id, path) of the models to bundle: those named, else the default ones."""
    from attestation.manifest.bundle import default_models

    found = {} if chat and embedding else default_models(python)
    out = {}
    for kind, id, given in (("chat", CHAT_ID, chat), ("embedding", EMBEDDING_ID, embedding)):
        if given:
            out[kind] = _model(given, id)
        elif kind in found:
            out[kind] = (id, found[kind])
        else:
            raise click.UsageError(f"name a {kind} model: the default one is not installed")
    return out


@manifest.command()
@click.option("--out", type=_FOLDER, required=True, help="A new folder for manifest and bundle.")
@click.option("--template", type=READABLE, help="A template of your own (Jinja2, as Gramine's).")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="A variable of the node's template. May be repeated.",
)
@click.option(
    "--python",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The interpreter of a venv with adyton[node]; this one by default.",
)
@click.option(
    "--gramine",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder with Gramine's libsysdb.so and runtime/, where it is not installed.",
)
@click.option("--chat-model", metavar="[ID=]PATH", help="Instead of the default chat model.")
@click.option("--embedding-model", metavar="[ID=]PATH", help="Instead of the default one.")
@click.option("--no-bundle", is_flag=True, help="Render only: the files lie in --out already.")
@json_option
def render(
    *,
    out: Path,
    template: Path | None,
    settings: tuple[str, ...],
    python: Path | None,
    gramine: Path | None,
    chat_model: str | None,
    embedding_model: str | None,
    no_bundle: bool,
    as_json: bool,
) -> None:
    """Bundle the node and render its manifest: the same bytes in every folder.

    Writes OUT/adyton.manifest and OUT/bundle, and OUT/adyton.manifest.sgx where Gramine's
    own files could be hashed too. Start Gramine in OUT.
    """
    _need("jinja2", "elftools", "tomli_w")
    from attestation.manifest.render import Gramine as Install
    from attestation.manifest.render import render as render_template
    from attestation.manifest.render import template_text
    from attestation.manifest.variables import VariableError, resolve

    try:
        values = resolve(settings)
    except VariableError as e:
        raise click.UsageError(f"--set: {e}") from None
    text, install = template_text(template), Install.find(gramine)
    models = {} if no_bundle else _models(chat_model, embedding_model, python)
    out.mkdir(parents=True, exist_ok=True)
    made = None if no_bundle else _bundle(out, models, values, python, quiet=as_json)
    values |= _file_variables(made, models, values["inside"], values["models"])
    rendered = render_template(text, values, root=out, gramine=install, python=python)
    _write(out, rendered, made, install, as_json=as_json)


def _bundle(
    out: Path,
    models: dict[str, tuple[str, Path]],
    values: dict[str, Any],
    python: Path | None,
    *,
    quiet: bool,
) -> Bundle:
    from attestation.manifest.bundle import build

    carried = {kind: path for kind, (_, path) in models.items()}
    return build(
        out / "bundle",
        python=python,
        models=carried if values["models"] == "bundled" else {},
        progress=lambda step: None if quiet else click.secho(f"... {step}", dim=True, err=True),
    )


def _file_variables(
    made: Bundle | None, models: dict[str, tuple[str, Path]], inside: str, kind_of_mount: str
) -> dict[str, Any]:
    """What a template needs to know of the files: interpreter, glibc, models as mounted."""
    import sys

    base = f"{inside}/models" if kind_of_mount == "bundled" else "/models"

    def places(kind: str) -> list[tuple[str, str]]:
        if kind not in models:
            return []
        id, path = models[kind]
        return [(id, f"{base}/{kind}/{path.name}" if path.is_file() else f"{base}/{kind}")]

    return {
        "python_version": made.python if made else f"{sys.version_info[0]}.{sys.version_info[1]}",
        "glibc": made.glibc if made else ("ld-linux-x86-64.so.2", "libc.so.6"),
        "chat_models": places("chat"),
        "embedding_models": places("embedding"),
    }


def _write(
    out: Path, rendered: Rendered, made: Bundle | None, gramine: Gramine, *, as_json: bool
) -> None:
    from attestation.canonical import sha256_hex

    paths = [out / MANIFEST]
    if rendered.complete:
        # Gramine reads the one without SGX, the other with it.
        paths.append(out / f"{MANIFEST}.sgx")
    for path in paths:
        path.write_bytes(rendered.data)
    if as_json:
        print_json(
            {
                "manifest": str(paths[-1]),
                "sha256": sha256_hex(rendered.data),
                "complete": rendered.complete,
                "missing": list(rendered.missing),
                "trusted_files": rendered.trusted_files,
                "bundle_bytes": made.size_bytes if made else None,
                "distributions": list(made.distributions) if made else None,
            }
        )
        return
    click.echo(f"{paths[-1]}: {rendered.trusted_files} trusted files")
    if not rendered.complete:
        click.echo(
            f"  not complete: {len(rendered.missing)} files of Gramine ({gramine.installed}) are "
            "not here to be hashed.\n  Render where Gramine is installed, or name its folder "
            "with --gramine.",
            err=True,
        )


@manifest.command()
@click.argument("file", type=READABLE)
@json_option
def lint(*, file: Path, as_json: bool) -> None:
    """Refuse a manifest whose enclave nobody should trust, with every reason.

    A FILE named *.sgx must be complete; any other may wait for its last hashes.
    """
    from attestation.manifest.lint import lint as check

    report = check(file.read_bytes(), complete=file.suffix == ".sgx")
    if as_json:
        print_json(
            {
                "verdict": "accept",
                "findings": [],
                "notes": list(report.notes),
                "trusted_files": report.trusted_files,
                "complete": report.unhashed == 0,
            }
        )
        return
    click.echo(f"nothing to refuse; {report.trusted_files} trusted files")
    for note in report.notes:
        click.echo(f"  note: {note}")


def _measure(file: Path, libpal: Path) -> tuple[bytes, Measurement]:
    _need("elftools")
    from attestation.manifest.lint import require_hashes
    from attestation.manifest.measure import measure as compute
    from attestation.manifest.measure import parse_manifest

    data = file.read_bytes()
    require_hashes(parse_manifest(data))
    return data, compute(data, libpal.read_bytes())


@manifest.command()
@click.argument("file", metavar="MANIFEST.sgx", type=READABLE)
@_LIBPAL
@json_option
def measure(*, file: Path, libpal: Path, as_json: bool) -> None:
    """MRENCLAVE of the enclave that this manifest and libpal.so make, offline.

    For the memory layout of Gramine 1.6 to 1.9.
    """
    from attestation.canonical import sha256_hex
    from attestation.manifest.measure import GRAMINE_LAYOUT

    data, found = _measure(file, libpal)
    if as_json:
        print_json(
            {
                "mr_enclave": found.mr_enclave,
                "gramine_layout": GRAMINE_LAYOUT,
                "enclave_size": found.shape.size,
                "max_threads": found.shape.max_threads,
                "edmm": found.shape.edmm,
                "manifest_sha256": sha256_hex(data),
                "libpal_sha256": sha256_hex(libpal.read_bytes()),
            }
        )
    else:
        click.echo(found.mr_enclave)


@manifest.command()
@click.argument("file", metavar="MANIFEST.sgx", type=READABLE)
@_LIBPAL
@click.option("--key", type=READABLE, required=True, help="RSA-3072 with exponent 3, PEM.")
@click.option("--date", "day", required=True, metavar="YYYY-MM-DD", help="The signature's date.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option(
    "--dangerous-unlinted", is_flag=True, help="Sign also what `lint` refuses, for debugging."
)
@json_option
def sign(
    *,
    file: Path,
    libpal: Path,
    key: Path,
    day: str,
    out: Path,
    dangerous_unlinted: bool,
    as_json: bool,
) -> None:
    """Write the SIGSTRUCT (.sig) of this manifest; equal inputs give equal bytes."""
    from attestation.errors import MalformedEvidence
    from attestation.manifest.lint import lint as check
    from attestation.manifest.measure import parse_manifest
    from attestation.manifest.sigstruct import parse_date, sign_sigstruct, unsigned_sigstruct

    try:
        date = parse_date(day)
    except MalformedEvidence as e:
        raise click.UsageError(f"--date: {e.detail}") from None
    data, found = _measure(file, libpal)
    if not dangerous_unlinted:
        check(data)
    unsigned = unsigned_sigstruct(parse_manifest(data), found.mr_enclave, date)
    signed = sign_sigstruct(unsigned, _rsa_key(key))
    out.write_bytes(signed.write())
    facts = {
        "mr_enclave": found.mr_enclave,
        "mr_signer": signed.mr_signer,
        "isv_prod_id": signed.isv_prod_id,
        "isv_svn": signed.isv_svn,
        "debug": signed.debug,
        "date": day,
        "sigstruct": str(out),
    }
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        click.echo(f"{name:12} {value}")


def _rsa_key(path: Path) -> Any:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        with path.open("rb") as f:
            key = load_pem_private_key(f.read(_MAX_KEY_BYTES), password=None)
    except (ValueError, TypeError) as e:
        raise click.UsageError(f"--key: {path} is no unencrypted PEM key ({e})") from None
    if not isinstance(key, RSAPrivateKey):
        raise click.UsageError(f"--key: {path} is no RSA key")
    return key


manifest.add_command(reference)
