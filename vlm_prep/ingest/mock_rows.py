"""Rows that are made up: `mock:rows=1000,images=2,size=224-1024,words=20-200,seed=7`, for runs that measure.

    rows=10        how many
    images=1       pictures of a row;            size=256x256, or 224-1024 (each side drawn), or 224x224-1024x768
    frames=0       a video of so many frames, as well;   fps=2
    audio=0        seconds of sound, as well: 3, or 1-30 (drawn);   rate=16000
    words=256      words of an answer, or 10-300 (drawn); tokens=N: enough words for N tokens of any vocabulary
    turns=1        questions and answers of a row
    look=noise     noise, or chart
    seed=0

A row depends on the seed and its number alone, so any row can be made by itself, on any machine; its media are made
when they are read (`media.mock_media`). With `exact_length` every row has exactly so many tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np

from vlm_prep.core.errors import InputError
from vlm_prep.core.fields import did_you_mean
from vlm_prep.core.fingerprint import digest_json
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.embedded import EmbeddedBytes
from vlm_prep.media.mock_media import MADE

_POOL: Final = """
a about after air all also and animal another any are around as at back be before below between big book boy but
by can chart city cold colour come country day different does down each earth end even every far few find first
food for form found from give good great group hand has have head help high home house how idea important in
into is it just keep kind land large last leave left letter life light line list little live long look made make
many may mean might more most mountain move much must name near need never new next night no not number of often
old on one only open
"""
WORDS: Final = tuple(_POOL.split())
_VERSION: Final = 1
_RANGE: Final = re.compile(r"(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?")
_SIZE: Final = re.compile(r"(\d+)(?:x(\d+))?(?:-(\d+)(?:x(\d+))?)?")
_HINT: Final = "For example: mock:rows=1000,images=2,size=224-1024,words=20-200,seed=7."


@dataclass(frozen=True, slots=True)
class MockIndex:
    """Made rows; the fields are those of the source's text, see this module."""

    text: str
    rows: int = 10
    images: int = 1
    size: tuple[int, int, int, int] = (256, 256, 256, 256)
    """Least and largest width, least and largest height."""
    frames: int = 0
    fps: float = 2.0
    audio: tuple[float, float] = (0.0, 0.0)
    rate: int = 16000
    words: tuple[int, int] = (256, 256)
    turns: int = 1
    look: str = "noise"
    seed: int = 0

    kind = "mock"

    def __len__(self) -> int:
        return self.rows

    @property
    def names(self) -> tuple[str, ...]:
        """What stands for files in reports."""
        return (self.text,)

    def place(self, row: int) -> tuple[int, int]:
        """Return (file, row in it)."""
        return 0, row

    def content_digest(self) -> str:
        """Return the digest of all that the rows depend on."""
        return digest_json([_VERSION, *(getattr(self, each.name) for each in fields(self) if each.name != "text")])

    def read(self, row: int) -> dict[str, Any]:
        """Return a row, as messages whose media are marked with their uris."""
        random = np.random.default_rng([self.seed, row])
        parts = [self._picture("image", random) for _ in range(self.images)]
        if self.frames:
            first = self._picture("image", random)["image"].uri.rpartition("/")
            frames = [EmbeddedBytes(f"{first[0]}/{int(first[2]) + number}") for number in range(self.frames)]
            parts.append({"type": "video", "video": frames, "fps": self.fps})
        if self.audio[1]:
            samples = max(1, round(float(random.uniform(*self.audio)) * self.rate))
            uri = f"{MADE}tone/{samples}@{self.rate}/{_seed(random)}"
            parts.append({"type": "audio", "audio": EmbeddedBytes(uri)})
        messages: list[dict[str, Any]] = []
        for turn in range(self.turns):
            asked = {"type": "text", "text": "Describe this." if not turn else "What else?"}
            messages.append({"role": "user", "content": [*parts, asked] if not turn else [asked]})
            count = int(random.integers(self.words[0], self.words[1] + 1))
            said = " ".join(WORDS[number] for number in random.integers(0, len(WORDS), count).tolist())
            messages.append({"role": "assistant", "content": [{"type": "text", "text": said}]})
        return {"messages": messages}

    def _picture(self, kind: str, random: np.random.Generator) -> dict[str, Any]:
        low_width, high_width, low_height, high_height = self.size
        width, height = (
            int(random.integers(*bounds)) for bounds in ((low_width, high_width + 1), (low_height, high_height + 1))
        )
        return {"type": kind, kind: EmbeddedBytes(f"{MADE}{self.look}/{width}x{height}/{_seed(random)}")}


def _seed(random: np.random.Generator) -> int:
    return int(random.integers(0, 1 << 40))


def mock_index(text: str) -> MockIndex:
    """Return the rows that a source's text says.

    Raises:
        InputError: it says something that is not known.
    """
    said: dict[str, Any] = {}
    known = [each.name for each in fields(MockIndex) if each.name != "text"]
    for pair in filter(None, text.removeprefix(MADE).split(",")):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if name == "tokens":
            name = "words"
        if name not in known or not equals:
            raise InputError(
                f"{text}: unknown {excerpt(pair)}",
                f"Known: {', '.join(known)}, tokens. {_HINT}{did_you_mean(name, known)}",
            )
        said[name] = _read(text, name, value)
    found = MockIndex(text, **said)
    if (
        found.words[0] < 1
        or not found.rows
        or not found.turns
        or found.rate < 1
        or found.fps <= 0
        or found.size[0] < 1
        or found.size[2] < 1
    ):
        raise InputError(f"{text}: rows, turns, words, size, rate and fps are above 0", _HINT)
    return found


def check_mock(text: str) -> str:
    """Return the path that stands for made rows, where one is needed.

    Raises:
        InputError: the text says something that is not known.
    """
    mock_index(text)
    return "/mock"


def _read(text: str, name: str, value: str) -> Any:
    if name == "look":
        if value not in ("noise", "chart"):
            raise InputError(f"{text}: look is {excerpt(value)}", "It is noise or chart.")
        return value
    if name == "size":
        found = _SIZE.fullmatch(value)
        if found is None:
            raise _bad(text, name, value)
        width, height, wide, high = (None if part is None else int(part) for part in found.groups())
        width, height = int(width or 0), height or int(width or 0)
        low_width, high_width, low_height, high_height = width, wide or width, height, high or wide or height
        if high_width < low_width or high_height < low_height:
            raise _bad(text, name, value)
        return low_width, high_width, low_height, high_height
    pair = _RANGE.fullmatch(value)
    if pair is None or (pair[2] and name not in ("audio", "words")):
        raise _bad(text, name, value)
    try:
        if name in ("audio", "words"):
            kind = float if name == "audio" else int
            low, high_end = kind(pair[1]), kind(pair[2] or pair[1])
            if high_end < low:
                raise _bad(text, name, value)
            return low, high_end
        return float(value) if name == "fps" else int(value)
    except ValueError as error:
        raise _bad(text, name, value) from error


def _bad(text: str, name: str, value: str) -> InputError:
    return InputError(f"{text}: {name} is {excerpt(value)}", _HINT)
