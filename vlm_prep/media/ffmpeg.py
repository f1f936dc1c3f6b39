"""Files opened with FFmpeg (PyAV): only containers of a list, so that a file can name no other file or address.

Playlists (HLS, DASH, concat scripts) are files that make FFmpeg open others, also on the network. AVI and Matroska
(WebM) have no table of all frames: cut, they are shorter files without an error, so the length that their header states
is compared with the file's.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from vlm_prep.core.errors import InputError, Reject, RejectReason
from vlm_prep.core.regular_files import open_regular
from vlm_prep.media.library_words import begins, plain_words

CONTAINERS: Final = (
    *("mov", "matroska", "webm", "avi", "flv", "asf", "mpeg", "mpegts", "mpegvideo", "ogg", "gif", "apng", "rm", "nut"),
    *("h264", "hevc", "m4v", "ivf", "obu", "mjpeg", "mxf", "dv", "swf", "wtv", "nsv", "vvc", "webp_anim"),
    *("aac", "ac3", "eac3", "amr", "amrnb", "amrwb", "mp3", "flac", "wav", "w64", "aiff", "au", "caf", "ape", "tta"),
    *("wv", "dts", "dtshd", "truehd", "tak", "mpc", "mpc8", "loas", "latm", "gsm", "voc", "xwma", "oma", "qcp", "dsf"),
)
"""FFmpeg's names of the containers that are opened."""


@contextmanager
def open_container(source: str | bytes, uri: str, reason: RejectReason, what: str = "") -> Iterator[Any]:
    """Open a file with PyAV; what FFmpeg raises in the block is a reject.

    Args:
        source: path or content of the file.
        uri: its name in messages.
        reason: of the reject.
        what: for messages, what of the file is read.

    Raises:
        Reject: it is no such file, or does not decode.
        InputError: PyAV is not installed.
    """
    av = load_av()
    head = require_whole(source, uri, reason)
    try:
        # a file that names files of its own is given nothing to open them with
        options = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        # titles and the like may be in any encoding, and are not read
        with av.open(file, options=options, metadata_errors="replace") as container:
            yield container
    except (av.FFmpegError, ValueError) as error:  # ValueError: the rate or the channels change on the way
        raise Reject(reason, f"{uri}: {what}{plain_words(error)}{begins(head)}") from error


def load_av() -> Any:
    """Return PyAV.

    Raises:
        InputError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise InputError("reading this file of video or sound needs PyAV", "pip install av") from error
    # what FFmpeg prints goes to stderr past Python; the reject carries the message
    av.logging.set_level(av.logging.PANIC)
    return av


def require_whole(source: str | bytes, uri: str, reason: RejectReason) -> bytes:
    """Return a file's first bytes; an AVI or a Matroska file that is shorter than its header says is rejected.

    Raises:
        Reject: of `reason`.
    """
    if isinstance(source, bytes):
        head, size = source[:4096], len(source)
    else:
        try:
            with open_regular(source) as file:
                head, size = file.read(4096), os.fstat(file.fileno()).st_size
        except OSError as error:
            raise Reject(reason, f"{uri}: {error.strerror or error}") from error
    stated = _stated_size(head)
    if stated is not None and size < stated:
        raise Reject(reason, f"{uri}: cut short, {size} of the {stated} bytes its header states")
    return head


def _stated_size(head: bytes) -> int | None:
    """The file size that an AVI's RIFF chunk or a Matroska file's segment states, None where there is none."""
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return 8 + int.from_bytes(head[4:8], "little")
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        start, size = _matroska_size(head, 4)
        if size is not None and head[start + size : start + size + 4] == b"\x18\x53\x80\x67":
            start, size = _matroska_size(head, start + size + 4)
            return None if size is None else start + size
    return None


def _matroska_size(head: bytes, position: int) -> tuple[int, int | None]:
    """A variable-length size: where what it measures starts, and the size (None: unknown, as live recordings write)."""
    first = head[position] if position < len(head) else 0
    length = 9 - first.bit_length()
    value = int.from_bytes(head[position : position + length]) & ((1 << 7 * length) - 1)
    unknown = length > 8 or value == (1 << 7 * length) - 1
    return position + length, None if unknown else value


def decoders() -> dict[str, str]:
    """Return the versions of what decodes videos and foreign sound here; empty without PyAV."""
    try:
        import av
    except ImportError:
        return {}
    return {"pyav": str(av.__version__), "libavcodec": ".".join(map(str, av.library_versions["libavcodec"]))}
