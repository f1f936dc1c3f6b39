"""The settings of how media are looked at, see `core.settings`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_doc import Doc
from annotated_types import Ge, Le

from vlm_prep.core.fields import Flag, IsPath, Later, Settings

MultiFrame = Literal["first", "video", "reject"]
VideoDecoder = Literal["pyav", "decord"]
CheckMedia = Literal["header", "decode", "full"]
MediaSharing = Literal["shard", "none"]
Compression = Literal["none", "lz4", "zstd"]
Compress = Annotated[
    Compression,
    Later(),
    Doc(
        "Compress shards: a token takes about 1 byte in place of 8 (zstd), or a little more and is read faster (lz4). "
        "Any library opens them, but copies into memory what it otherwise maps; media in shards do not shrink."
    ),
]
ShareMedia = Annotated[
    MediaSharing,
    Later(),
    Doc(
        "A media that several rows of a shard have: stored with each of them (none), so that any library may shuffle "
        "and select rows; or once (shard), with the first of them, which readers of vlm-prep follow and Hugging "
        "Face datasets, polars or a trainer's own loader do not. `stats` says what that would save."
    ),
]


@dataclass(frozen=True, kw_only=True)
class MediaCheck(Settings):
    """How media are looked at before a row is believed."""

    title: ClassVar[str] = "Checks of media"

    check_media: Annotated[
        CheckMedia,
        Doc(
            "Read headers and ends of media; decode each one to find inner damage; or know it by all of its bytes, too "
            "(full), so that any change of a file is noticed later."
        ),
    ] = "header"
    max_image_pixels: Annotated[
        int, Ge(1), Le(357_913_940), Doc("Reject larger pictures; Pillow refuses more than the maximum.")
    ] = 178_956_970
    media_root: Annotated[
        list[str] | None,
        IsPath(),
        Later(),
        Doc(
            "Reject rows whose media lie outside of this folder, links followed; may be repeated. [default: anywhere, "
            "and it is said how many rows leave their data file's folder and the media folder]"
        ),
    ] = None
    media_store: Annotated[
        list[str] | None,
        IsPath(),
        Later(),
        Doc(
            "Take media files from this store of `vlm-prep gather`, by the paths that they had; may be repeated. With "
            "`media=reference` the rows refer to it, and no bytes are copied. [default: from the files]"
        ),
    ] = None
    multi_frame: Annotated[
        MultiFrame, Later(), Doc("Pictures of several frames (GIF, WebP, PNG, TIFF): the first, as a video, or reject.")
    ] = "first"
    video_decoder: Annotated[
        VideoDecoder, Later(), Doc("Read video files with PyAV (FFmpeg), or with decord as older stores were.")
    ] = "pyav"
    image_formats: Annotated[
        list[str] | None,
        Flag("--image-format", example="PNG"),
        Later(),
        Doc(
            "Open pictures of this format alone, by Pillow's name and told by content; may be repeated. Formats whose "
            "reader calls a program (EPS, WMF) are never opened. [default: the formats in docs/sources.md]"
        ),
    ] = None
