"""What a policy may want of a dstack guest: application, keys, operating system image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from attestation.errors import Finding
from attestation.policy.values import one_of
from attestation.verify import VerifiedReport

if TYPE_CHECKING:
    from attestation.verify.dstack import DstackFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderPin:
    """A key provider by name (`kms`, `local-sgx`, ..); `id` None accepts any of that name."""

    name: str
    id: str | None = None

    def __str__(self) -> str:
        return self.name if self.id is None else f"{self.name} {self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DstackPolicy:
    """Accepted values, hex; None accepts every one.

    RTMR3 is written by the operating system, so whoever pins anything else here must pin the
    image too, or say with `dangerous_allow_any_os_image` that measurements of `rt_mr1` and
    `rt_mr2` do it. `os_image_hashes` are compared with a proven image, never with what host
    or KMS say. `kms_root_public_keys` (compressed secp256k1) ask for a released key with its
    chain.
    """

    required: bool = False
    app_ids: frozenset[str] | None = None
    compose_hashes: frozenset[str] | None = None
    os_image_hashes: frozenset[str] | None = None
    instance_ids: frozenset[str] | None = None
    key_providers: tuple[ProviderPin, ...] | None = None
    kms_root_public_keys: frozenset[str] | None = None
    dangerous_allow_any_os_image: bool = False

    @classmethod
    def from_json(cls, dstack: Mapping[str, Any]) -> Self:
        """The section a document means, once it is known to satisfy the schema."""
        providers = dstack.get("key_providers")
        return cls(
            required=dstack.get("required", False),
            app_ids=_accepted(dstack, "app_ids"),
            compose_hashes=_accepted(dstack, "compose_hashes"),
            os_image_hashes=_accepted(dstack, "os_image_hashes"),
            instance_ids=_accepted(dstack, "instance_ids"),
            key_providers=None if providers is None else tuple(ProviderPin(**p) for p in providers),
            kms_root_public_keys=_accepted(dstack, "kms_root_public_keys"),
            dangerous_allow_any_os_image=dstack.get("dangerous_allow_any_os_image", False),
        )

    @property
    def wants_dstack(self) -> bool:
        """True when evidence that is not of a dstack guest cannot satisfy this section."""
        return replace(self, dangerous_allow_any_os_image=False) != type(self)()


def _accepted(dstack: Mapping[str, Any], member: str) -> frozenset[str] | None:
    values = dstack.get(member)
    return None if values is None else frozenset(values)


def _member(name: str, accepted: frozenset[str] | None, actual: str | None) -> Iterator[Finding]:
    if accepted is not None and actual not in accepted:
        yield Finding(f"dstack.{name}", one_of(sorted(accepted)), actual or "not proven")


def _os_image(facts: DstackFacts, wanted: DstackPolicy) -> Iterator[Finding]:
    """Some image must be pinned, since every other fact is what that image measured."""
    yield from _member("os_image_hash", wanted.os_image_hashes, facts.os_image_hash)
    unpinned = wanted.os_image_hashes is None and not wanted.dangerous_allow_any_os_image
    if unpinned and wanted.wants_dstack:
        actual = facts.os_image_hash or "not proven"
        yield Finding("dstack.os_image_hash", "an image you pin", actual)


def _chosen_app_id(facts: DstackFacts, wanted: DstackPolicy) -> Iterator[Finding]:
    """An app id that somebody chose names no code: a pinned one needs more beside it."""
    tied = facts.app_id_is_compose_hash or wanted.compose_hashes is not None
    kms = facts.key_provider is not None and facts.key_provider.name == "kms"
    if wanted.app_ids is not None and not tied and not (kms and wanted.key_providers is not None):
        yield Finding(
            "dstack.compose_hash", "a hash you pin, as the app id was chosen", facts.compose_hash
        )


def _provider(facts: DstackFacts, wanted: DstackPolicy) -> Iterator[Finding]:
    pins, provider = wanted.key_providers, facts.key_provider
    if pins is None:
        return
    if provider is None:
        yield Finding("dstack.key_provider", one_of(pins), "not stated")
    elif not any(p.name == provider.name and p.id in (None, provider.id.lower()) for p in pins):
        yield Finding("dstack.key_provider", one_of(pins), f"{provider.name} {provider.id}")


def dstack_findings(
    report: VerifiedReport, facts: DstackFacts | None, wanted: DstackPolicy
) -> Iterator[Finding]:
    """Every way in which the guest of this report is not what the section wants.

    `facts` are what `verify_dstack` made of this report, None where there are none.
    """
    if facts is None:
        if wanted.wants_dstack:
            yield Finding("dstack", "a dstack guest", "none")
        return
    # Here, since policies without dstack need not wait for what reads it.
    from attestation.verify.dstack import mr_aggregated

    aggregated = mr_aggregated(report.measurements) if report.tee == "tdx" else report.tee
    if facts.mr_aggregated != aggregated:
        yield Finding("dstack.mr_aggregated", f"of this report, {aggregated}", facts.mr_aggregated)
    yield from _member("app_id", wanted.app_ids, facts.app_id)
    yield from _member("compose_hash", wanted.compose_hashes, facts.compose_hash)
    yield from _chosen_app_id(facts, wanted)
    yield from _os_image(facts, wanted)
    yield from _member("instance_id", wanted.instance_ids, facts.instance_id)
    yield from _provider(facts, wanted)
    key = facts.released_key
    root = None if key is None else key.kms_public_key
    yield from _member("kms_root_public_key", wanted.kms_root_public_keys, root)
