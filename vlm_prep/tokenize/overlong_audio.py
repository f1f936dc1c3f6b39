"""Clips that are longer than the processor takes: a reject, cut to what it takes, or split into several.

A processor that cuts a clip by itself would have the model learn words that it never hears.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Media, MediaHeader, Message, Sample
from vlm_prep.core.settings import OverlongAudio
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.audio_limit import audio_limit

_SOUND = "the sound of a video is neither cut nor split; cut the file"
AUDIO_CUT = "audio_cut"
AUDIO_SPLIT = "audio_split"
"""Notes of a clip that was cut to what the processor takes, or split into several."""
Files = tuple[bytes, ...] | None


@dataclass(frozen=True)
class OverlongClips:
    """What is done about clips that are too long.

    Args:
        adapter: of the processor.
        policy: `overlong_audio`.
    """

    adapter: Adapter
    policy: OverlongAudio

    def fitted(self, sample: Sample, payload: Sequence[Files]) -> tuple[Sample, tuple[Files, ...]]:
        """Return a sample whose clips are as long as the processor takes, and its payload.

        Raises:
            Reject: audio_too_long.
        """
        pieces = [self._pieces(media) for media in sample.media]
        if all(len(each) == 1 and each[0] is media for each, media in zip(pieces, sample.media, strict=True)):
            return sample, tuple(payload)
        media = tuple(piece for each in pieces for piece in each)
        files = tuple(data for each, data in zip(pieces, payload, strict=True) for _ in each)
        return replace(sample, media=media, messages=_repeated(sample.messages, [len(each) for each in pieces])), files

    def _pieces(self, media: Media) -> list[Media]:
        header = media.header
        heard = media.kind == "audio" or (media.kind == "video" and self.adapter.audio_in_video)
        if not heard or "audio" not in self.adapter.kinds or header is None:
            return [media]  # what the processor does not take is rejected where it is expanded
        if not header.samples or not header.sampling_rate:
            return [media]
        rate = self.adapter.sampling_rate or header.sampling_rate
        limit = audio_limit(self.adapter).below(self.adapter.audio_samples(header))
        if limit is None:
            return [media]
        if self.policy == "reject" or media.kind == "video":
            raise Reject(
                RejectReason.AUDIO_TOO_LONG,
                f"{media.uris[0]}: {header.samples / header.sampling_rate:g} s, of which the processor takes "
                f"{limit / rate:g} s; "
                + ("`overlong_audio=cut` or `overlong_audio=split` takes it so" if media.kind == "audio" else _SOUND),
            )
        most = limit * header.sampling_rate // rate
        start = header.segment[0] if header.segment else 0
        if self.policy == "cut":
            return [_part(media, header, start, start + most, AUDIO_CUT)]
        count = -(-header.samples // most)
        edges = [start + number * header.samples // count for number in range(count + 1)]
        return [_part(media, header, *edge, AUDIO_SPLIT) for edge in pairwise(edges)]


def _part(media: Media, header: MediaHeader, start: int, stop: int, note: str) -> Media:
    cut = replace(header, samples=stop - start, segment=(start, stop))
    return replace(media, header=cut, notes=(*media.notes, note))


def _repeated(messages: Sequence[Message], times: Sequence[int]) -> list[Message]:
    """Return messages with the n-th media part written as often as it has pieces."""
    counts = iter(times)
    found = []
    for message in messages:
        content = message["content"]
        if isinstance(content, list):
            content = [
                part
                for part in content
                for _ in range(next(counts) if part.get("type") in ("image", "video", "audio") else 1)
            ]
        found.append({**message, "content": content})
    return found
