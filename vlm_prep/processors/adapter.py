"""What tokenizing asks of any model family.

The seam lies in transformers itself: a processor's text expansion depends on the *dimensions* of media only. So a
family says, for a media whose header is known, which token ids its placeholder becomes and which geometry tensors
come with it. Pixels are never touched here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.types import Media, MediaKind
from vlm_prep.processors.load import LoadedProcessor

Level = Literal["formula", "by size", "full"]
EncodeText = Callable[[str], NDArray[np.int32]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Expansion:
    """What one placeholder becomes."""

    ids: NDArray[np.int32]
    """(n,) the tokens that replace the placeholder."""
    geometry: dict[str, Any]
    """One row for each geometry tensor of this media's kind, e.g. {"image_grid_thw": (1, 28, 42)}."""
    frame_indices: tuple[int, ...] | None = None
    """The frames of a video that the processor will be given."""
    fps: float | None = None
    """Frames per second that timestamps are computed with."""


class Adapter(ABC):
    """A model family over a loaded processor."""

    family: ClassVar[str]
    """The name in tables and manifests."""
    level: ClassVar[Level]
    """How token counts are found."""
    geometry: ClassVar[tuple[str, ...]]
    """The per-media tensors this family stores, by the processor's names."""
    kinds: ClassVar[tuple[MediaKind, ...]]
    """The kinds of media it takes."""

    def __init__(self, loaded: LoadedProcessor) -> None:
        self.loaded = loaded
        self.hf = loaded.hf

    @property
    @abstractmethod
    def placeholder_ids(self) -> dict[int, MediaKind]:
        """Token ids that stand for one media each in the rendered text, before expansion."""

    @abstractmethod
    def expand(self, media: Media, encode: EncodeText) -> Expansion:
        """Return what the placeholder of `media` becomes.

        Args:
            media: with its header.
            encode: text to ids, for families that write timestamps or row marks.

        Raises:
            Reject: the processor cannot take a media of these dimensions.
        """

    @abstractmethod
    def mrope(self) -> dict[str, Any] | None:
        """Return the fields of `pack.positions.Mrope`, or None for plain positions."""

    def runtime(self) -> dict[str, Any]:
        """Return what the runtime needs of the processor, for the manifest: settings and token ids, no tokenizer."""
        return {
            "family": self.family,
            "level": self.level,
            "identity": self.loaded.identity,
            "image_processor": _settings(getattr(self.hf, "image_processor", None)),
            "video_processor": _settings(getattr(self.hf, "video_processor", None)),
            "pad_token_id": self.hf.tokenizer.pad_token_id,
            "image_token_id": getattr(self.hf, "image_token_id", None),
            "video_token_id": getattr(self.hf, "video_token_id", None),
            "vocab_size": len(self.hf.tokenizer),
            "mrope": self.mrope(),
        }


def _settings(part: Any) -> dict[str, Any] | None:
    if part is None:
        return None
    import orjson

    return {"class": type(part).__name__, "config": orjson.loads(part.to_json_string())}
