"""Media inside a row, marked with the uri by which it is read again.

A data file may hold media itself: bytes in the cells of a Parquet or Arrow file, data: URLs in JSON, and base64 that
says otherwise what it is, as a picture's does by how it begins. `mark` goes through a parsed row and gives each such
value its uri (`media.row_media`); formats then treat it as any other reference, and nothing is written beside the data.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Final

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.row_json import NotANumber
from vlm_prep.core.visible import excerpt
from vlm_prep.media.downloads import Downloads
from vlm_prep.media.row_media import Place, cell_uri

_FIRST: Final = ("d", "D", "i", "/", "R", "U")
"""What texts begin with that may be media."""
_PICTURES: Final = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")
"""How base64 of a PNG, JPEG, GIF and WebP (or WAV) begins."""
_BASE64: Final = re.compile(r"[A-Za-z0-9+/\s]{64,}+={0,2}+\s*+")
_MARKS: Final = (
    b"data:",
    b'"DATA:',
    b'"Data:',
    b"input_audio",
    b"media_type",
    b"mime",
    b'"\\/9j',
    *(f'"{each}'.encode() for each in _PICTURES),
)
_KINDS: Final = ("format", "media_type", "mime_type", "mimeType")


class EmbeddedBytes:
    """A binary value of a table's row. No dataclass, so that it cannot be written as JSON where it is no media."""

    shown_as: Final = "bytes"
    """What messages call it."""

    def __init__(self, uri: str) -> None:
        self.uri = uri


class EmbeddedText(str):
    """Text that may be media in base64: as a text it is itself, as a media it is what `uri` names."""

    uri: str

    def __new__(cls, text: str, uri: str) -> EmbeddedText:
        """Mark a text."""
        marked = super().__new__(cls, text)
        marked.uri = uri
        return marked

    def __reduce__(self) -> tuple[type[EmbeddedText], tuple[str, str]]:
        return EmbeddedText, (str(self), self.uri)


class AddressText(EmbeddedText):
    """An address of http(s): as a text it is itself, as a media it is the file that is fetched from there."""

    downloads: Downloads

    def __new__(cls, text: str, downloads: Downloads) -> AddressText:
        """Mark an address."""
        marked = str.__new__(cls, text)
        marked.downloads = downloads
        return marked

    @property
    def uri(self) -> str:  # type: ignore[override]
        """Path of the file, fetched now unless it is there.

        Raises:
            Reject: it may not be fetched, or cannot be.
        """
        return self.downloads.path(str(self))

    def __reduce__(self) -> tuple[type[str], tuple[str]]:  # type: ignore[override]
        return str, (str(self),)


def mark_addresses(value: Any, downloads: Downloads) -> Any:
    """Return a row with its addresses of http(s) marked."""
    if isinstance(value, dict):
        return {key: mark_addresses(each, downloads) for key, each in value.items()}
    if isinstance(value, list):
        return [mark_addresses(each, downloads) for each in value]
    if isinstance(value, str) and value[:8].lower().startswith(("http://", "https://")):
        return AddressText(value, downloads)
    return value


def may_embed(data: bytes) -> bool:
    """Whether a row of JSON text can hold media: few do, and only these are gone through."""
    return any(each in data for each in _MARKS)


def mark(row: Any, path: str, place: Place, *, table: bool = False) -> Any:
    """Return the row with media values marked.

    Args:
        row: parsed.
        path: the data file, absolute.
        place: the row's place in it.
        table: leave out null fields of structs: Arrow gives every struct of a column all fields of all of them, which
            would print nulls into tool schemas.

    Raises:
        Reject: bad_row, nested too deeply.
    """
    try:
        return _Marker(path, place, table).value(row, ())
    except RecursionError as error:
        raise Reject(RejectReason.BAD_ROW, "the row is nested too deeply") from error


@dataclass(frozen=True, slots=True)
class _Marker:
    path: str
    place: Place
    table: bool

    def value(self, value: Any, pointer: tuple[str | int, ...]) -> Any:
        if isinstance(value, str):
            return EmbeddedText(value, self._uri(pointer)) if _is_media(value) else value
        if isinstance(value, dict):
            drops = self.table and pointer
            return {
                # most are texts, and are looked at no further
                key: each
                if type(each) is str and each[:1] not in _FIRST and key != "data"
                else self._field(key, value, (*pointer, key))
                for key, each in value.items()
                if not (each is None and drops)
            }
        if isinstance(value, list):
            if value and type(value[0]) is tuple and all(type(key) is str for key, _ in value):
                return self._of_map(value, pointer)
            return [self.value(each, (*pointer, place)) for place, each in enumerate(value)]
        if isinstance(value, float) and not math.isfinite(value):
            return NotANumber(value)  # a plain one would be written as null
        if isinstance(value, bytes):
            return EmbeddedBytes(self._uri(pointer)) if value else ""  # no bytes are none, as in a text
        return value

    def _of_map(self, pairs: list[tuple[str, Any]], pointer: tuple[str | int, ...]) -> dict[str, Any]:
        """An object of a map of Arrow, which Python has as pairs."""
        found = {
            key: self.value(each, (*pointer, place, 1)) for place, (key, each) in enumerate(pairs) if each is not None
        }
        if len({key for key, _ in pairs}) < len(pairs):
            raise Reject(RejectReason.DUPLICATE_KEY, f"a key stands twice in a map: {excerpt(dict(pairs))}")
        return found

    def _uri(self, pointer: tuple[str | int, ...]) -> str:
        return cell_uri(self.path, self.place, pointer)

    def _field(self, key: str, parent: dict[str, Any], pointer: tuple[str | int, ...]) -> Any:
        if key == "data" and _is_base64(parent):
            return EmbeddedText(parent[key], self._uri(pointer))
        return self.value(parent[key], pointer)


def _is_media(text: str) -> bool:
    """Whether a text is a data: URL, or a picture in base64 alone: no path is as long, without a dot."""
    return text[:5].lower() == "data:" or (text.startswith(_PICTURES) and _BASE64.fullmatch(text) is not None)


def _is_base64(parent: dict[str, Any]) -> bool:
    """OpenAI's `{"data": <base64>, "format": "wav"}`, Anthropic's with `media_type`, or Gemini's with `mime_type`."""
    said = next((parent[name] for name in _KINDS if name in parent), None)
    return isinstance(parent["data"], str) and isinstance(said, str)
