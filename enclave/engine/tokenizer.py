"""Text becomes token ids exactly as the model's GGUF vocabulary says, and back.

Byte-level BPE (`tokenizer.ggml.model` = gpt2) runs in the `tokenizers` package. Control tokens
are recognised only in text marked as trusted, never in what a user wrote.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from enclave.engine.gguf import GgufFile
from enclave.errors import InvalidRequest, ModelError

CONTROL: Final = 3
USER_DEFINED: Final = 4
TURN_ENDS: Final = frozenset(
    {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "</s>"}
)
LLAMA3_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _pre_tokenizer(name: str) -> Any:
    """The splitting rule llama.cpp calls `name` (`tokenizer.ggml.pre`). Raises ModelError."""
    if name in ("gpt-2", "gpt2"):
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name == "smollm":
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    if name in ("llama-bpe", "llama3", "llama-v3"):
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    raise ModelError(f"pre-tokeniser {name!r} is not supported")


def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 bytes are themselves, the others follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in printable}
    rest = (b for b in range(256) if chr(b) not in table)
    table.update({chr(0x100 + i): b for i, b in enumerate(list(rest))})
    return table


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of text. Only trusted text may name control tokens."""

    text: str
    trusted: bool


class ChatTokenizer:
    """The vocabulary of one model. Thread-safe: nothing changes after construction."""

    def __init__(self, file: GgufFile, vocab_size: int) -> None:
        kind = file.require("tokenizer.ggml.model", str)
        if kind != "gpt2":
            raise ModelError(f"tokeniser {kind!r} is not supported; byte-level BPE (gpt2) is")
        tokens = file.require("tokenizer.ggml.tokens", list)
        merges = file.require("tokenizer.ggml.merges", list)
        types = file.get("tokenizer.ggml.token_type", list, [1] * len(tokens))
        if len(tokens) != vocab_size or len(types) != len(tokens):
            raise ModelError(f"{len(tokens)} tokens for a vocabulary of {vocab_size}")
        self._bpe = _bpe(tokens, merges, file.get("tokenizer.ggml.pre", str, "gpt-2"))
        self.vocab_size = vocab_size
        ids = {text: i for i, text in enumerate(tokens)}
        control = {text: ids[text] for text, t in zip(tokens, types, strict=True) if t == CONTROL}
        always = {t: ids[t] for t, k in zip(tokens, types, strict=True) if k == USER_DEFINED}
        self._trusted = _Splitter({**always, **control})
        self._untrusted = _Splitter(always)
        self._control_ids = frozenset(control.values())
        self._bytes = _token_bytes(tokens, self._control_ids | set(always.values()))
        self.bos_text = self._named(tokens, file, "bos")
        self.eos_text = self._named(tokens, file, "eos")
        self._bos = _token_id(file, "bos", vocab_size)
        self._add_bos = file.get("tokenizer.ggml.add_bos_token", bool, False)
        ends = {_token_id(file, name, vocab_size) for name in ("eos", "eot", "eom")}
        ends |= {i for text, i in control.items() if text in TURN_ENDS}
        self.end_tokens = frozenset(i for i in ends if i is not None)

    @staticmethod
    def _named(tokens: list[str], file: GgufFile, name: str) -> str:
        found = _token_id(file, name, len(tokens))
        return "" if found is None else tokens[found]

    def encode(self, text: str) -> list[int]:
        """Ids of untrusted `text`; the beginning-of-text token first if the model wants it."""
        ids = self.encode_segments([Segment(text, trusted=False)])
        return [self._bos, *ids] if self._add_bos and self._bos is not None else ids

    def encode_segments(self, segments: Iterable[Segment]) -> list[int]:
        """Ids of the joined text. Control tokens inside untrusted segments stay plain text.

        Neighbouring plain text is tokenised in one piece across segment borders, so a benign
        conversation gets the ids any other implementation gives the whole string.
        """
        ids: list[int] = []
        plain: list[str] = []
        for segment in segments:
            splitter = self._trusted if segment.trusted else self._untrusted
            for text, special in splitter.split(segment.text):
                if special is None:
                    plain.append(text)
                    continue
                ids += self._plain("".join(plain))
                plain.clear()
                ids.append(special)
        return ids + self._plain("".join(plain))

    def _plain(self, text: str) -> list[int]:
        if not text:
            return []
        try:
            return list(self._bpe.encode(text, add_special_tokens=False).ids)
        except (UnicodeEncodeError, TypeError):
            raise InvalidRequest("messages", "the text holds an unpaired surrogate") from None

    def token_bytes(self, token: int) -> bytes:
        """What the token adds to the text; a control token's own name for reports."""
        return self._bytes[token]

    def is_control(self, token: int) -> bool:
        return token in self._control_ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`, control tokens left out, broken UTF-8 replaced."""
        raw = b"".join(self._bytes[t] for t in tokens if t not in self._control_ids)
        return raw.decode("utf-8", "replace")


class Detokenizer:
    """Turns tokens into text as they come, holding back incomplete UTF-8 characters."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The characters `token` completes."""
        if self._tokenizer.is_control(token):
            return ""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    @property
    def pending(self) -> bool:
        """Whether bytes of an unfinished character are held back."""
        return bool(self._decoder.getstate()[0])

    def finish(self) -> str:
        """What remains: a replacement character if the text stops inside one."""
        return self._decoder.decode(b"", True)


class _Splitter:
    """Finds special tokens in text, longest first."""

    def __init__(self, special: dict[str, int]) -> None:
        self._ids = special
        names = sorted((re.escape(t) for t in special if t), key=len, reverse=True)
        self._pattern = re.compile(f"({'|'.join(names)})") if names else None

    def split(self, text: str) -> Iterable[tuple[str, int | None]]:
        if self._pattern is None:
            yield text, None
            return
        for part in self._pattern.split(text):
            if part:
                yield part, self._ids.get(part) if self._pattern.fullmatch(part) else None


def _bpe(tokens: list[str], merges: list[str], pre: str) -> Tokenizer:
    pairs = [tuple(m.split(" ", 1)) for m in merges]
    if any(len(p) != 2 for p in pairs):
        raise ModelError("a BPE merge is not a pair")
    ignore_merges = pre in ("llama-bpe", "llama3", "llama-v3")
    try:
        bpe = models.BPE(
            vocab={t: i for i, t in enumerate(tokens)},
            merges=[(a, b) for a, b in pairs],
            ignore_merges=ignore_merges,
        )
    except Exception as e:  # the library raises bare Exception
        raise ModelError(f"the vocabulary is inconsistent: {str(e)[:200]}") from None
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = _pre_tokenizer(pre)
    return tokenizer


def _token_bytes(tokens: list[str], literal: set[int] | frozenset[int]) -> list[bytes]:
    table = _byte_of_character()
    out = []
    for i, text in enumerate(tokens):
        if i in literal or any(c not in table for c in text):
            out.append(text.encode("utf-8", "replace"))
        else:
            out.append(bytes(table[c] for c in text))
    return out


def _token_id(file: GgufFile, name: str, vocab_size: int) -> int | None:
    found = file.get(f"tokenizer.ggml.{name}_token_id", int)
    if found is None:
        return None
    if not 0 <= found < vocab_size:
        raise ModelError(f"the {name} token is outside the vocabulary")
    return int(found)
