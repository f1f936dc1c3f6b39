"""What a library says of a file, as it may stand in a reject: the same words each time, without where its code lies.

Decoders put clocks, addresses of objects, lines of their C++ sources, and names of files in memory into their errors.
A reject is part of the store, so it holds none of them.
"""

from __future__ import annotations

import re

_LONGEST = 300
_READ = 10 * _LONGEST
"""Characters of a line that are looked at: some hold the text that they are about, of any length."""
_NOT_OURS = (
    (re.compile(r"\[\d\d:\d\d:\d\d\]\s*"), ""),
    (re.compile(r"\S*?[\w./+-]\.(?:cc|cpp|cxx|c|h|hpp|pyx|py):\d+:?\s*"), ""),
    (re.compile(r"<[\w.]+ object at 0x[0-9a-fA-F]+>"), "the file"),
    (re.compile(r"<_io\.\w+[^>]*>"), "the file"),
    (re.compile(r"\s*(?:at |@ ?)?\b0x[0-9a-fA-F]{6,}\b"), ""),
    (re.compile(r"/proc/self/fd/\d+"), "the file"),
    (re.compile(r"(?:/tmp|/var/tmp|/dev/shm)/[^\s'\":]+"), "the file"),
    # true of the library's own doings, not of the file: a number of FFmpeg's, what libsndfile says of any MP3 of one
    # frame, and of what its own checks find
    (re.compile(r"^Error number -?\d+ occurred"), "damaged: it does not decode"),
    (re.compile(r"^File does not exist or is not a regular file.*"), "damaged: there is no sound that can be read"),
    (re.compile(r"^Unspecified internal error\.?"), "damaged: it does not decode"),
    (re.compile(r"^could not create decoder object$"), "damaged, or it ends too early"),
    (re.compile(r"^(?:End of file|Truncated File Read)$"), "it ends too early"),
    (re.compile(r"^Invalid argument$"), "damaged, or no sound or video"),
)


_TEXTS = (
    ("version https://git-lfs", "a pointer of Git LFS: `git lfs pull` fetches the file"),
    ("<!doctype html", "a page of HTML, such as a server's error"),
    ("<html", "a page of HTML, such as a server's error"),
    ("<?xml", "XML, such as a bucket's error"),
    ("{", "JSON, such as a server's error"),
)


def begins(head: bytes) -> str:
    """Return what to add of a file that is text where media was to be: a page of an error, a pointer of Git LFS.

    None of it is quoted: rejects travel with a store, and a row may name any file that this user may read.
    """
    try:
        text = head[:60].decode().strip().lower()
    except UnicodeDecodeError:
        return ""
    if len(text) <= 3 or not text.replace("\n", " ").isprintable():
        return ""
    return f"; it is {next((kind for start, kind in _TEXTS if text.startswith(start)), 'text')}"


def plain_words(error: BaseException | str) -> str:
    """Return the first line of an error that says something, cleaned; its type's name where nothing is left."""
    words = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    for line in (each[:_READ] for each in str(words).splitlines()):
        for pattern, instead in _NOT_OURS:
            line = pattern.sub(instead, line)
        if line := line.strip(" \t:;"):
            return line[:_LONGEST]
    return type(error).__name__


def named_words(error: BaseException) -> str:
    """Return `plain_words`, after the type's name where the words alone say little (a KeyError's key)."""
    words = plain_words(error)
    speaks = isinstance(error, OSError | SyntaxError | ValueError | EOFError) or words == type(error).__name__
    return words if speaks else f"{type(error).__name__}: {words}"
