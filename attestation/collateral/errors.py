"""How obtaining collateral fails, for callers who act differently on each.

Anything else that is wrong with collateral is a plain CollateralError: it was read or
checked, and refused.
"""

from __future__ import annotations

from attestation.errors import CollateralError


class CollateralUnavailable(CollateralError):  # noqa: N818 - as its base, named for what is true
    """Nobody answered, or the answer was "not now": what is cached may still serve."""


class CollateralMissing(CollateralError):  # noqa: N818
    """The service answered that it has no such thing (HTTP 404)."""


class CollateralRolledBack(CollateralError):  # noqa: N818
    """Genuine, but older than what this cache has already seen: somebody replays the past."""
