"""Who is asking: the API key in the Authorization header, by digest."""

from __future__ import annotations

from starlette.datastructures import Headers

from gateway.errors import ApiError, StorageUnavailable
from gateway.logs import failure
from gateway.storage import ApiKey, ApiKeyStore, StorageError

_CHALLENGE = {"www-authenticate": "Bearer"}


def bearer(headers: Headers) -> str | None:
    """The credential a client presents, or None if it presents none that we understand."""
    values = headers.getlist("authorization")
    if len(values) != 1:
        return None
    scheme, _, credential = values[0].partition(" ")
    credential = credential.strip()
    return credential if scheme.lower() == "bearer" and credential else None


async def lookup(keys: ApiKeyStore, credential: str) -> ApiKey | None:
    """The active key this credential is, or None. Raises StorageUnavailable."""
    try:
        return await keys.lookup(credential)
    except StorageError as e:
        failure("key_lookup_failed", e, reason=e.reason)
        raise StorageUnavailable(e.reason) from None


async def authenticate(keys: ApiKeyStore, headers: Headers) -> ApiKey:
    """The caller's key. Raises ApiError 401 in OpenAI's words."""
    credential = bearer(headers)
    if credential is None:
        raise ApiError(
            401,
            "No API key was given: send it as 'Authorization: Bearer KEY'.",
            code="missing_api_key",
            headers=_CHALLENGE,
        )
    key = await lookup(keys, credential)
    if key is None:
        raise ApiError(
            401, "Incorrect API key provided.", code="invalid_api_key", headers=_CHALLENGE
        )
    return key


def credential_required() -> ApiError:
    """ACI's answer to a credential-bound receipt asked for without credential (section 10)."""
    return ApiError(
        401,
        "This receipt belongs to an API key; present it.",
        type="unauthorized",
        headers=_CHALLENGE,
    )
