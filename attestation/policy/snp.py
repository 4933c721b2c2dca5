"""What a policy may want of SEV-SNP reports beside their registers.

AMD publishes no signed verdict on firmware levels, so nothing here knows which are current:
minimum levels are the operator's to set, by product, from AMD's security bulletins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Self

from attestation.errors import Finding
from attestation.evidence.snp import FirmwareVersion, GuestPolicy, PlatformInfo, TcbParts
from attestation.policy.values import one_of, optional_tuple
from attestation.verify.snp_report import SnpReport

Flags = Mapping[str, bool]
Levels = Mapping[str, Mapping[str, int]]

DEFAULT_GUEST_POLICY: Final[Flags] = MappingProxyType({"migrate_ma": False})
"""No migration agent: it would receive the guest's memory, and nobody asked who it is."""

DEFAULT_PLATFORM_INFO: Final[Flags] = MappingProxyType({"alias_check_complete": True})
"""Memory was checked for aliases: without that, a swapped memory module forges any
measurement (BadRAM, CVE-2024-21944, AMD-SB-3015). Also refuses firmware too old to say."""

_ANY_FIRMWARE: Final = FirmwareVersion(0, 0, 0)


def _flags(default: Flags, wanted: Mapping[str, str]) -> Flags:
    """`default` with `set` and `clear` added and `any` taken away."""
    merged = {**{name: "set" if on else "clear" for name, on in default.items()}, **wanted}
    return MappingProxyType({name: v == "set" for name, v in merged.items() if v != "any"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpPolicy:
    """What guest and platform must be; None and empty mappings accept every value.

    `min_tcb` is by product, then by part; given, it refuses products it does not name. It
    applies to the reported levels, which the key proves, and to those at launch.
    `min_abi` is what the guest's own policy must demand of firmware (major, minor), so that it
    never runs on less. `min_firmware` applies to the committed version, below which the host
    cannot go.
    """

    products: tuple[str, ...] | None = None
    signing_keys: tuple[str, ...] = ("vcek", "vlek")
    vmpl: tuple[int, ...] = (0,)
    min_guest_svn: int = 0
    min_abi: tuple[int, ...] = (0, 0)
    min_firmware: FirmwareVersion = _ANY_FIRMWARE
    min_tcb: Levels = field(default_factory=lambda: MappingProxyType({}))
    guest_policy: Flags = field(default_factory=lambda: DEFAULT_GUEST_POLICY)
    platform_info: Flags = field(default_factory=lambda: DEFAULT_PLATFORM_INFO)
    id_key_digests: tuple[str, ...] | None = None
    author_key_digests: tuple[str, ...] | None = None
    chips: tuple[str, ...] | None = None
    csp_ids: tuple[str, ...] | None = None
    require_revocation: bool = True
    dangerous_allow_provisional_firmware: bool = False
    dangerous_allow_unknown_platform_info: bool = False

    @classmethod
    def from_json(cls, snp: Mapping[str, Any]) -> Self:
        """The section a document means, once it is known to satisfy the schema."""
        levels = {
            product: MappingProxyType({part: int(level) for part, level in parts.items()})
            for product, parts in snp.get("min_tcb", {}).items()
        }
        return cls(
            products=optional_tuple(snp.get("products")),
            signing_keys=tuple(snp.get("signing_keys", ("vcek", "vlek"))),
            vmpl=tuple(int(v) for v in snp.get("vmpl", (0,))),
            min_guest_svn=int(snp.get("min_guest_svn", 0)),
            min_abi=tuple(int(v) for v in snp.get("min_abi", (0, 0))),
            min_firmware=FirmwareVersion(*(int(v) for v in snp.get("min_firmware", (0, 0, 0)))),
            min_tcb=MappingProxyType(levels),
            guest_policy=_flags(DEFAULT_GUEST_POLICY, snp.get("guest_policy", {})),
            platform_info=_flags(DEFAULT_PLATFORM_INFO, snp.get("platform_info", {})),
            id_key_digests=optional_tuple(snp.get("id_key_digests")),
            author_key_digests=optional_tuple(snp.get("author_key_digests")),
            chips=optional_tuple(snp.get("chips")),
            csp_ids=optional_tuple(snp.get("csp_ids")),
            require_revocation=snp.get("require_revocation", True),
            dangerous_allow_provisional_firmware=snp.get(
                "dangerous_allow_provisional_firmware", False
            ),
            dangerous_allow_unknown_platform_info=snp.get(
                "dangerous_allow_unknown_platform_info", False
            ),
        )


def _one(name: str, wanted: tuple[Any, ...] | None, actual: Any) -> Iterator[Finding]:
    if wanted is not None and actual not in wanted:
        yield Finding(f"snp.{name}", one_of(wanted), "none" if actual is None else str(actual))


def _identity(report: SnpReport, wanted: SnpPolicy) -> Iterator[Finding]:
    """Which chip, whose key, which guest."""
    body = report.report
    author = body.author_key_digest.hex() if body.author_key_en else None
    yield from _one("product", wanted.products, report.product)
    yield from _one("signing_key", wanted.signing_keys, report.signing_key)
    yield from _one("chip", wanted.chips, None if report.chip is None else report.chip.hex())
    yield from _one("csp_id", wanted.csp_ids, report.csp_id)
    yield from _one("vmpl", wanted.vmpl, body.vmpl)
    yield from _one("id_key_digest", wanted.id_key_digests, body.id_key_digest.hex())
    yield from _one("author_key_digest", wanted.author_key_digests, author)
    if body.guest_svn < wanted.min_guest_svn:
        yield Finding("snp.guest_svn", f"at least {wanted.min_guest_svn}", str(body.guest_svn))
    if (body.policy.abi_major, body.policy.abi_minor) < wanted.min_abi:
        minimum = ".".join(str(v) for v in wanted.min_abi)
        stated = f"{body.policy.abi_major}.{body.policy.abi_minor}"
        yield Finding("snp.guest_policy.abi", f"at least {minimum}", stated)


def _levels(name: str, wanted: Mapping[str, int], actual: TcbParts) -> Iterator[Finding]:
    for part, minimum in wanted.items():
        level = getattr(actual, part)
        if level is None or level < minimum:
            stated = "no such part" if level is None else str(level)
            yield Finding(f"snp.{name}.{part}", f"at least {minimum}", stated)


def _firmware(report: SnpReport, wanted: SnpPolicy) -> Iterator[Finding]:
    body = report.report
    minimum = wanted.min_tcb.get(report.product)
    if minimum is not None:
        yield from _levels("tcb", minimum, report.reported_tcb)
        yield from _levels("launch_tcb", minimum, report.launch_tcb)
    elif wanted.min_tcb:
        named = ", ".join(wanted.min_tcb)
        yield Finding("snp.tcb", f"a product with minimum levels: {named}", report.product)
    if body.committed_version < wanted.min_firmware:
        yield Finding(
            "snp.firmware", f"at least {wanted.min_firmware}", str(body.committed_version)
        )
    provisional = (
        report.committed_tcb != report.current_tcb or body.committed_version != body.current_version
    )
    if provisional and not wanted.dangerous_allow_provisional_firmware:
        yield Finding(
            "snp.provisional_firmware",
            "the firmware that runs is committed",
            f"runs {body.current_version} {report.current_tcb}, "
            f"committed {body.committed_version} {report.committed_tcb}",
        )


def _bits(name: str, wanted: Flags, actual: GuestPolicy | PlatformInfo) -> Iterator[Finding]:
    words = {True: "set", False: "clear"}
    for flag, expected in wanted.items():
        value = getattr(actual, flag)
        if value is not expected:
            yield Finding(f"snp.{name}.{flag}", words[expected], words[value])


def snp_findings(report: SnpReport, snp: SnpPolicy, now: int) -> Iterator[Finding]:
    """Every way in which this report is not what the section wants, at `now`."""
    info = report.report.platform_info
    yield from _identity(report, snp)
    yield from _firmware(report, snp)
    yield from _bits("guest_policy", snp.guest_policy, report.report.policy)
    yield from _bits("platform_info", snp.platform_info, info)
    if info.unknown and not snp.dangerous_allow_unknown_platform_info:
        yield Finding("snp.platform_info", "only known bits", f"{info.unknown:#x} as well")
    if snp.require_revocation and not report.revocation_checked:
        yield Finding("snp.revocation", "checked against the root's list", "no list was given")
    if not report.endorsements_not_before <= now <= report.endorsements_not_after:
        yield Finding(
            "snp.endorsements_window",
            f"valid at {now}",
            f"valid {report.endorsements_not_before} to {report.endorsements_not_after}",
        )
