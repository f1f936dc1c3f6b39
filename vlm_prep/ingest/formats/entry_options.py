"""Options of one entry of a media column: which are refused, and the part of its file that it names.

What would change pixels, frames or samples and is not applied rejects the row, with the way that is there for it;
`ignore_keys` reads the entry without.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import MediaKind
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.formats.common import is_positive_number
from vlm_prep.ingest.formats.noticed import is_empty

_SECONDS = ("s", "sec", "secs", "seconds")
SEGMENT_STARTS: Final = (
    *("offset", "start", "start_time", "begin", "begin_time", "segment_start", "audio_start", "video_start"),
    *(f"start_{unit}" for unit in _SECONDS),
)
SEGMENT_ENDS: Final = (
    *("end", "end_time", "segment_end", "audio_end", "video_end"),
    *(f"end_{unit}" for unit in _SECONDS),
)
"""Keys of the seconds at which a part of a file begins and ends; `duration` is how long it is."""
RATE_KEYS: Final = ("fps", "sample_fps", "raw_fps")
"""Keys of the rate at which the frames of a list were taken, as Qwen's format has them."""
RATE_AS_TEXT: Final = "rate_as_text"
"""Note of a video whose rate is a number as text, as in the documents of that format."""
_BOUNDS: Final = ("min_pixels", "max_pixels", "min_frames", "max_frames")
_SIZES: Final = (*_BOUNDS[:2], "total_pixels", "resized_height", "resized_width", "resize", "size")
_FRAMES: Final = (*_BOUNDS[2:], "nframes", "num_frames")
_PARTS: Final = (
    *(f"{end}_{unit}" for end in ("start", "end", "offset") for unit in ("ms", "frame", "sample", "timestamp")),
    *(
        "duration_ms",
        "frame_offset",
        "segment",
        "clip",
        "interval",
        "time_range",
        "timestamp",
        "timestamps",
        "from",
        "to",
    ),
)
_OTHERS: Final = ("crop", "bbox", "rotate", "use_audio_in_video")
_REFUSED: Final[dict[MediaKind, frozenset[str]]] = {
    "image": frozenset(
        (*_SIZES, *_FRAMES, *_OTHERS, *SEGMENT_STARTS, *SEGMENT_ENDS, "start_frame", "end_frame"),
    ),
    "video": frozenset((*_SIZES, *_FRAMES, *_OTHERS, *_PARTS)),
    "audio": frozenset((*_SIZES, *_FRAMES, *_OTHERS, *_PARTS, "sampling_rate", "sample_rate", "sr", "channel")),
}
OPTION_KEYS: Final = frozenset[str]().union(*_REFUSED.values())
"""Keys of an entry that mean something which is not applied."""
_SAME_TIME = 1e-3
_NUMBER: Final = re.compile(r"\d+(\.\d+)?")


def require_applied(
    options: Mapping[str, Any], kind: MediaKind, where: str, ignored: frozenset[str] = frozenset()
) -> None:
    """Refuse options of one entry that would change its pixels, frames or samples.

    Raises:
        Reject: BAD_MEDIA_ENTRY.
    """
    if _REFUSED[kind].isdisjoint(options):
        return
    for key, value in options.items():
        if key in _REFUSED[kind] and key not in ignored and not is_empty(value) and value != 0:
            raise bad_entry(
                f"{where} has {key} ({excerpt(value)}), which is not applied: {_way(key, kind)}; `ignore_keys={key}` "
                "reads it without"
            )


def _way(key: str, kind: MediaKind) -> str:
    """What is there for an option that is not applied."""
    if key in _BOUNDS:
        return f"`{key}` sets it for the run"
    if kind != "image" and key in _PARTS:
        return "a part of a file is named in seconds, by start and end or offset and duration"
    if key in _SIZES:
        return "`max_pixels` and `min_pixels` bound all pictures of the run"
    if kind == "video" and key in _FRAMES:
        return "`fps`, `min_frames` and `max_frames` say it for the run, frame_indices for one file"
    return "write the file as it should be"


def segment_of(given: Mapping[str, Any], where: str) -> tuple[float | None, float | None]:
    """Return the seconds at which the part of a file begins and ends that keys of an entry or row ask for.

    Raises:
        Reject: BAD_MEDIA_ENTRY, it is no such part, or said in two ways that differ.
    """
    start, end = (_seconds(given, names, where) for names in (SEGMENT_STARTS, SEGMENT_ENDS))
    length = _seconds(given, ("duration",), where)
    if length is not None:
        stop = (start or 0.0) + length
        if end is not None and abs(end - stop) > _SAME_TIME:
            raise bad_entry(f"{where}: it ends at {end:g} s and after a duration of {length:g} s")
        end = stop if end is None else end
    if end is not None and end <= (start or 0.0):
        raise bad_entry(f"{where}: a part from {start or 0:g} to {end:g} s")
    return start or None, end


def _seconds(given: Mapping[str, Any], names: Sequence[str], where: str) -> float | None:
    values = {name: as_number(given[name]) for name in names if given.get(name) not in (None, "")}
    for name, value in values.items():
        if not (value == 0 and not isinstance(value, bool)) and not is_positive_number(value):
            raise bad_entry(f"{where}: {name} is {excerpt(given[name])}, not a number of seconds")
    if len(set(values.values())) > 1:
        raise bad_entry(f"{where}: {' and '.join(values)} differ")
    return next((float(value) for value in values.values()), None)


def rate_of(
    given: Mapping[str, Any], kind: MediaKind, where: str, ignored: frozenset[str] = frozenset()
) -> tuple[float | None, tuple[str, ...]]:
    """Return the rate that keys of an entry or row say, in frames a second, and the note of a number as text.

    Raises:
        Reject: BAD_MEDIA_ENTRY, it is no rate of a video, or two keys say two.
    """
    written = {name: given[name] for name in RATE_KEYS if name in given and name not in ignored}
    rates = {name: as_number(value) for name, value in written.items()}
    for name, value in rates.items():
        if kind != "video" or not is_positive_number(value):
            raise bad_entry(f"{where}: {name} is {excerpt(written[name])}; it must be a number above 0, of a video")
    if len(set(rates.values())) > 1:
        # qwen_vl_utils counts seconds per grid by sample_fps, and the times of Qwen3-VL by raw_fps
        said = " and ".join(f"{name} ({value:g})" for name, value in rates.items())
        raise bad_entry(
            f"{where}: {said} differ; keep the one at which the frames that are given were taken, "
            f"`ignore_keys={list(rates)[-1]}` reads {next(iter(rates))}"
        )
    notes = (RATE_AS_TEXT,) if any(isinstance(value, str) for value in written.values()) else ()
    return next((float(value) for value in rates.values()), None), notes


def as_number(value: Any) -> Any:
    """Return a number that is written as text, as all are in CSV files; any other value as it is."""
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value.strip()) else value


def bad_entry(message: str) -> Reject:
    """Return the reject of a row with an entry that cannot be read."""
    return Reject(RejectReason.BAD_MEDIA_ENTRY, message)
