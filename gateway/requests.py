"""What a prompt request may say, checked before anything runs.

A request is read strictly and refused by name: a member that would change the answer and
is not supported is an error rather than a silent difference, and only members that cannot
change it are accepted and ignored (they say so below). Error messages carry rules, never values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from attestation.canonical import loads_strict
from gateway.errors import ApiError, invalid

_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "function_call": ("none",),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "moderation": (),
    "dimensions": (),
}
"""Unsupported members, with the values that ask for nothing unsupported."""

INT32: Final = 2**31 - 1
INT64: Final = 2**63 - 1

Name = Annotated[str, Field(min_length=1, max_length=256)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0, le=INT32)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class TextPart(_Strict):
    """A piece of a message; only text is understood."""

    type: Literal["text"]
    text: str


class Message(_Strict):
    """One turn. Members that answers carry (`refusal`, `annotations`) may be sent back."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=1024)]
    name: Annotated[str, Field(max_length=256)] | None = None
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    function_call: None = None

    def rendered(self) -> dict[str, str]:
        """What the model's template sees: a role it knows and plain text."""
        text = self.content
        if not isinstance(text, str):
            text = "".join(part.text for part in text)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(_Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Provider(BaseModel):
    """ACI serving constraints (section 5.3); members without the aci_ prefix are not ours."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    aci_verified: bool | None = None
    aci_session_ids: (
        Annotated[
            list[Annotated[str, Field(pattern="^[0-9a-f]{64}$")]],
            Field(min_length=1, max_length=1024),
        ]
        | None
    ) = None


class PromptRequest(_Strict):
    """What every prompt endpoint accepts."""

    model: Name
    provider: Provider | None = None
    metadata: Any = Field(None, description="Accepted and ignored.")
    parallel_tool_calls: Any = Field(None, description="Accepted and ignored.")
    prompt_cache_key: Any = Field(None, description="Accepted and ignored.")
    prompt_cache_retention: Any = Field(None, description="Accepted and ignored.")
    safety_identifier: Any = Field(None, description="Accepted and ignored.")
    service_tier: Any = Field(None, description="Accepted and ignored.")
    store: Any = Field(None, description="Accepted and ignored.")
    user: Any = Field(None, description="Accepted and ignored.")


class GenerationRequest(PromptRequest):
    """Sampling and streaming, common to chat and text completions."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=INT32)] | None = None
    seed: Annotated[int, Field(ge=-INT64 - 1, le=INT64)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=INT32)] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = None
    logit_bias: (
        Annotated[
            dict[
                Annotated[str, Field(pattern="^[0-9]{1,9}$")],
                Annotated[float, Field(ge=-100, le=100)],
            ],
            Field(max_length=1024),
        ]
        | None
    ) = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def stop_strings(self) -> list[str]:
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else list(self.stop)


class ChatRequest(GenerationRequest):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=INT32)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class CompletionRequest(GenerationRequest):
    """`POST /v1/completions`: one prompt, as text or token ids."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=1)]
        | Annotated[list[TokenId], Field(min_length=1, max_length=1 << 17)]
        | Annotated[
            list[Annotated[list[TokenId], Field(min_length=1, max_length=1 << 17)]],
            Field(min_length=1, max_length=1),
        ]
    )
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None


class EmbeddingRequest(PromptRequest):
    """`POST /v1/embeddings`: text only; token ids would have to be ours to mean anything."""

    input: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    )
    encoding_format: Literal["float", "base64"] | None = None


_RULES: Final[Mapping[str, str]] = {
    "stop": "must be a string or an array of at most 16 strings, none of them empty",
    "prompt": "must be one prompt: a string, an array holding one string, or token ids",
    "input": "must be a string or an array of strings, none of them empty; not token ids",
    "content": "must be a string or an array of text parts",
    "logit_bias": "must map at most 1024 token ids to numbers from -100 to 100",
    "aci_session_ids": "must be a non-empty array of session ids (64 lowercase hex characters)",
}
"""Said in place of pydantic's words where a union would produce one complaint per branch."""

Request = TypeVar("Request", bound=PromptRequest)


def read_json(body: bytes) -> dict[str, Any]:
    """The request as an object. Raises MalformedEvidence or ApiError."""
    value = loads_strict(body, "body")
    if not isinstance(value, dict):
        raise invalid(None, "The request body must be a JSON object.")
    return value


def requested_model(value: Mapping[str, Any]) -> str | None:
    """The model a receipt may name, even when the rest of the request is refused."""
    model = value.get("model")
    return model if isinstance(model, str) and 1 <= len(model) <= 256 else None


def parse(
    kind: type[Request], value: Mapping[str, Any], *, max_messages: int, max_inputs: int
) -> Request:
    """`value` as a request of this kind. Raises ApiError naming the parameter at fault."""
    _bound(value, "messages", max_messages)
    _bound(value, "input", max_inputs)
    known = kind.model_fields
    members: dict[str, Any] = {}
    for name, item in value.items():
        if name in known:
            members[name] = item
        elif name in _NEUTRAL:
            if item is not None and not any(
                type(item) is type(n) and item == n for n in _NEUTRAL[name]
            ):
                raise invalid(name, f"{name!r} is not supported here.", "unsupported_parameter")
        else:
            shown = name if _is_plain(name) else None
            raise invalid(
                shown,
                f"Unrecognized request member{f': {shown!r}' if shown else ''}.",
                "unknown_parameter",
            )
    _check_provider_names(value.get("provider"))
    try:
        return kind.model_validate(members)
    except ValidationError as e:
        raise _explain(members, e) from None


def _is_plain(name: str) -> bool:
    """A member's name that looks like one, and may therefore be repeated."""
    return name.isascii() and name.isidentifier() and len(name) <= 64


def _bound(value: Mapping[str, Any], name: str, limit: int) -> None:
    """Refuse a long array before looking inside it."""
    items = value.get(name)
    if isinstance(items, list) and len(items) > limit:
        raise invalid(name, f"{name!r} may have at most {limit} entries.", "array_too_long")


def _check_provider_names(provider: Any) -> None:
    if not isinstance(provider, Mapping):
        return
    for name in provider:
        if name.startswith("aci_") and name not in Provider.model_fields:
            raise invalid("provider", "Unknown aci_ constraint in 'provider'.")
    if provider.get("aci_verified") is False and provider.get("aci_session_ids") is not None:
        raise invalid(
            "provider.aci_session_ids", "'aci_session_ids' implies 'aci_verified'; it is false."
        )


def _explain(value: Any, error: ValidationError) -> ApiError:
    """The first complaint, with the path a person would write and no value in it."""
    first = error.errors(include_url=False, include_input=False, include_context=True)[0]
    path, leaf = _path(value, first["loc"])
    return invalid(path or None, f"{path or 'The request'!s}: {_rule(leaf, first)}.")


def _path(value: Any, loc: tuple[int | str, ...]) -> tuple[str, str]:
    """`messages[0].content` from pydantic's location, skipping the union branches in it."""
    path, leaf = "", ""
    for step in loc:
        if isinstance(value, dict) and isinstance(step, str):
            if leaf == "logit_bias" or not _is_plain(step):
                break
            path += f".{step}" if path else step
            leaf, value = step, value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            path += f"[{step}]"
            value = value[step]
    return path, leaf


def _rule(leaf: str, error: ErrorDetails) -> str:
    kind = error["type"]
    if leaf in _RULES and kind != "missing":
        return _RULES[leaf]
    words = _WORDS.get(kind, "has the wrong type")
    return words.format_map(error.get("ctx") or {})


_WORDS: Final[Mapping[str, str]] = {
    "missing": "is required",
    "extra_forbidden": "is not supported here",
    "none_required": "is not supported here",
    "literal_error": "must be one of {expected}",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "string_too_long": "must not be longer than {max_length}",
    "too_long": "must not be longer than {max_length}",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be greater than {gt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "string_type": "must be a string",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be an array",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}
"""pydantic's kinds of complaint in our words, with its bounds and never its input."""
