"""Where a row's media really lie: the path as written, or the one other reading of it that exists; and within bounds.

People write paths as another system, a browser or another tool would: %20 for a blank, backslashes, blanks at the ends,
accents composed otherwise, another case, the media folder given twice. Where nothing lies at the path as written, each
of these readings is tried, and the one that exists is taken and noted; where two exist, neither is.

A row may name any file. `Roots` confines rows to folders (or prefixes of an object store), with links followed and `..`
taken out, so that no row reads what its author should not.
"""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from urllib.parse import quote, unquote

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Media
from vlm_prep.core.remote import is_remote
from vlm_prep.media.files import LONGEST_PATH, SEPARATOR, split_uri
from vlm_prep.media.mock_media import is_made

READ_OTHERWISE = "paths_read_otherwise"
"""Note of a media that was found under another reading of its path."""
_DIGITS = re.compile(r"([0-9]+)")
_UNSEEN = "\ufeff\u200b\u200e\u200f"
"""Marks that are not seen and no blanks: of byte order, of no width, of direction."""
_SYSTEM_FILES = frozenset(("thumbs.db", "desktop.ini"))
"""What Windows puts into folders of pictures."""
_LARGEST_FOLDER = 200_000
_MOST_FOLDERS = 64
"""Of a path that may name some of them twice: one of two thousand has millions of other readings."""
_SHOWN = 4
_LONGEST = 400


@dataclass(frozen=True)
class Roots:
    """What rows may read.

    Args:
        folders: local folders, links followed, and addresses on object stores; empty for no bounds.
        own: the source's data files, whose cells are its own.
    """

    folders: tuple[str, ...] = ()
    own: frozenset[str] = frozenset()

    def holds(self, uri: str) -> bool:
        """Whether a media lies within, links followed."""
        if not self.folders or is_made(uri):
            return True
        if not uri.startswith("/") and is_remote(uri):
            scheme, _, path = uri.partition("://")
            place = f"{scheme}://{os.path.normpath(path)}"
            return any(is_remote(folder) and _is_below(place, folder.rstrip("/")) for folder in self.folders)
        path, key = split_uri(uri)
        real = real_path(path)
        if key is not None and real in self.own:
            return True
        if key is not None and os.path.isdir(path):  # an LMDB, whose file may be a link
            real = real_path(os.path.join(path, "data.mdb"))
        return any(not is_remote(folder) and _is_below(real, folder) for folder in self.folders)

    def require(self, uri: str) -> None:
        """Reject a media outside.

        Raises:
            Reject: outside_media_root.
        """
        if not self.holds(uri):
            where = ", ".join(self.folders)
            raise Reject(RejectReason.OUTSIDE_MEDIA_ROOT, f"{uri}: lies outside of {where} (media_root)")


ANYWHERE = Roots()


def located(media: Media, roots: Roots) -> Media:
    """Return `media` with the uris at which its files are, a folder of frames as a list of them.

    Raises:
        Reject: missing_file, with what was tried; outside_media_root; bad_media_entry for a folder without frames.
    """
    uris = tuple(_located(uri) for uri in media.uris)
    if uris != media.uris:
        media = replace(media, uris=uris, notes=(*media.notes, READ_OTHERWISE))
    if media.kind == "video" and not media.frame_list and os.path.isdir(uris[0]):
        roots.require(uris[0])
        _require_no_part(media)
        media = replace(media, uris=_frames_in(uris[0]), frame_list=True)
    for uri in media.uris:
        roots.require(uri)
    return media


def _require_no_part(media: Media) -> None:
    """Refuse seconds or frame numbers of a folder: its frames have no times, and those wanted are named one by one."""
    if media.frame_indices is not None:
        reason, what = RejectReason.BAD_FRAME_INDICES, f"frame_indices {list(media.frame_indices[:8])}"
    elif (media.start, media.end) != (None, None):
        reason, what = RejectReason.BAD_MEDIA_ENTRY, "a part in seconds"
    else:
        return
    raise Reject(reason, f"{media.uris[0]}: {what} of a folder of frames; list the frames that are wanted instead")


def real_path(path: str) -> str:
    """Return an absolute path with all links followed; what leads to its folder is looked at once."""
    folder, _, name = path.rpartition("/")
    real = f"{_real_folder(folder)}/{name}"
    return os.path.realpath(real) if os.path.islink(real) or name in ("", "..") else real


@functools.lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    """Without the slash that the root ends with."""
    return os.path.realpath(folder or "/").rstrip("/")


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder if folder.endswith("/") else folder + "/")


def _located(uri: str) -> str:
    if is_remote(uri) or is_made(uri):
        return uri
    path, key = split_uri(uri)
    if os.path.lexists(path):
        return uri
    end = "" if key is None else SEPARATOR + key
    tried = list(_readings(path)) if len(path) <= LONGEST_PATH else []
    found = list(dict.fromkeys(place for reading in tried for place in _existing(reading)))
    if len(found) == 1:
        return found[0] + end
    if found:
        raise Reject(
            RejectReason.MISSING_FILE,
            f"{_short(uri)}: no such file, and {len(found)} others that it may mean: "
            f"{', '.join(map(repr, found[:_SHOWN]))}",
        )
    other = list(dict.fromkeys(reading for reading in tried if reading != path))
    also = f"; nor as {', '.join(repr(_short(each)) for each in other[:_SHOWN])}" if other else ""
    raise Reject(RejectReason.MISSING_FILE, f"{_short(uri)}: no such file{also}")


def _short(text: str) -> str:
    """A path as a message shows it; a text that was none may be as long as a file."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text):,} characters)"


def _readings(path: str) -> Iterator[str]:
    """Yield the other ways to read a path, itself first (its letters may differ in case or composition)."""
    seen = set()
    changes: tuple[Callable[[str], str], ...] = (unquote, _with_slashes, _without_blanks)
    for chosen in product((False, True), repeat=len(changes)):
        reading = path
        for is_chosen, change in zip(chosen, changes, strict=True):
            reading = change(reading) if is_chosen else reading
        others = _quoted(path) if all(chosen) else ()  # the last ones
        for each in (reading, *_once(reading), *others):
            if each not in seen and "\0" not in each:
                seen.add(each)
                yield os.path.normpath(each)


def _quoted(path: str) -> Iterator[str]:
    """Yield a path as addresses write it, with blanks as %20 and more or fewer other signs so: files keep such names,
    and a `file:` address was decoded."""
    yield path.replace(" ", "%20")
    for safe in ("/!$&'()*+,;=:@~", "/"):
        yield quote(path, safe=safe)


def _with_slashes(path: str) -> str:
    return path.replace("\\", "/")


def _without_blanks(path: str) -> str:
    return "/".join(part.strip().strip(_UNSEEN).strip() for part in path.split("/"))


def _once(path: str) -> Iterator[str]:
    """Yield a path without folders that it names twice in a row, as a media folder that rows name again."""
    parts = path.split("/")
    for start in range(1, len(parts)) if len(parts) <= _MOST_FOLDERS else ():
        for length in range(1, (len(parts) - start) // 2 + 1):
            if parts[start : start + length] == parts[start + length : start + 2 * length]:
                yield "/".join(parts[: start + length] + parts[start + 2 * length :])


def _existing(path: str) -> list[str]:
    """Return what lies at a path, letters compared without case and however accents are composed."""
    if os.path.lexists(path):
        return [path]
    places = ["/"]
    for part in path.split("/")[1:]:
        places = [found for place in places for found in _step(place, part)]
        if not places:
            return []
    return places


def _step(folder: str, name: str) -> list[str]:
    exact = os.path.join(folder, name)
    if os.path.lexists(exact):
        return [exact]
    return [os.path.join(folder, each) for each in _names(folder).get(_folded(name), ())]


@functools.lru_cache(maxsize=16)
def _names(folder: str) -> dict[str, list[str]]:
    """The names in a folder by what they are without case; none of a folder that is too large to list for a guess."""
    found: dict[str, list[str]] = {}
    try:
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries):
                if number == _LARGEST_FOLDER:
                    return {}
                found.setdefault(_folded(entry.name), []).append(entry.name)
    except OSError:
        return {}
    return {name: sorted(names) for name, names in found.items()}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _frames_in(folder: str) -> tuple[str, ...]:
    """The files of a folder in natural order (2 before 10), hidden ones and those of the system left out.

    Raises:
        Reject: bad_media_entry, it holds none, or folders.
    """
    names = [each for each in os.listdir(folder) if not each.startswith(".") and each.lower() not in _SYSTEM_FILES]
    inner = [name for name in names if os.path.isdir(os.path.join(folder, name))]
    if inner or not names:
        what = f"folders such as {inner[0]!r}" if inner else "no files"
        raise Reject(RejectReason.BAD_MEDIA_ENTRY, f"{folder}: a folder as a video holds its frames; it has {what}")
    return tuple(os.path.join(folder, name) for name in sorted(names, key=natural_order))


def natural_order(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Return what to sort names by so that numbers in them count as numbers."""
    parts = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in _DIGITS.split(name) if part]
    return parts, name


def check_roots(folders: Sequence[str] | None, own: frozenset[str] = frozenset()) -> Roots:
    """Return the bounds of a run, links of its folders followed."""
    return Roots(tuple(each if is_remote(each) else os.path.realpath(each) for each in folders or ()), own)
