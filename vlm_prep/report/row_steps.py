"""How one row is read, step by step: what stands in the file, what it is taken for, its media, the model's view of it.

Each step is what the run itself does with the row; the first one that rejects it is the last one shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from vlm_prep.core.errors import InputError, Reject
from vlm_prep.core.records import Encoded, Media, Rejected, Sample
from vlm_prep.core.visible import excerpt, visible
from vlm_prep.ingest.formats.noticed import NOTES
from vlm_prep.ingest.raw_samples import RawSamples
from vlm_prep.ingest.source import Samples

REJECTED = "rejected"
"""The step that says why a row is not written."""
MODEL = "model"
"""The step that shows a row as its model reads it."""
_RAW: Final = 2000
_TIMES: Final = 4
Probe = Callable[[Media], Media]


@dataclass(frozen=True)
class Step:
    """One thing that is done with the row."""

    name: str
    lines: tuple[str, ...]
    """In words, safe to show."""
    facts: Any
    """The same as JSON-ready data."""


def number_of(samples: Samples, row: str) -> int:
    """Return the number of a row by its number or its sample_id.

    Raises:
        InputError: there is none.
    """
    if row.isdecimal():
        if int(row) < len(samples):
            return int(row)
        raise InputError(f"no row {row}: the source has {len(samples):,}", "Rows count from 0, over all datasets.")
    found = samples.numbers([row])
    if row not in found:
        raise InputError(f"no row {excerpt(row)}", "Give its number from 0, or its sample_id, e.g. photos/17.")
    return found[row]


def explain(samples: Samples, number: int, probe: Probe, encode: Callable[[], list[Any]] | None) -> Iterator[Step]:
    """Yield what is done with a row.

    Args:
        samples: the source.
        number: of the row.
        probe: reads the header of a media.
        encode: makes the row's documents, each as (encoded or rejected, its text with marks); None without a processor.
    """
    (result,) = samples.read(number, number + 1)
    yield Step("row", (f"{result.sample_id}, {result.source}:{result.line}",), {
        "sample_id": result.sample_id, "source": result.source, "line": result.line,
    })  # fmt: skip
    if isinstance(samples, RawSamples):
        source, place = samples.locate(number)
        raw = source.raw(place)
        yield Step("raw", (visible(raw[:_RAW]) + ("..." if len(raw) > _RAW else ""),), raw[:_RAW])
        about = source.describe()
        tags = ", ".join(f"{tag} {value!r}" for tag, value in about["tags"].items()) or "the usual ones"
        outside = "".join(f" of {each}" for each in about.get("format_from", ())[:1])
        lines = (f"format {about['format']}{outside}, rows as {about['kind']}", f"tags {tags}")
        yield Step("found", lines, {name: about[name] for name in ("kind", "format", "columns", "tags", "media_dir")})
    if isinstance(result, Rejected):
        yield _rejected(result.reason, result.message)
        return
    yield _read(result)
    for place, media in enumerate(result.media):
        try:
            known = media.header or probe(media).header
        except Reject as reject:
            yield _rejected(reject.reason.value, reject.message)
            return
        facts = {name: value for name, value in asdict(known).items() if value and name != "digests"} if known else {}
        said = ", ".join(f"{name} {_of_header(value)}" for name, value in facts.items())
        names = f"{media.uris[0]}" + (f" and {len(media.uris) - 1} more" if len(media.uris) > 1 else "")
        yield Step(f"media {place}", (f"{media.kind} {visible(names)}: {said}",), {"uris": media.uris, **facts})
    for encoded, shown in encode() if encode is not None else ():
        if isinstance(encoded, Encoded):
            yield Step(MODEL, (shown,), {"tokens": len(encoded.input_ids), "text": shown})
        else:
            yield _rejected(encoded.reason, encoded.message)


def _read(sample: Sample) -> Step:
    lines = []
    for message in sample.messages:
        parts = [excerpt(part["text"], 200) if "text" in part else f"<{part['type']}>" for part in message["content"]]
        options = [f"{key} {excerpt(message[key], 120)}" for key in message if key not in ("role", "content")]
        lines.append(f"{message['role']}: {' '.join(parts)}" + "".join(f"; {option}" for option in options))
    lines += [f"tools: {excerpt(sample.tools, 200)}"] if sample.tools else []
    lines += [f"note: one of the rows {NOTES.get(note, note)}" for note in sample.notes]
    lines += [f"not read: {visible(place)} ({excerpt(value)})" for place, value in sample.unread.items()]
    unread = {place: excerpt(value) for place, value in sample.unread.items()}
    facts = {"messages": sample.messages, "tools": sample.tools, "notes": sample.notes, "unread": unread}
    return Step("read", tuple(lines), facts)


def _of_header(value: Any) -> str:
    """Say a value of a header: a number, a decoder's name, bounds of a part; of the times of frames the first ones."""
    if isinstance(value, tuple):
        more = f", ... ({len(value):,})" if len(value) > _TIMES else ""
        return f"({', '.join(f'{each:,}' for each in value[:_TIMES])}{more})"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _rejected(reason: str, message: str) -> Step:
    return Step(REJECTED, (f"{reason}: {visible(message)}",), {"reason": reason, "message": message})


def render(steps: Iterator[Step]) -> Iterator[str]:
    """Yield the lines that say the steps, safe for a terminal; the model's text is so already, and has its colours."""
    for step in steps:
        for number, line in enumerate(step.lines):
            yield f"{step.name if not number else '':<10} {line if step.name == MODEL else visible(line)}"
