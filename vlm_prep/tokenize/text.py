"""Text → token ids with the byte span of each token.

`tokenizers` (through transformers) is the reference. `gigatoken` is used where a start-up check on hard texts gives
the same ids (measured 10-30 times faster on Qwen's vocabulary); every run compares rows with the real processor on
top of that. For byte-level vocabularies the byte span of a token follows from its id: a table of byte lengths and a
cumulative sum replace the tokenizer's offsets. The sum must equal the bytes of the text, which is checked on every
row; text that the tokenizer normalizes (NFC) fails that or the normal-form test and takes the tokenizer's own offsets.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
Ends = NDArray[np.int64]

LOOK_AFTER = 1 << 20
"""Characters after which gigatoken's memory is looked at."""
MOST_GROWTH = 256 << 20
"""Bytes that a process may grow by before gigatoken is made again."""
BYTES_A_CHARACTER = 40
"""More than gigatoken keeps for a character of new text (10 for each of its bytes, of which there are 4 at most)."""
PROBES = (
    "",
    " ",
    "\n\n\n  \n",
    "Hello, world! It's 3.14159 and don't you forget it.",
    "你好，世界。これはテストです。한국어도 있습니다",
    "naïve café déjà vu ﬁ ½ ⅷ ﷺ e\u0301 u\u0308 \u0958 \u1e9b\u0323",
    "emoji 👩‍👩‍👧‍👦 🏳️‍🌈 🇨🇳 \U0001f9d1\U0001f3fd‍\U0001f680",
    "def f(x):\n\treturn {'a': [1, 2, 3], \"b\": None}  # comment\r\n\r\n",
    "tabs\t\tand\u00a0nbsp\u2003em\u200bzero\ufeffbom",
    "1234567890 12,345.67 0x1F 1e-9 ①②③ ٣٤٥",
    "مرحبا بالعالم שלום עולם สวัสดีชาวโลก नमस्ते दुनिया",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "'s 't 're 've 'm 'll 'd 'S 'T I'M YOU'LL",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n\nyes<|im_end|>\n",
    "x<|vision_start|><|image_pad|><|vision_end|>y<|vision_start|><|video_pad|><|vision_end|>",
    '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call><|endoftext|><|im_end',
    "\x00\x01\x7f control \u2028 line \u2029 paragraph",
)
"""Texts on which tokenizer implementations have been seen to differ."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Ids and where their text lies."""

    ids: Ids
    ends: Ends
    """(n,) end of each token in bytes of the encoded text; a token starts where the one before ends."""
    starts: Ends
    starts_with_bos: bool = False
    """Whether the text itself begins with the beginning-of-sequence token."""


class TextEncoder:
    """Encodes text as the tokenizer does, and finds byte spans.

    Args:
        tokenizer: a fast transformers tokenizer.
        fast: whether gigatoken may be used.
    """

    def __init__(self, tokenizer: Any, *, fast: bool = True) -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self._byte_lengths = _byte_lengths(tokenizer)
        normalizer = self._backend.normalizer
        self._nfc = normalizer is not None and type(normalizer).__name__ == "NFC"
        self._plain = normalizer is None or self._nfc
        self._fast, self.note = _gigatoken(tokenizer) if fast and self._plain else (None, None)
        self.implementation = "gigatoken" if self._fast else "tokenizers"
        self._bos: str | None = tokenizer.bos_token

    def ids(self, text: str) -> Ids:
        """Return the ids of `text`, int32 (n,), no special tokens added."""
        if self._fast is not None:
            return self._fast(text)
        return np.asarray(self._backend.encode(text, add_special_tokens=False).ids, np.int32)

    def encode(self, text: str, apart: int | None = None) -> Tokens:
        """Return ids and byte spans of `text`; what stands from character `apart` on is tokenized by itself."""
        if apart is not None:
            first, second = self.encode(text[:apart]), self.encode(text[apart:])
            return _one_after_the_other(first, second, len(text[:apart].encode()))
        if self._is_written_as_is(text):
            tokens = self._spans(self.ids(text), text)
            if tokens is not None:
                return tokens
        return self.encode_by_offsets(text)

    def _is_written_as_is(self, text: str) -> bool:
        """Whether ids stand for the bytes of `text` itself: a byte-level vocabulary, and nothing to normalize."""
        return self._byte_lengths is not None and (not self._nfc or unicodedata.is_normalized("NFC", text))

    def with_spans(self, ids: Ids, text: str) -> Tokens | None:
        """Return byte spans for ids that were made from `text`, or None when their bytes do not add up to it."""
        return self._spans(ids, text) if self._is_written_as_is(text) else None

    def _spans(self, ids: Ids, text: str) -> Tokens | None:
        if self._byte_lengths is None:
            return None
        lengths = self._byte_lengths[ids]
        ends = np.cumsum(lengths)
        size = len(text) if text.isascii() else len(text.encode())
        if (int(ends[-1]) if len(ends) else 0) != size:
            return None
        return Tokens(ids, ends, ends - lengths, self._has_bos(text))

    def _has_bos(self, text: str) -> bool:
        # as apply_chat_template decides whether add_special_tokens is left on
        return self._bos is not None and text.startswith(self._bos)

    def encode_by_offsets(self, text: str, apart: int | None = None) -> Tokens:
        """Return what `encode` does, by the reference tokenizer and its own character offsets (10 times slower)."""
        if apart is not None:
            first, second = self.encode_by_offsets(text[:apart]), self.encode_by_offsets(text[apart:])
            return _one_after_the_other(first, second, len(text[:apart].encode()))
        encoding = self._backend.encode(text, add_special_tokens=False)
        return self.by_offsets(np.asarray(encoding.ids, np.int32), encoding.offsets, text)

    def by_offsets(self, ids: Ids, characters: Sequence[tuple[int, int]], text: str) -> Tokens:
        """Return ids with the byte spans of the characters of `text` that each stands for, half open."""
        offsets = np.asarray(characters, np.int64).reshape(-1, 2)
        to_bytes = byte_positions(text)
        return Tokens(ids, to_bytes[offsets[:, 1]], to_bytes[offsets[:, 0]], self._has_bos(text))


def _one_after_the_other(first: Tokens, second: Tokens, size: int) -> Tokens:
    """Tokens of two texts, the first of `size` bytes, as those of one."""
    ids, ends = np.concatenate([first.ids, second.ids]), np.concatenate([first.ends, second.ends + size])
    return Tokens(ids, ends, np.concatenate([first.starts, second.starts + size]), first.starts_with_bos)


def byte_positions(text: str) -> Ends:
    """Return (len(text)+1,) the byte position of each character of `text` in UTF-8."""
    if text.isascii():
        return np.arange(len(text) + 1, dtype=np.int64)
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    sizes = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _byte_lengths(tokenizer: Any) -> NDArray[np.int64] | None:
    """Return the bytes each id stands for, or None if the vocabulary is not byte-level."""
    decoder = tokenizer.backend_tokenizer.decoder
    if decoder is None or type(decoder).__name__ != "ByteLevel":
        return None
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    added = tokenizer.get_added_vocab()
    lengths = np.zeros(max(vocabulary.values()) + 1, np.int64)
    for token, index in vocabulary.items():
        # the byte-level alphabet writes one character for each byte; added tokens are written as they are
        lengths[index] = len(token.encode()) if token in added else len(token)
    return lengths


def _gigatoken(tokenizer: Any) -> tuple[Callable[[str], Ids] | None, str | None]:
    """Return gigatoken's encode if it is installed and agrees on all probes, and a line for the user if it does not."""
    try:
        import gigatoken
    except ImportError:
        return None, None
    try:
        candidate = gigatoken.Tokenizer(tokenizer)
        for text in PROBES:
            expected = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
            if [int(token) for token in candidate.encode(text)] != expected:
                return None, f"gigatoken differs from tokenizers on {text!r}: using tokenizers"
    except Exception as error:  # a vocabulary it cannot load raises in its Rust core in several ways
        return None, f"gigatoken cannot load this tokenizer ({type(error).__name__}): using tokenizers"

    return _Bounded(gigatoken.Tokenizer, tokenizer, candidate), None


class _Bounded:
    """gigatoken's encode in bounded memory.

    gigatoken keeps every word that it meets for ever, 7 to 10 bytes for each byte of new text: a long run over text in
    many languages would reach `worker_memory` and reject rows that have no fault. So it is made again (0.4 s of CPU
    for Qwen's vocabulary, same ids) once the process has grown by `MOST_GROWTH` since.

    Args:
        make: makes one of `tokenizer`.
        tokenizer: a fast transformers tokenizer.
        made: the first one.
    """

    def __init__(self, make: Callable[[Any], Any], tokenizer: Any, made: Any) -> None:
        self._make, self._tokenizer, self._made = make, tokenizer, made
        self._characters = self._since_look = 0
        self._begin = _own_memory()

    def __call__(self, text: str) -> Ids:
        self._since_look += len(text)
        if self._since_look >= LOOK_AFTER:
            self._look()
        return np.asarray(self._made.encode(text)).astype(np.int32)

    def _look(self) -> None:
        self._characters += self._since_look
        self._since_look = 0
        if self._characters * BYTES_A_CHARACTER < MOST_GROWTH:
            return  # the process may have grown, by pictures that were compared, but not by this
        if _own_memory() - self._begin > MOST_GROWTH:
            self._made = None  # its memory first, then that of the next one
            self._made = self._make(self._tokenizer)
            self._characters, self._begin = 0, _own_memory()


def _own_memory() -> int:
    """Return the bytes of this process's own pages; 0 where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
