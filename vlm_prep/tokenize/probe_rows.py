"""The media of a row, looked at before it is encoded: headers, and the bytes that its payload keeps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Media, Sample
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.media.files import digest_matches
from vlm_prep.media.probe import Probed, found_media, media_of, probe, with_media
from vlm_prep.media.rules import MediaRules, rules_of
from vlm_prep.tokenize.encoder import Payload
from vlm_prep.tokenize.verify.choose import is_chosen


@dataclass(frozen=True)
class RowProbe:
    """Looks at the media of rows.

    Args:
        config: settings.
        data_files: real paths of the source's data files.
    """

    config: TokenizeConfig
    data_files: frozenset[str]

    def probed(self, sample: Sample) -> tuple[Sample, Payload]:
        """Return a sample with probed media, and for each of these its files' bytes, or None.

        Raises:
            Reject: a media cannot be read, with the reason.
        """
        decode = self._decodes(sample)
        with media_of(sample):
            probed = [self._probe(media, decode=decode) for media in sample.media]
        if not probed:
            return sample, ()
        return with_media(sample, [media for media, _ in probed]), tuple(data for _, data in probed)

    def _decodes(self, sample: Sample) -> bool:
        """Whether the sample's pictures are decoded: rows that will be compared are, so damage inside is a reject."""
        if self.config.media == "pixels":
            return False  # all media are decoded, to make their tensors
        return self.config.check_media != "header" or is_chosen(sample.sample_id, self.config.verify_fraction)

    @cached_property
    def _rules(self) -> MediaRules:
        return replace(rules_of(self.config, self.data_files), sound_offset=self.config.sound_offset)

    def _probe(self, media: Media, *, decode: bool) -> Probed:
        config = self.config
        keep = config.media != "reference"
        track = config.audio_in_video and media.kind == "video"
        known = media.header
        if known is not None and not keep and not decode and not track:
            # probed by ingest
            return (found_media(media, self._rules) if self._rules.gathered.folders else media), None
        found, data = probe(media, keep_bytes=keep, decode=decode, track=track, rules=self._rules)
        if known is not None and data is not None and not all(map(digest_matches, data, known.digests)):
            raise Reject(RejectReason.MEDIA_CHANGED, f"{media.uris[0]} was changed after it was ingested")
        return found, data
