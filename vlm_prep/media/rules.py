"""What a run lets its media be, in one object: which files, which formats, how large, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_prep.core.media_settings import MediaCheck, MultiFrame, VideoDecoder
from vlm_prep.core.settings import SoundOffset
from vlm_prep.media.gathered import NOTHING_GATHERED, Gathered, open_gathered
from vlm_prep.media.image import MAX_PIXELS
from vlm_prep.media.image_formats import IMAGE_FORMATS, check_formats
from vlm_prep.media.places import ANYWHERE, Roots, check_roots


@dataclass(frozen=True, kw_only=True)
class MediaRules:
    """Rules that `probe` holds; the defaults are those of a run without settings."""

    max_pixels: int = MAX_PIXELS
    """Of a picture."""
    formats: tuple[str, ...] = IMAGE_FORMATS
    """Of pictures that are opened."""
    roots: Roots = ANYWHERE
    """What rows may read."""
    multi_frame: MultiFrame = "first"
    """What is done about pictures of several frames."""
    video_decoder: VideoDecoder = "pyav"
    """What reads video files."""
    whole: bool = False
    """Whether media whose bytes are not kept are known by all of them, and not by their ends."""
    sound_offset: SoundOffset = "ignore"
    """Whether a video's sound stands where it is heard."""
    gathered: Gathered = NOTHING_GATHERED
    """Media stores that have files of the source."""


def rules_of(config: MediaCheck, own: frozenset[str] = frozenset()) -> MediaRules:
    """Return the rules that settings make.

    Args:
        config: the settings.
        own: real paths of the source's data files, which may hold media themselves.

    Raises:
        InputError: a format that does not exist or is never opened.
        StoreError: a media store that is none.
    """
    gathered = open_gathered(config.media_store)
    return MediaRules(
        max_pixels=config.max_image_pixels,
        formats=check_formats(config.image_formats),
        roots=check_roots(config.media_root, own | gathered.files),
        multi_frame=config.multi_frame,
        video_decoder=config.video_decoder,
        gathered=gathered,
        whole=config.check_media == "full",
    )
