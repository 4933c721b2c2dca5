"""Options that say where collateral comes from, and the fetching they add up to."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from adyton.cli.options import READABLE, read_roots

if TYPE_CHECKING:
    from attestation.collateral.item import Platform
    from attestation.collateral.source import Obtained

F = TypeVar("F", bound=Callable[..., Any])
_SNP_REPORT_BYTES: Final = 1184
_INTEL: Final = "https://api.trustedservices.intel.com"
_AMD: Final = "https://kdsintf.amd.com"


def source_options(f: F) -> F:
    """--url, --cache, --offline, --early, --tls-ca and --root."""
    f = click.option(
        "--root",
        type=READABLE,
        multiple=True,
        help="Trust this root (DER or PEM) instead of the built-in ones. May be repeated.",
    )(f)
    f = click.option(
        "--tls-ca", type=READABLE, help="Who issued the service's own certificate (PEM)."
    )(f)
    f = click.option(
        "--early", is_flag=True, help="Intel's new TCB levels as soon as they are announced."
    )(f)
    f = click.option("--offline", is_flag=True, help="Ask nobody: use the cache alone.")(f)
    f = click.option(
        "--cache",
        type=click.Path(file_okay=False, path_type=Path),
        help="Keep what was fetched here, and accept nothing older later.",
    )(f)
    return click.option(
        "--url",
        metavar="URL",
        help=f"The service: a PCCS, Intel's PCS ({_INTEL}, the default for quotes), or AMD's "
        f"KDS ({_AMD}, the default for SEV-SNP reports).",
    )(f)


class Sources:
    """What the options of a command say about where collateral comes from."""

    def __init__(
        self,
        *,
        url: str | None,
        cache: Path | None,
        offline: bool,
        early: bool,
        tls_ca: Path | None,
        root: tuple[Path, ...],
    ) -> None:
        from attestation.collateral.http import base_url
        from attestation.errors import CollateralError

        if offline and (url is not None or cache is None):
            raise click.UsageError("--offline needs --cache, and no --url")
        try:
            self.url = None if url is None else base_url(url)
        except CollateralError as e:
            raise click.UsageError(f"--{e}") from None
        self.offline = offline
        self.update = "early" if early else "standard"
        self.roots = read_roots(root)
        self.now = int(time.time())
        self.cache = cache
        self._tls_ca = tls_ca

    def options(self, default: str) -> dict[str, Any]:
        """Keyword arguments of the fetching functions; `default` is the vendor's service."""
        return {
            "url": None if self.offline else (self.url or default),
            "cache": self.cache,
            "roots": self.roots,
            "now": self.now,
            "tls_ca": self._tls_ca,
        }

    def for_platform(self, platform: Platform) -> Obtained[Any]:
        from attestation.collateral.fetch import fetch_for_platform

        return fetch_for_platform(platform, **self.options(_INTEL))

    def for_report(self, report: bytes, vlek: bytes | None, product: str | None) -> Obtained[Any]:
        import asyncio

        from attestation.collateral.fetch_snp import afetch_endorsements

        options = self.options(_AMD)
        return asyncio.run(afetch_endorsements(report, vlek=vlek, product=product, **options))

    def for_evidence(
        self, data: bytes, vlek: bytes | None = None, product: str | None = None
    ) -> Obtained[Any]:
        """For a DCAP quote or an SEV-SNP report, told apart by length."""
        from attestation.collateral.platform import platform_of

        if len(data) == _SNP_REPORT_BYTES:
            return self.for_report(data, vlek, product)
        return self.for_platform(platform_of(data, self.update))
