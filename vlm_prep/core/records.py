"""The nouns that cross the seams between stages: Sample, Encoded, and what they are made of.

    source rows ──ingest──▶ Sample ──tokenize──▶ Encoded ──pack──▶ Pack ──stream──▶ batch

All are frozen: a stage makes new ones and never edits what it was given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import Reject

MediaKind = Literal["image", "video", "audio"]
Message = dict[str, Any]
"""One turn in Hugging Face's form: role, content (a list of typed parts), and tool_calls, reasoning_content,
train where the source had them. Media parts are bare (`{"type": "image"}`): the n-th one is `Sample.media[n]`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaHeader:
    """What the head of a media file says; enough to know how many tokens the media becomes."""

    height: int = 0
    """Pixels, after EXIF orientation; 0 for audio."""
    width: int = 0
    """Pixels, after EXIF orientation; 0 for audio."""
    total_frames: int | None = None
    """Frames in a video file or in a frame list; None for a picture."""
    fps: float | None = None
    """Frames per second of a video file."""
    times: tuple[float, ...] | None = None
    """Seconds at which the frames of a video file are shown, where its rate varies."""
    samples: int | None = None
    """Samples of each channel of an audio file, at its own rate; of a video's audio track, where it is asked for and
    there is one."""
    sampling_rate: int | None = None
    """Samples per second of an audio file or track."""
    segment: tuple[int, int] | None = None
    """Where only a part of the file is meant: its first sample or frame, and the one behind its last. The numbers above
    are of the part alone."""
    mirrored: bool = False
    """Whether a video file asks to be shown mirrored; its frames are not, see `media.frames_pyav`. Not stored."""
    decoder: str | None = None
    """What reads a video file's frames; its numbers of frames are these."""
    own_size: tuple[int, int] | None = None
    """Height and width of the file's upright pictures, where these are scaled to the height and width above before a
    processor is given them (`tokenize.rescue`)."""
    digests: tuple[str, ...] = ()
    """One content digest for each uri, see `media.files.digest_ends`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Media:
    """A reference to a picture, a video or an audio file, in the order of its placeholder in the conversation."""

    kind: MediaKind
    uris: tuple[str, ...]
    """Absolute paths, `db.lmdb::key`, or `rows.parquet::17/audio` (`media.row_media`). One, except for a video given
    as a list of frames."""
    frame_list: bool = False
    """True for a video given as pictures: `uris` are its frames."""
    frame_indices: tuple[int, ...] | None = None
    """Frames to take from a video file, as the source asks; None leaves the choice to the processor."""
    fps: float | None = None
    """Frames per second that the entry states: of a frame list, the rate it was taken at; of a video file, the rate
    to sample at."""
    min_seconds: float | None = None
    """Shortest audio that the source wants, inclusive; shorter is a reject when it is probed."""
    max_seconds: float | None = None
    """Longest audio that the source wants, inclusive."""
    start: float | None = None
    """Second of the file at which the part that is meant begins."""
    end: float | None = None
    """Second at which it ends; of audio the first that is no longer heard, of video that is no longer seen."""
    stated: tuple[str, float] | None = None
    """A key of the row that says how long the file is, and the seconds that it says: a file of another length is a
    reject when it is probed, since the key may mean a part of it. Not stored."""
    notes: tuple[str, ...] = ()
    """What was done to find or read it that statistics should count."""
    header: MediaHeader | None = None
    """Filled by `media.probe`."""


def counts_of(media: Iterable[Media]) -> Counter[str]:
    """Return how many of each kind probed media are, and how long those with a time are, in whole milliseconds."""
    counts: Counter[str] = Counter()
    for each in media:
        counts[f"{each.kind}s"] += 1
        header = each.header or MediaHeader()
        rate = header.fps or (each.fps if each.frame_list else None)
        if each.kind == "audio" and header.sampling_rate:
            counts["audio_ms"] += round(1000 * (header.samples or 0) / header.sampling_rate)
        elif each.kind == "video" and rate and header.total_frames:
            counts["video_ms"] += round(1000 * header.total_frames / rate)
    return counts


def in_seconds(counts: Mapping[str, int]) -> dict[str, Any]:
    """Return counts with times in seconds, which tasks count in milliseconds so that sums do not depend on order."""
    return {
        (name.removesuffix("_ms") + "_seconds" if name.endswith("_ms") else name): (
            count / 1000 if name.endswith("_ms") else count
        )
        for name, count in counts.items()
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One conversation with references to its media: what ingest makes."""

    sample_id: str
    """`<dataset>/<row>`, 0-based; `#<copy>` is added for repeats of a sample_ratio above 1, and `~<document>` by
    tokenize where a row gives several documents."""
    dataset: str
    source: str
    """The data file, as the meta file names it."""
    line: int
    """1-based line in `source` where the row starts; in a table the 1-based row."""
    messages: list[Message]
    strings: tuple[int, ...] = ()
    """Messages whose content the source writes as a plain string, of which a template may make another text than of a
    list with one part; in `messages` they are such lists."""
    media: tuple[Media, ...] = ()
    tools: list[dict[str, Any]] | None = None
    notes: tuple[str, ...] = ()
    """What was read in another form than the first, for the statistics: names of `ingest.formats.noticed.NOTES`."""
    kept: str = ""
    """JSON of the row's own id and of the columns that travel with it (`keep_columns`); empty where it has none."""
    unread: dict[str, Any] = field(default_factory=dict, compare=False)
    """What of the row nobody reads: its place (`row.score`, `message.id`) → its first value. Not stored."""


def characters(sample: Sample) -> int:
    """Return how many characters the messages of a sample have."""
    return sum(len(part.get("text", "")) for message in sample.messages for part in message["content"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """A row that was not written: one line of rejects.parquet."""

    sample_id: str
    dataset: str
    source: str
    line: int
    stage: str
    reason: str
    message: str
    kept: str = ""
    """See `Sample.kept`; empty, too, where the row could not be read."""


def rejected(sample: Sample, stage: str, reject: Reject) -> Rejected:
    """Return the line of rejects.parquet for a sample."""
    return Rejected(
        sample_id=sample.sample_id,
        dataset=sample.dataset,
        source=sample.source,
        line=sample.line,
        stage=stage,
        reason=reject.reason.value,
        message=reject.message,
        kept=sample.kept,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """A tokenized, labelled sample: one row of a tokenized store."""

    sample_id: str
    dataset: str
    input_ids: NDArray[np.int32]
    """(length,)"""
    labels: NDArray[np.int32]
    """(length,) unshifted; -100 where nothing is trained."""
    loss_weights: NDArray[np.float32] | None = None
    """(length,) weight of each token's loss, 0 where nothing is trained; None unless the run stores weights."""
    document: int = 1
    """Which of its row's documents it is, from 1: a row gives several with rewritten_history="split"."""
    structural_tokens: int = 0
    """Trained tokens that would not be with label_convention="ours"."""
    notes: tuple[str, ...] = ()
    """What was done to the row that its statistics should count, e.g. `tools_as_text`."""
    geometry: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Per-media tensors under the processor's own names, e.g. image_grid_thw (n_images, 3)."""
    media: tuple[Mapping[str, Any], ...] = ()
    """As a shard holds them, see `core.stored_media`."""
    kept: str = ""
    """See `Sample.kept`."""
    rescue: str = ""
    """JSON of what was done to a row that was too long, see `tokenize.rescue`; empty where nothing was."""
    boxes: str = ""
    """JSON of its boxes and points, see `tokenize.boxes`; empty where no rule was declared or it has none."""
    conversation: bytes = b""
    """JSON of messages and tools as rendered, keys in the row's own order (templates print schemas as they come)."""
