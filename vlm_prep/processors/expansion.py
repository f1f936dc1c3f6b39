"""What an adapter answers with: what a placeholder becomes, and which tensors are stored with a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

from vlm_prep.core.errors import Reject, RejectReason, VlmPrepError
from vlm_prep.core.plain_text import settled
from vlm_prep.core.records import Media, MediaKind
from vlm_prep.core.visible import visible
from vlm_prep.processors.fault_words import said

Level = Literal["formula", "by size", "by row", "full"]
Size = tuple[int, int]
"""Height and width in pixels."""
SOUND = "sound"
"""The key of a video part, beside its frames, that holds the waveform of its track."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor that is stored with a row, because positions or a reader without pixels need it."""

    name: str
    """The processor's name for it."""
    kind: MediaKind
    dtype: Literal["int64", "float32", "float64"]
    """As the processor returns it."""
    shape: tuple[int, ...] = ()
    """Of one row; a media has one row, or several where the processor cuts it up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expansion:
    """What one placeholder becomes."""

    text: str
    """It is replaced by this, each run of a media token written once."""
    runs: tuple[int, ...]
    """How often each media token of `text` stands there."""
    geometry: dict[str, NDArray[Any]] = field(default_factory=dict)
    """(rows, *shape) for each stored tensor of this media's kind."""
    frame_indices: tuple[int, ...] | None = None
    """The frames of a video that the processor will be given."""
    fps: float | None = None
    """Frames per second that timestamps are computed with."""
    times: tuple[float, ...] | None = None
    """Seconds of the frames, where the processor is given these in place of a rate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Video:
    """A video as its part will see it."""

    frames: int
    height: int
    width: int
    metadata: Any
    """transformers' VideoMetadata, for this video alone: processors write into it."""
    sound: tuple[tuple[int, ...], int] | None = None
    """Where its sound is put among its frames: the samples of all waveforms of the row, and which of them is its."""


class as_reject:  # noqa: N801 - reads as a statement
    """Turn what a processor raises in the block into a reject of the row."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # processors raise whatever their arithmetic raises; what is ours, or the machine's, goes on as it is
        if isinstance(error, Exception) and not isinstance(error, (Reject, VlmPrepError, MemoryError, OSError)):
            reason = RejectReason.ASPECT_RATIO if "aspect" in str(error) else RejectReason.PROCESSOR_ERROR
            raise Reject(reason, f"{self._what}: {said(error)}") from error


@contextmanager
def naming(media: Sequence[Media], alone: Callable[[int], object]) -> Iterator[None]:
    """Have a reject say which media of a row it is about, where it names none: sizes alone do not find a file.

    Args:
        media: of the row.
        alone: does the same with one of them; of several, the first that is rejected alone is named.
    """
    try:
        yield
    except Reject as several:
        reject, media = _of_one(several, media, alone)
        names = list(dict.fromkeys(uri for item in media for uri in item.uris[:1]))
        if not names or any(visible(settled(name)) in reject.message for name in names):
            raise
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise Reject(reject.reason, f"{', '.join(names[:3])}{more}: {reject.message}") from reject


def _of_one(reject: Reject, media: Sequence[Media], alone: Callable[[int], object]) -> tuple[Reject, Sequence[Media]]:
    for number in range(len(media) if len(media) > 1 else 0):
        try:
            alone(number)
        except Reject as own:
            if own.reason == reject.reason:
                return own, media[number : number + 1]
    return reject, media


def check_frames(name: str, videos: Sequence[Expansion]) -> None:
    """Raise Reject (processor_error) where a row's videos go into one tensor and have different numbers of frames."""
    counts = sorted({len(each.frame_indices or ()) for each in videos})
    if len(counts) > 1:
        raise Reject(
            RejectReason.PROCESSOR_ERROR,
            f"videos of {' and '.join(map(str, counts))} frames: {name} puts a row's videos into one tensor, so all "
            "must have as many",
        )
