"""Options that several commands share, and the trust they add up to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from adyton.trust import Trust
    from attestation.policy import Policy

F = TypeVar("F", bound=Callable[..., Any])

READABLE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path, allow_dash=False)


def json_option(f: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")(f)


def trust_options(f: F) -> F:
    """--root, --policy and --measurement."""
    f = click.option(
        "--measurement",
        metavar="HEX",
        help="The workload that must be running: mr_td (96 hex) or mr_enclave (64 hex).",
    )(f)
    f = click.option(
        "--policy",
        default="strict",
        show_default=True,
        metavar="FILE|strict|genuine",
        help="What to demand of genuine evidence. 'genuine' accepts any workload: inspection only.",
    )(f)
    return click.option(
        "--root",
        type=READABLE,
        multiple=True,
        help="Trust this root (DER or PEM) instead of the built-in ones. May be repeated.",
    )(f)


def gpu_options(f: F) -> F:
    """--rim and --revocation, for nodes that show GPUs."""
    f = click.option(
        "--revocation",
        type=READABLE,
        multiple=True,
        metavar="FILE",
        help="OCSP response or CRL (DER) about GPUs and their reference values. May be repeated.",
    )(f)
    return click.option(
        "--rim",
        type=READABLE,
        multiple=True,
        metavar="FILE",
        help="Signed reference values of a GPU's driver or VBIOS (XML). May be repeated.",
    )(f)


def url_option(f: F) -> F:
    return click.option(
        "--url",
        required=True,
        metavar="URL",
        envvar="ADYTON_URL",
        help="The node: https://host:port.",
    )(f)


def api_key_option(f: F) -> F:
    return click.option(
        "--api-key",
        envvar="ADYTON_API_KEY",
        show_envvar=True,
        metavar="KEY",
        help="The node's API key.",
    )(f)


def read_policy(policy: str, measurement: str | None) -> Policy:
    """The named policy or file, pinned to `measurement`. A mistake in either is a usage error."""
    from attestation.errors import AttestationError
    from attestation.policy import load_policy

    try:
        loaded = load_policy(policy)
        return loaded if measurement is None else loaded.with_measurement(measurement.lower())
    except (AttestationError, OSError) as e:
        raise click.UsageError(f"--policy/--measurement: {e}") from None


def read_roots(roots: tuple[Path, ...]) -> tuple[bytes, ...]:
    """The named roots, or the built-in ones when none is named."""
    from attestation.errors import AttestationError
    from attestation.roots import PRODUCTION_ROOTS, load_root

    if not roots:
        return tuple(PRODUCTION_ROOTS)
    try:
        return tuple(load_root(r.read_bytes()) for r in roots)
    except AttestationError as e:
        raise click.UsageError(f"--root: {e}") from None


def build_trust(
    root: tuple[Path, ...],
    policy: str,
    measurement: str | None,
    *,
    rim: tuple[Path, ...] = (),
    revocation: tuple[Path, ...] = (),
) -> Trust:
    """The trust these options add up to. Naming roots replaces the built-in ones, also those
    of reference values."""
    from adyton.trust import Trust, read_document
    from attestation.roots import NVIDIA_RIM_ROOT

    roots = read_roots(root)
    return Trust(
        policy=read_policy(policy, measurement),
        roots=roots,
        gpu_rims=tuple(read_document(path) for path in rim),
        gpu_rim_roots=roots if root else (NVIDIA_RIM_ROOT,),
        gpu_revocation=tuple(read_document(path) for path in revocation),
    )
