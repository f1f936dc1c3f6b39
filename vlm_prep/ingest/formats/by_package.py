"""Rows of a format from outside (`ingest.format_packages`): its function makes the Sample, which is checked here.

What a package gets wrong is its row's reject (`hook_error`) with the package's name, and never a row of a store that is
not the source's: another row's id, a placeholder without media, media whose place nobody could find again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Media, Message, Sample
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.format_packages import outside_format
from vlm_prep.ingest.formats.common import Row
from vlm_prep.ingest.formats.conversation import RowPlace, require_conversation, require_storable
from vlm_prep.ingest.formats.noticed import NOTES, ROW_KEYS_WITH_MEANING, Noticed
from vlm_prep.ingest.spec import DatasetSpec

_ROLES: Final = ("system", "developer", "user", "assistant", "tool")
_KINDS: Final = ("image", "video", "audio")


def to_sample(row: Row, spec: DatasetSpec, place: RowPlace, noticed: Noticed) -> Sample:
    """Turn a row into a Sample by a package's format.

    Raises:
        Reject: the row cannot be used, or the package's code fails on it or gives what is no sample of it.
    """
    found = outside_format(str(spec.format))
    others = {key: value for key, value in row.items() if key not in found.columns and key != "id"}
    noticed.refuse("the row", others, ROW_KEYS_WITH_MEANING)
    try:
        made: Sample = found.to_sample(row, spec, place, noticed)
        fault = _fault(made, spec, place)
    except (Reject, MemoryError):
        raise
    except Exception as error:  # whatever a package's code raises is the row's fault
        what = f"{type(error).__name__}: {excerpt(str(error))}"
        raise Reject(RejectReason.HOOK_ERROR, f"{found}: {what}") from error
    if fault is not None:
        raise Reject(RejectReason.HOOK_ERROR, f"{found} gives {fault}")
    require_conversation(made.messages, row)
    require_storable(made.messages, made.tools, list(made.media))
    noticed.leave("row", others, ())
    notes = {*made.notes, *noticed.notes}
    return replace(made, notes=tuple(sorted(notes)), unread={**made.unread, **noticed.unread})


def _fault(made: Any, spec: DatasetSpec, place: RowPlace) -> str | None:
    """Say what of a value is no sample of the row at a place; None where it is one."""
    if not isinstance(made, Sample):
        return f"{excerpt(made)}, not a Sample"
    if (made.sample_id, made.dataset, made.source, made.line) != (place.sample_id, spec.name, place.source, place.line):
        return f"the sample of another row, {made.sample_id} at {made.source}:{made.line}"
    if made.kept or not NOTES.keys() >= {*made.notes}:
        return f"notes or kept columns that it does not know: {excerpt([*made.notes, made.kept])}"
    if not isinstance(made.messages, list) or not all(map(_is_message, made.messages)):
        return f"messages that are none: {excerpt(made.messages)}"
    if not all(each in range(len(made.messages)) for each in made.strings):
        return f"strings {excerpt(made.strings)} of {len(made.messages)} messages"
    if not all(map(_is_media, made.media)):
        return f"media without a place, or with a header of its own: {excerpt(made.media)}"
    asked = [part["type"] for message in made.messages for part in message["content"] if part["type"] != "text"]
    if asked != (there := [each.kind for each in made.media]):
        return f"placeholders for {', '.join(asked) or 'nothing'} and as media {', '.join(there) or 'none'}"
    return None


def _is_message(message: Message) -> bool:
    return (
        isinstance(message, dict)
        and message.get("role") in _ROLES
        and isinstance(content := message.get("content"), list)
        and all(isinstance(part, dict) for part in content)
        and all(
            isinstance(part.get("text"), str) if part.get("type") == "text" else part.get("type") in _KINDS
            for part in content
        )
    )


def _is_media(media: Any) -> bool:
    """Whether media are named so that they are found from any working folder, and are still to be looked at."""
    if not isinstance(media, Media) or media.header is not None or not media.uris:
        return False
    return all(isinstance(uri, str) and (uri.startswith("/") or "://" in uri) for uri in media.uris)
