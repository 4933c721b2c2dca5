"""Endorsements for one SEV-SNP report, in one call: from AMD's service or from a cache.

`url` None asks nobody and uses the cache alone. AMD's service learns which chip is being
judged; that is a person's choice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from attestation.collateral.cache import Cache
from attestation.collateral.errors import CollateralMissing
from attestation.collateral.http import Fetcher, Patience
from attestation.collateral.kds import AMD_KDS, KDS_PATIENCE, Chip, KdsClient, chips_of
from attestation.collateral.snp import SnpEndorsements
from attestation.collateral.source import CollateralSource, Obtained
from attestation.errors import CollateralError, VerificationError
from attestation.verify.snp_chain import verify_chain
from attestation.x509 import read_chain

__all__ = ["AMD_KDS", "afetch_endorsements", "fetch_endorsements", "obtain_endorsements"]


async def obtain_endorsements(
    source: CollateralSource, chip: Chip, roots: Sequence[bytes], now: int, vlek: bytes | None
) -> Obtained[SnpEndorsements]:
    """Endorsements for reports of `chip`, the whole chain checked, revocation included.

    `vlek` is the certificate (DER) the cloud hands out where a VLEK signs. Raises
    CollateralError.
    """
    source.begin()
    crl = await source.item(chip.crl, now)
    if chip.signer == "vcek":
        kept = await source.item(chip.vcek, now)
        vek, item = kept.checked.item.content, kept.checked.item
        chain = tuple(c.der for c in read_chain("snp-chain", item.issuer_chain.encode()))
    else:
        if vlek is None:
            raise CollateralError("vlek: the cloud hands out its certificate, AMD does not")
        kept = await source.item(chip.chain, now)
        vek, chain = vlek, (kept.checked.item.content,)
    endorsements = SnpEndorsements(vek, chain, crl.checked.item.content)
    try:
        verify_chain(endorsements, tuple(roots))
    except VerificationError as e:
        raise CollateralError(f"endorsements: {e}") from None
    return source.obtained(endorsements, [crl, kept])


async def afetch_endorsements(
    report: bytes,
    *,
    url: str | None = AMD_KDS,
    cache: Path | None,
    roots: Sequence[bytes],
    now: int,
    vlek: bytes | None = None,
    product: str | None = None,
    tls_ca: Path | None = None,
    patience: Patience | None = None,
) -> Obtained[SnpEndorsements]:
    """What verifying the report needs, checked under `roots` (DER) at `now`.

    Raises MalformedEvidence when it is no report, CollateralError otherwise.
    """
    chips = chips_of(report, product)
    kept = None if cache is None else Cache(cache)
    async with Fetcher(patience or KDS_PATIENCE, tls_ca=tls_ca) as fetcher:
        client = None if url is None else KdsClient(fetcher, url)
        source = CollateralSource(client, roots=roots, cache=kept)
        for chip in chips[:-1]:
            try:
                return await obtain_endorsements(source, chip, roots, now, vlek)
            except CollateralMissing:
                continue  # a report that names no product is of the next one
        return await obtain_endorsements(source, chips[-1], roots, now, vlek)


def fetch_endorsements(
    report: bytes,
    *,
    url: str | None = AMD_KDS,
    cache: Path | None,
    roots: Sequence[bytes],
    now: int,
    vlek: bytes | None = None,
    product: str | None = None,
    tls_ca: Path | None = None,
) -> SnpEndorsements:
    """What verifying the report needs, for callers without an event loop.

    Raises MalformedEvidence when it is no report, CollateralError otherwise.
    """
    obtained = asyncio.run(
        afetch_endorsements(
            report,
            url=url,
            cache=cache,
            roots=roots,
            now=now,
            vlek=vlek,
            product=product,
            tls_ca=tls_ca,
        )
    )
    return obtained.value
