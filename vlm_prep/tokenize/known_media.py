"""The media of rows as the store that is updated knows them, so that other settings need no look at any file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from vlm_prep.core.records import Media, MediaHeader, Sample
from vlm_prep.core.stored_media import StoredMedia
from vlm_prep.media.probe import ALPHA, FIRST_FRAME, MIRRORED, SOUND_OFFSET, VARIABLE_RATE, found_media, with_media
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.encoder import Payload
from vlm_prep.tokenize.overlong_audio import AUDIO_CUT, AUDIO_SPLIT
from vlm_prep.tokenize.probe_rows import RowProbe

_OF_FILES = frozenset((ALPHA, FIRST_FRAME, VARIABLE_RATE, MIRRORED, SOUND_OFFSET, AUDIO_CUT, AUDIO_SPLIT))
"""Notes of what was seen when files were looked at, or done to them then."""


@dataclass(frozen=True, kw_only=True)
class KnownRow:
    """A row of the store whose media are as they were."""

    place: int
    """Number in the store of its one document."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class KnownMedia(RowProbe):
    """Looks at the media of rows that a store does not know.

    Args:
        folder: the store.
        rows: {sample_id in the source: the row of the store}.
    """

    folder: Path
    rows: Mapping[str, KnownRow] = field(repr=False)

    def probed(self, sample: Sample) -> tuple[Sample, Payload]:
        """See `RowProbe.probed`."""
        known = self.rows.get(sample.sample_id)
        if known is None or not sample.media:
            return super().probed(sample)
        stored = self._store.row(known.place)["media"]
        found = known_media([found_media(media, self._rules) for media in sample.media], stored, known.notes)
        if found is None:
            return super().probed(sample)
        keeps = self.config.media == "encoded"
        # views of the store's map: the shard that is written is their first copy
        data = tuple(tuple(file["bytes"] for file in each["files"]) if keeps else None for each in stored)
        return with_media(sample, found), data

    @cached_property
    def _store(self) -> Store:
        return Store(self.folder, stage="tokenize")


def known_media(media: Sequence[Media], stored: Sequence[StoredMedia], notes: Sequence[str]) -> list[Media] | None:
    """Return a row's media with their headers as a store has them; None where it does not have all that was found.

    It has of a video the frames that were taken and not the times of all, of a rescued picture its new size, and does
    not tell which of several media a note was of.

    Args:
        media: at the places where they are read.
        stored: those of the row in the store.
        notes: of the row.
    """
    looked = [note for note in notes if note in _OF_FILES]
    if len(media) != len(stored) or not {*looked} <= {ALPHA, FIRST_FRAME} or (looked and len(media) > 1):
        return None
    found = []
    for each, known in zip(media, stored, strict=True):
        if (
            each.kind != known["kind"]
            or each.frame_list != known["frame_list"]
            or (each.kind == "video" and not each.frame_list)
            or known.get("scaled")
            or known.get("tensors")
            or [*each.uris] != [file["uri"] for file in known["files"]]
        ):
            return None
        part = known.get("segment")
        header = MediaHeader(
            height=known["height"],
            width=known["width"],
            total_frames=known["total_frames"],
            samples=known["samples"],
            sampling_rate=known["sampling_rate"],
            segment=None if part is None else (int(part[0]), int(part[1])),
            decoder=known.get("decoder"),
            digests=tuple(file["digest"] for file in known["files"]),
        )
        found.append(replace(each, header=header, notes=(*dict.fromkeys((*each.notes, *looked)),)))
    return found
