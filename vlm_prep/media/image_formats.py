"""Which picture formats are opened: those of a list, told by their first bytes, never by a file's name.

Pillow opens some forty formats, and some by calling a program: PostScript goes through Ghostscript. So a picture is
opened only if its format is on the list of the run (`IMAGE_FORMATS`, setting `image_formats`), and those of
`NEVER_OPENED` cannot be put there. HEIC and JPEG XL need packages of their own (extra `pictures`).
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

from PIL import Image, UnidentifiedImageError

from vlm_prep.core.errors import InputError, Reject, RejectReason

IMAGE_FORMATS: Final = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF", "JXL"),
    *("ICO", "TGA", "PCX", "SGI", "QOI"),
)
"""Pillow's names of the picture formats that are opened unless a run says otherwise, the most frequent first."""
NEVER_OPENED: Final = frozenset(
    ("EPS", "PS", "PDF", "WMF", "EMF", "MPEG", "BUFR", "GRIB", "HDF5", "FITS", "FPX", "MIC", "IPTC", "GBR", "WAL")
)
"""Formats for which Pillow calls a program or another package's reader, or that are no pictures."""
_PLUGINS: Final[dict[str, tuple[tuple[bytes, ...], str, str]]] = {
    "HEIF": ((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "pillow_heif", "pillow-heif"),
    "JXL": ((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"), "pillow_jxl", "pillow-jxl-plugin"),
}
"""Format → its brands (HEIF) or first bytes (JXL), the package that reads it, and what that is installed by."""


def check_formats(formats: Sequence[str] | None) -> tuple[str, ...]:
    """Return the list of formats that may be opened, in capitals; the usual one for None.

    Raises:
        InputError: one is not Pillow's name of a format, or one that is never opened.
    """
    if formats is None:
        return IMAGE_FORMATS
    wanted = tuple(name.upper() for name in formats)
    Image.init()
    for name in wanted:
        if name in NEVER_OPENED:
            raise InputError(f"image_formats: {name} is never opened: its reader calls another program", "leave it out")
        if name not in Image.OPEN and name not in _PLUGINS:
            known = ", ".join(sorted({*Image.OPEN, *_PLUGINS} - NEVER_OPENED))
            raise InputError(f"image_formats: unknown format {name!r}", f"Formats: {known}")
    return wanted


def open_picture(data: bytes, uri: str, formats: Sequence[str] | None = None) -> Image.Image:
    """Open a picture of an allowed format; its pixels are not decoded.

    Args:
        data: the file, or its head.
        uri: for messages.
        formats: those allowed; None for all that are never refused, for media that were probed before.

    Raises:
        Reject: unreadable_image, for a format that is not on the list or needs a package that is not there.
        UnidentifiedImageError and what else Pillow raises: it does not open.
    """
    allowed = _safe() if formats is None else formats
    plugin = _plugin_for(data)
    if plugin is not None and (formats is None or plugin in formats):
        _load(plugin, uri)
        return Image.open(io.BytesIO(data), formats=(plugin,))
    try:
        return Image.open(io.BytesIO(data), formats=_registered(tuple(allowed)))
    except UnidentifiedImageError:
        if (name := plugin or format_of(data)) is not None and name not in allowed:
            message = f"{uri}: a picture of format {name}, which is not opened (image_formats)"
            raise Reject(RejectReason.UNREADABLE_IMAGE, message) from None
        raise


def format_of(data: bytes) -> str | None:
    """Return Pillow's name of a format by its first bytes, without opening anything; None where they do not tell."""
    head = data[:16].ljust(16, b"\0")  # some look further than they are given
    Image.init()
    for name in Image.ID:
        accept: Any = Image.OPEN[name][1]
        if accept is not None and accept(head) is True:
            return name
    return None


def _plugin_for(data: bytes) -> str | None:
    if data[4:8] == b"ftyp":
        return "HEIF" if data[8:12] in _PLUGINS["HEIF"][0] and b"avif" not in data[8:64] else None
    return "JXL" if data.startswith(_PLUGINS["JXL"][0]) else None


def _load(name: str, uri: str) -> None:
    _, module, package = _PLUGINS[name]
    if name in Image.OPEN:
        return
    try:
        plugin = import_module(module)
    except ImportError as error:
        message = f"{uri}: {name} needs {package}: pip install 'vlm-prep[pictures]'"
        raise Reject(RejectReason.UNREADABLE_IMAGE, message) from error
    if name == "HEIF":
        plugin.register_heif_opener()


@functools.cache
def _safe() -> tuple[str, ...]:
    Image.init()
    others = [name for name in Image.ID if name not in IMAGE_FORMATS and name not in NEVER_OPENED]
    return (*IMAGE_FORMATS, *others)


@functools.cache
def _registered(formats: tuple[str, ...]) -> tuple[str, ...]:
    """Those that this Pillow has; one that it was built without is not identified."""
    Image.init()
    return tuple(name for name in formats if name in Image.OPEN)
