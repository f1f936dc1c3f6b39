"""Which media stands where in a conversation, and that none is left over or missing.

`<image>`, `<video>` and `<audio>` (any case, no blanks inside) stand for the next entry of the images, videos
and audios columns. The kinds are counted apart; `Sample.media` has them in the order of their parts. A count that
differs rejects the row: dropping the surplus would train on a question about a picture that is not there. A null in a
column is no media; where a placeholder asks for it, the row is rejected (missing_media).

A path between tags (`<img>a.png</img>`, as Qwen-VL and ms-swift write it) is a media of its own, beside the columns.
Tags in answers and in texts of typed parts are text, since they may be about the tag itself, `<image>` is no video, and
`<image_1>` (`spelt_tags`) is no tag; unless only so there are as many media as tags (`MediaQueue.other_reading`).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any, Final, Literal

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Media, MediaKind
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.formats.entries import are_same, media_from
from vlm_prep.ingest.formats.noticed import MEDIA_NAME, Noticed
from vlm_prep.ingest.formats.spelt_tags import SPELT, SpeltTag, firsts, may_hold, spelt_tag, spelt_tags

Part = dict[str, Any]
TextPlace = Literal["answers", "parts"]
"""Where tags are text at first: in the assistant's texts, in texts of typed parts."""

FRAMES_AS_VIDEO = "frames_as_video"
"""Note of a video that its row gives as a flat list of pictures."""
_PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "ppm", "heic", "avif", "jxl")
_INLINE: Final = "|".join(rf"<{tag}>[^<>\n]+{MEDIA_NAME} *</{tag}>" for tag in ("img", "image", "video", "audio"))
_WITH_PATH = re.compile(_INLINE, re.IGNORECASE)
_USUAL: Final = "|".join(
    (
        *(rf"<{tag}>(?:\s*</{tag}>)?" for tag in ("image", "video", "audio")),
        r"<img>\s*<image>\s*</img>|<\|vision_start\|><(?:image|video)><\|vision_end\|>|<\|audio_bos\|><audio><\|audio_eos\|>",
    )
)
"""In a model's own wrapper, too, which its template writes around the media in any case."""
_TAG = re.compile(rf"({_INLINE}|{_USUAL})", re.IGNORECASE)
_TAG_OR_SPELT = re.compile(rf"({_INLINE}|{_USUAL}|{SPELT})", re.IGNORECASE)
_ONE_USUAL = re.compile(_USUAL, re.IGNORECASE)
_PAGE_PICTURE: Final = re.compile(
    rf"!\[[^\[\]]*\]\((?=[^()\n]*+\))[^()\n]+{MEDIA_NAME}[^()\n]*\)"
    r"|<(?:img|image)\s(?=[^<>]*+>)[^<>]*\bsrc=[^<>]+>",
    re.IGNORECASE,
)
"""As Markdown and HTML write it."""
_NAME: Final = re.compile("img|image|video|audio", re.IGNORECASE)
_KINDS: dict[str, MediaKind] = {"img": "image", "image": "image", "video": "video", "audio": "audio"}


class MediaQueue:
    """Hands out a row's media in the order in which the conversation asks for them."""

    def __init__(
        self,
        columns: dict[MediaKind, list[Media | None]],
        media_dir: Path | str,
        noticed: Noticed,
        *,
        tags_in: TextPlace | None = None,
        image_tag: MediaKind = "image",
        spelt: dict[MediaKind, int] | None = None,
        repeats: bool = False,
        strips: bool = False,
    ) -> None:
        self.media_dir, self.noticed = media_dir, noticed
        self.tags_in = tags_in
        """Texts whose tags are media, too."""
        self.image_tag = image_tag
        """What `<image>` in a text stands for."""
        self.spelt = spelt or {}
        """The kinds whose tags are spelt otherwise, and the number of the first one."""
        self._names: list[SpeltTag] = []
        """Tags spelt otherwise that stay text."""
        self._repeats = repeats
        self.strips = strips
        """Whether blanks around tags, and at the ends of user texts, are left out."""
        self._columns = dict(columns)
        self._asked: dict[MediaKind, int] = {"image": 0, "video": 0, "audio": 0}
        self._kept: dict[TextPlace, Counter[MediaKind]] = {"answers": Counter(), "parts": Counter()}
        self._has_own = False
        """Whether messages name media themselves."""
        self._puts_first: bool | None = None
        """Whether there is a user text to put media before; None where that was not asked for."""
        self._placed: list[Media | tuple[MediaKind, int]] = []

    def place_next(self, kind: MediaKind) -> Part:
        """Return the part of the column's next entry; one too many is reported by `placed`."""
        self._placed.append((kind, self._asked[kind]))
        self._asked[kind] += 1
        return {"type": kind}

    def place_spelt(self, tag: SpeltTag) -> Part:
        """Return the part of the entry that a tag spelt otherwise stands for."""
        if tag.number is None:
            return self.place_next(tag.kind)
        self._placed.append((tag.kind, tag.number - self.spelt[tag.kind]))
        self._asked[tag.kind] += 1
        return {"type": tag.kind}

    def place(self, media: Media) -> Part:
        """Return the part of a media that its own message names."""
        self._placed.append(media)
        self._has_own = True
        return {"type": media.kind}

    def place_first(self, messages: list[dict[str, Any]]) -> None:
        """Put the media of each kind that no placeholder asks for before the first user text, pictures first."""
        said = {tag.kind for tag in self._names} | {each.kind for each in self._placed if isinstance(each, Media)}
        kinds: list[MediaKind] = [
            kind for kind in self._columns if not self._asked[kind] and any(self._columns[kind]) and kind not in said
        ]
        user = next((number for number, message in enumerate(messages) if message["role"] == "user"), None)
        self._puts_first = user is not None
        if not kinds or user is None:
            return
        before = sum(part["type"] != "text" for message in messages[:user] for part in message["content"])
        parts: list[Part] = []
        for kind in kinds:
            self._columns[kind] = [entry for entry in self._columns[kind] if entry is not None]
            self._asked[kind] = len(self._columns[kind])
            self._placed[before + len(parts) : before + len(parts)] = [
                (kind, place) for place in range(self._asked[kind])
            ]
            parts += [{"type": kind}] * self._asked[kind]
        messages[user]["content"] = parts + messages[user]["content"]
        self.noticed.note("read_media_first")

    def has_next(self, kind: MediaKind) -> bool:
        """Return whether the column has an entry that no placeholder asked for so far."""
        return self._asked[kind] < len(self._columns[kind])

    def asked(self, kind: MediaKind) -> int:
        """Return how many entries of the column were asked for so far."""
        return self._asked[kind]

    def note_text(self, text: str, place: TextPlace) -> None:
        """Count the tags of a text that stays text."""
        if may_hold(text):
            if place == "parts":
                self.note_names(text)
            self._kept[place].update(_kind_of(tag) for tag in _TAG.findall(text) if _ONE_USUAL.fullmatch(tag))

    def note_names(self, text: str) -> None:
        """Keep the tags spelt otherwise of a text that stays text and is no answer."""
        self._names += spelt_tags(text)
        if found := _PAGE_PICTURE.search(text):  # a picture of a page; what asks for it may be trained without it
            self.noticed.unread.setdefault("text.picture", found[0])

    def drop_doubles(self) -> None:
        """Leave out a column whose media are those that the messages name themselves, all of them in this order."""
        for kind, entries in self._columns.items() if self._has_own else ():
            own = [each for each in self._placed if isinstance(each, Media) and each.kind == kind]
            if own and not self._asked[kind] and are_same(own, filter(None, entries)):
                self._columns[kind] = []
                self.noticed.note("read_doubles")

    def other_reading(self) -> tuple[str, dict[str, Any]] | None:
        """Return the one other way to read tags by which there are as many media as placeholders, where there are not:
        its note, and arguments of a queue."""
        there = {kind: sum(entry is not None for entry in entries) for kind, entries in self._columns.items()}
        fits = all(self._asked[kind] == count for kind, count in there.items())
        may_be_places = self._names and not (fits and all(map(any, filter(None, self._columns.values()))))
        if may_be_places and (found := firsts(self._names, self._columns, self._asked, repeats=self._repeats)):
            return "read_tag_spellings", {"spelt": found}
        if fits:
            return None
        notes = {"answers": "read_answer_media", "parts": "read_part_tags"}
        for place, kept in self._kept.items():
            if kept and all(self._asked[kind] + kept[kind] == count for kind, count in there.items()):
                return notes[place], {"tags_in": place}
        films = self._columns["video"]
        if there["image"] or self._asked["video"] or self._asked["image"] != there["video"]:
            return None
        if any(entry is not None and _is_frame(entry) for entry in films):
            return None
        return "read_video_as_image", {"image_tag": "video"}

    def placed(self) -> list[Media]:
        """Return the media in the order of their parts: every entry has a placeholder and every placeholder an entry.

        Raises:
            Reject: MEDIA_COUNT_MISMATCH, with both counts; MISSING_MEDIA, a placeholder asks for an entry that is null.
        """
        self._note_lost()
        if not self._placed and not any(self._columns.values()):
            return []
        columns = {kind: self._balanced(kind, entries) for kind, entries in self._columns.items()}
        if self._asked["video"] == 1:
            columns["video"] = _joined(columns["video"])
        for kind, entries in columns.items() if self._repeats else ():
            if len(entries) == 1 and self._asked[kind] > 1:
                columns[kind] = entries * self._asked[kind]
                self.noticed.note("read_media_again")
        if wrong := [kind for kind, entries in columns.items() if len(entries) != self._asked[kind]]:
            if not (self._repeats and self.spelt.keys() >= {*wrong}):  # each number is there, some again
                raise self._mismatch(wrong)
            self.noticed.note("read_media_again")
        return [each if isinstance(each, Media) else columns[each[0]][each[1]] for each in self._placed]

    def _note_lost(self) -> None:
        """Say a placeholder of another tool whose kind the row has no media of: they may have been lost on the way."""
        own = {each.kind for each in self._placed if isinstance(each, Media)}
        for tag in self._names:
            if not (self._asked[tag.kind] or tag.kind in own or any(self._columns[tag.kind])):
                self.noticed.unread.setdefault("text.placeholder", tag.written)

    def _balanced(self, kind: MediaKind, entries: list[Media | None]) -> list[Media]:
        there, asked = [entry for entry in entries if entry is not None], self._asked[kind]
        if len(there) == len(entries):
            return there
        if asked > len(there) and (asked == len(entries) or not there):
            raise Reject(
                RejectReason.MISSING_MEDIA,
                f"{asked} {kind} placeholder(s), and {kind} {entries.index(None)} of the column is null or empty",
            )
        if there:
            self.noticed.note("read_empty_media")
        return there

    def _mismatch(self, kinds: list[MediaKind]) -> Reject:
        there = {kind: sum(each is not None for each in self._columns[kind]) for kind in kinds}
        counts = "; ".join(f"{self._asked[kind]} {kind} placeholder(s) for {there[kind]} {kind}(s)" for kind in kinds)
        answers, parts = (self._kept[place].total() for place in ("answers", "parts"))
        note = f"; {answers} more in assistant turns stay text" if answers else ""
        if parts:
            note += f"; {parts} more in texts of typed parts stay text, where a part of its own says that it is media"
        if names := list(dict.fromkeys(tag.written for tag in self._names if tag.kind in kinds)):
            note += (
                f"; {', '.join(map(excerpt, names[:4]))} in the texts are no places of them: numbers from 0 or 1 on "
            )
            note += "name each once, and stand alone (`repeated_tags=same` lets one stand again)"
        if own := sum(isinstance(each, Media) and each.kind in kinds for each in self._placed):
            note += f"; the messages name {own} of their own, which are not those of the column: keep one of both"
        if not (names or own) and any(there[kind] == 1 and self._asked[kind] > 1 for kind in kinds):
            note += "; write one tag for each, or let `repeated_tags=same` read them all as the one that is there"
        if not note and (over := [kind for kind in kinds if self._asked[kind] > there[kind]]):
            note = f"; {over[0]}s are read from the column {over[0]}s (`columns` names another) or parts of messages"
        if not note and (under := next((kind for kind in kinds if self._asked[kind]), None)):
            extra = [each for each in self._columns[under] if each is not None][self._asked[under]]
            note = f"; write a tag for {excerpt(os.path.basename(extra.uris[0]))} too, or take it out of the column"
        if not note and all(not self._asked[kind] for kind in kinds):
            tags = " and ".join(f"<{kind}>" for kind in kinds)
            first = next(each for kind in kinds for each in self._columns[kind] if each is not None)
            note = (
                f", of which the first is {excerpt(os.path.basename(first.uris[0]))}; write {tags} where they belong, "
            )
            if self._puts_first is False:
                note += "since `missing_tags=first` finds no user text to put them before"
            else:
                note += "or let `missing_tags=first` put them before the first user text"
        return Reject(RejectReason.MEDIA_COUNT_MISMATCH, counts + note)


def _joined(frames: list[Media]) -> list[Media]:
    """Return a flat list of pictures in the video column as one video, where one is asked for: as several the row
    would be a reject, so it can mean nothing else."""
    if len(frames) < 2 or not all(map(_is_frame, frames)):
        return frames
    uris = tuple(uri for frame in frames for uri in frame.uris)
    return [Media(kind="video", uris=uris, frame_list=True, notes=(FRAMES_AS_VIDEO,))]


def _is_frame(media: Media) -> bool:
    plain = not media.frame_list and (media.frame_indices, media.fps, media.start, media.end) == (None,) * 4
    return plain and media.uris[0].lower().rpartition(".")[2] in _PICTURES


def has_paths(text: str) -> bool:
    """Return whether a text holds a path between tags."""
    return _WITH_PATH.search(text) is not None


def has_tags(text: str) -> bool:
    """Return whether a text holds a placeholder."""
    return _TAG.search(text) is not None


def split_tags(text: str, queue: MediaQueue) -> list[Part]:
    """Return a text as parts: its tags as media, what is between them verbatim, empty pieces left out."""
    pieces = (_TAG_OR_SPELT if queue.spelt else _TAG).split(text)
    parts = [_piece(piece, queue) for piece in (map(str.strip, pieces) if queue.strips else pieces) if piece]
    return parts or [{"type": "text", "text": ""}]


def _kind_of(tag: str) -> MediaKind:
    """The kind of a tag by the first name in it."""
    found = _NAME.search(tag)
    return _KINDS[found[0].lower()] if found else "image"


def _piece(piece: str, queue: MediaQueue) -> Part:
    if _ONE_USUAL.fullmatch(piece):
        if piece.count("<") > 1:  # <image></image>, <img><image></img>
            queue.noticed.note("read_tag_spellings")
        kind = _kind_of(piece)
        return queue.place_next(queue.image_tag if kind == "image" else kind)
    if _WITH_PATH.fullmatch(piece):
        tag, _, rest = piece.partition(">")
        queue.noticed.note("read_path_in_tags")
        kind, path = _kind_of(piece), rest.rpartition("<")[0].strip()
        return queue.place(media_from(path, kind, queue.media_dir, f"{tag}> in the text"))
    if queue.spelt and (tagged := spelt_tag(piece)) is not None and tagged.kind in queue.spelt:
        return queue.place_spelt(tagged)
    if may_hold(piece):
        queue.note_names(piece)
    return {"type": "text", "text": piece}
