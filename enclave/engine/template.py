"""Chat messages become the prompt the model was trained on, by the model's own template.

The template is a Jinja program that came with the model. It runs sandboxed, with bounds on
time and output. It never sees what users wrote: each content is replaced by a marker, and the
text is put back afterwards as untrusted, so `<|im_end|>` typed by a user stays eight letters.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, Final

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from enclave.engine.tokenizer import Segment
from enclave.errors import InvalidRequest, ModelError

ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})
MAX_MESSAGES: Final = 4096
MAX_CONTENT_CHARS: Final = 1 << 20
MAX_RENDERED_CHARS: Final = 1 << 21
MAX_RENDER_SECONDS: Final = 2.0
MARK: Final = "\ue000"


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, without operators that turn a few bytes into gigabytes."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        for value in (left, right):
            if not isinstance(value, int | float) or abs(value) > 1 << 20:
                raise SecurityError("only small numbers are multiplied here")
        return super().call_binop(context, operator, left, right)


class _TooSlow(BaseException):
    """Past its time. Not an Exception, so that no template can catch it."""


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> str:
    raise jinja2.TemplateError(message)


class ChatTemplate:
    """A compiled chat template. Thread-safe."""

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        environment = _Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as e:
            raise ModelError(f"the model's chat template does not compile: {e.message}") from None
        self._constants = {"bos_token": bos, "eos_token": eos, "add_generation_prompt": True}

    def render(self, messages: Sequence[Mapping[str, Any]]) -> list[Segment]:
        """The prompt as trusted template text and untrusted contents, in order.

        Raises InvalidRequest("messages", ...) and never repeats what a message says.
        """
        checked = [_checked(i, m) for i, m in enumerate(_as_list(messages))]
        key = secrets.token_hex(8)
        shown = []
        for i, (role, content) in enumerate(checked):
            shown.append({"role": role, "content": _marked(key, i, content)})
        text = self._run(shown)
        return _restore(text, key, [content for _, content in checked])

    def _run(self, messages: list[dict[str, str]]) -> str:
        pieces: list[str] = []
        size = 0
        try:
            with _Deadline(MAX_RENDER_SECONDS):
                for piece in self._template.generate(messages=messages, **self._constants):
                    pieces.append(piece)
                    size += len(piece)
                    if size > MAX_RENDERED_CHARS:
                        break
        except _TooSlow:
            raise InvalidRequest("messages", "the chat template takes too long") from None
        except (jinja2.TemplateError, ArithmeticError, LookupError, MemoryError):
            raise _refused() from None
        except (TypeError, ValueError, AttributeError, RecursionError):
            raise _refused() from None
        if size > MAX_RENDERED_CHARS:
            raise InvalidRequest("messages", "the rendered prompt is too long")
        return "".join(pieces)


class _Deadline:
    """Interrupts template code of this thread, even a loop that prints nothing."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._before: Any = None

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if time.monotonic() > self._until:
            raise _TooSlow
        return self._trace if frame.f_code.co_filename == "<template>" else None

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)


def _refused() -> InvalidRequest:
    return InvalidRequest("messages", "the model's chat template does not accept these messages")


def _as_list(messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence) or not messages:
        raise InvalidRequest("messages", "messages must be a non-empty array")
    if len(messages) > MAX_MESSAGES:
        raise InvalidRequest("messages", f"more than {MAX_MESSAGES} messages")
    return messages


def _checked(i: int, message: Mapping[str, Any]) -> tuple[str, str]:
    """(role, content as one string)."""
    where = f"messages[{i}]"
    if not isinstance(message, Mapping):
        raise InvalidRequest("messages", f"{where} is not an object")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidRequest("messages", f"{where}.role must be one of {', '.join(sorted(ROLES))}")
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        raise InvalidRequest("messages", f"{where}.tool_calls is not supported by this model")
    text = content if isinstance(content, str) else _joined(where, content)
    if len(text) > MAX_CONTENT_CHARS:
        raise InvalidRequest("messages", f"{where}.content is too long")
    return ("system" if role == "developer" else role), text


def _joined(where: str, content: Any) -> str:
    if not isinstance(content, list):
        raise InvalidRequest("messages", f"{where}.content must be a string or text parts")
    texts = []
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text":
            raise InvalidRequest("messages", f"{where}.content may hold only text parts")
        text = part.get("text")
        if not isinstance(text, str):
            raise InvalidRequest("messages", f"{where}.content has a text part without text")
        texts.append(text)
    return "".join(texts)


def _marked(key: str, i: int, content: str) -> str:
    """A stand-in that trims like `content` and is empty when it is."""
    if not content:
        return ""
    core = content.strip()
    if not core:
        return f"{MARK}{key}.{i}.0{MARK}"
    start = content.index(core)
    lead, tail = content[:start], content[start + len(core) :]
    return f"{lead}{MARK}{key}.{i}.1{MARK}{tail}"


def _restore(text: str, key: str, contents: Sequence[str]) -> list[Segment]:
    """Split at the markers; a template that altered one is refused rather than trusted."""
    pieces = re.split(f"{MARK}{key}\\.([0-9]+)\\.([01]){MARK}", text)
    segments = [Segment(pieces[0], trusted=True)]
    for number, trimmed, after in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        content = contents[int(number)]
        segments.append(Segment(content.strip() if trimmed == "1" else content, trusted=False))
        segments.append(Segment(after, trusted=True))
    if any(MARK in s.text for s in segments if s.trusted):
        raise _refused()
    return [s for s in segments if s.text]
