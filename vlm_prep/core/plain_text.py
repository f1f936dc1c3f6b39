"""Texts of libraries, without what is another one each time.

Messages of rejects are part of a store, whose bytes are the same for the same input. What decoders and interpreters
say holds the time of day, addresses in memory, numbers of open files, temporary names, the place where the library was
built, even memory that was never set. None of it means anything to who reads the message.
"""

from __future__ import annotations

import re
import tempfile

MOST_CHARACTERS = 2_000
"""Of a message: some hold the whole text that they are about (12 MB were seen)."""
# begins where a path begins: tried at each character of a long word it would take quadratic time
_SOURCE = r"(?<![\w./+\-])(?:[\w.+\-]*/)+[\w.+\-]+\.(?:cc|cpp|cxx|c|h|hpp|rs|pyx|cu)"
_TEMPORARY = rf"{re.escape(tempfile.gettempdir())}/(?:tmp|pymp-)\w{{6,16}}"
_ACCIDENTS = tuple(
    (re.compile(pattern, re.DOTALL), put)
    for pattern, put in (
        # a log's own head: [23:26:41] /github/workspace/src/video/video_reader.cc:151:
        (rf"\[\d\d:\d\d:\d\d\] {_SOURCE}:\d+: ", ""),
        (r"\[\d\d:\d\d:\d\d\] ", ""),
        (rf"\(?{_SOURCE}:\d+(?::\d+)?\)?:? ?", ""),
        (r"\n?Stack trace( returned \d+ entries)?:.*", ""),
        # values of a failed check, which may be memory that was never set
        (r"(Check failed: [^()]{1,200}) \(-?[\w.]+ vs\. -?[\w.]+\)", r"\1"),
        # FFmpeg's [mov,mp4 @ 0x55d0c0ffee00], Python's <_io.BytesIO object at 0x7f0123456789>
        (r" ?(?:@|at) 0x[0-9a-fA-F]{4,16}(?=[\]>) ,.:;]|$)", ""),
        (r"\[/proc/self/fd/\d+\] ?", ""),
        (r"/proc/(?:self|\d+)/fd/\d+", "the file"),
        # a row's own files may lie below such a folder: what follows its name stays
        (rf"{_TEMPORARY}(?=/[^/])", "(a temporary folder)"),
        (rf"{_TEMPORARY}(?:\.\w+)?(?![\w/])", "a temporary file"),
        (r"(?<![\w./+\-])(?:/[\w.+\-]+)+/site-packages/", ""),
    )
)


def settled(text: str) -> str:
    """Return a message without what differs from one time to the next, and of bounded length."""
    found = text[: 2 * MOST_CHARACTERS]
    for pattern, put in _ACCIDENTS:
        found = pattern.sub(put, found)
    return found if max(len(found), len(text) // 2) <= MOST_CHARACTERS else f"{found[:MOST_CHARACTERS]} ... (shortened)"
