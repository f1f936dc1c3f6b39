"""Read the headers of a media and its content digests; everything tokenizing needs to know of it.

With `keep_bytes` the files are read whole, once, and kept for the shard (payload `encoded`); else only their ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

from vlm_prep.core.errors import InputError, Reject, RejectReason
from vlm_prep.core.fingerprint import digest_bytes
from vlm_prep.core.records import Media, MediaHeader, Sample
from vlm_prep.media.animation import frames_of_picture
from vlm_prep.media.audio import probe_audio, require_rate
from vlm_prep.media.audio_header import stated_sound
from vlm_prep.media.files import digest_ends, digest_whole, ends_of, local_path, read_bytes, read_ends
from vlm_prep.media.gathered import OF_GATHERED, STALE
from vlm_prep.media.image import check_decodes, is_transparent, probe_image
from vlm_prep.media.places import located
from vlm_prep.media.rules import MediaRules
from vlm_prep.media.segments import cut_audio, cut_video
from vlm_prep.media.track import probe_track, sound_offset
from vlm_prep.media.video import probe_video

_USUAL = MediaRules()
FIRST_FRAME = "first_frames"
"""Note of a picture of several frames, of which the first was taken."""
VARIABLE_RATE = "variable_frame_rate"
"""Note of a video whose frames are not shown evenly."""
ALPHA = "pictures_with_alpha"
"""Note of a picture with an alpha channel or a transparent colour, which is laid on white; where pictures are decoded
anyway (`check_media`), of one that is not all opaque."""
MIRRORED = "mirrored_videos"
"""Note of a video that asks to be shown mirrored, and is not."""
SOUND_OFFSET = "sound_starts_elsewhere"
"""Note of a video whose sound starts later or earlier than its pictures, see `sound_offset` of the settings."""
_SLACK_LENGTH, _SLACK_SHARE = 1.0, 0.02
"""Seconds, and share of a file, by which it may be longer or shorter than its row says."""
_SLACK_SOUND = 0.1
"""Seconds that are not noted: encoders begin their first frame a few milliseconds early."""
Probed = tuple[Media, tuple[bytes, ...] | None]


@contextmanager
def media_of(sample: Sample) -> Iterator[None]:
    """Name the row whose media an object store did not give: what stops the run is looked for there.

    Raises:
        InputError: as it was raised inside, with the row's file and line.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{sample.source}, line {sample.line}: {error.message}", error.hint) from error


def probe(
    media: Media,
    *,
    keep_bytes: bool = False,
    decode: bool = False,
    track: bool = False,
    rules: MediaRules = _USUAL,
) -> Probed:
    """Return `media` with its header, and its files' bytes when `keep_bytes`.

    Args:
        media: a reference.
        keep_bytes: read the whole files.
        decode: decode all of it, to find damage inside (about 10 ms a megapixel).
        track: count the samples of a video file's audio track, too.
        rules: which files may be read, and how.

    Raises:
        Reject: the file is missing, empty, damaged, too large, of another kind, or its duration is out of bounds.
        InputError: `track`, and what reads it is not installed.
    """
    media = found_media(media, rules)
    if media.kind == "audio":
        return _probe_audio_file(media, keep_bytes, decode, rules)
    if media.kind == "video" and not media.frame_list:
        return _probe_video_file(media, keep_bytes, track, decode, rules)
    pictures = [_probe_picture(uri, keep_bytes, decode, rules) for uri in media.uris]
    if not pictures:
        raise Reject(RejectReason.BAD_MEDIA_ENTRY, "a video given as an empty list of frames")
    if media.kind == "image" and (frames := pictures[0].frames) > 1:
        if rules.multi_frame == "video":
            return _probe_video_file(replace(media, kind="video"), keep_bytes, track, decode, rules)
        if rules.multi_frame == "reject":
            message = f"{media.uris[0]}: a picture of {frames} frames (multi_frame: first or video)"
            raise Reject(RejectReason.UNSUPPORTED_MEDIA, message)
        media = replace(media, notes=(*media.notes, FIRST_FRAME))
    if any(each.alpha for each in pictures):
        media = replace(media, notes=(*media.notes, ALPHA))
    sizes = {each.size for each in pictures}
    if len(sizes) > 1:
        raise Reject(
            RejectReason.BAD_MEDIA_ENTRY,
            f"the frames of one video have different sizes: {', '.join(f'{w}x{h}' for h, w in sorted(sizes))}",
        )
    height, width = next(iter(sizes))
    header = MediaHeader(
        height=height,
        width=width,
        total_frames=len(media.uris) if media.frame_list else None,
        digests=tuple(each.digest for each in pictures),
    )
    data = tuple(each.data for each in pictures if each.data is not None) if keep_bytes else None
    return replace(media, header=header), data


def found_media(media: Media, rules: MediaRules) -> Media:
    """Return a media with the uris it is read by: of a media store that has its files, else where they lie.

    Raises:
        Reject: as `places.located`.
    """
    if not rules.gathered.folders:
        return located(media, rules.roots)
    media = _gathered(media, rules)
    return media if OF_GATHERED in media.notes else _gathered(located(media, rules.roots), rules)


def _gathered(media: Media, rules: MediaRules) -> Media:
    """Return a media as the run's media stores have it; as it is where they lack one of its files."""
    found = [rules.gathered.place(uri) for uri in media.uris]
    notes = {note for _, note in found if note is not None}
    if STALE in notes and STALE not in media.notes:
        media = replace(media, notes=(*media.notes, STALE))
    if notes != {OF_GATHERED} or any(note is None for _, note in found):
        return media
    uris = tuple(uri for uri, _ in found)
    for uri in (*media.uris, *uris):
        rules.roots.require(uri)
    return replace(media, uris=uris, notes=(*media.notes, OF_GATHERED))


def with_media(sample: Sample, media: Sequence[Media]) -> Sample:
    """Return a sample with its media probed; a picture that is read as a video is one in its message, too."""
    if all(now.kind == then.kind for now, then in zip(media, sample.media, strict=True)):
        return replace(sample, media=tuple(media))
    kinds = iter([each.kind for each in media])
    messages = []
    for message in sample.messages:
        content = message["content"]
        if isinstance(content, list):
            content = [
                {**part, "type": next(kinds)} if part.get("type") in ("image", "video", "audio") else part
                for part in content
            ]
        messages.append({**message, "content": content})
    return replace(sample, media=tuple(media), messages=messages)


class _Picture(NamedTuple):
    size: tuple[int, int]
    digest: str
    data: bytes | None
    frames: int
    alpha: bool


def _probe_picture(uri: str, keep_bytes: bool, decode: bool, rules: MediaRules) -> _Picture:
    data = read_bytes(uri) if keep_bytes or decode or rules.whole else None
    ends = read_ends(uri) if data is None else ends_of(data)
    size, alpha = probe_image(uri, ends, data=data, max_pixels=rules.max_pixels, formats=rules.formats)
    if data is not None and decode:
        size = check_decodes(uri, data)
        alpha = alpha and is_transparent(data, uri)
    digest = digest_bytes(data) if data is not None and (keep_bytes or rules.whole) else digest_ends(ends)
    return _Picture(size, digest, data if keep_bytes else None, frames_of_picture(uri, ends.head, data), alpha)


def _probe_audio_file(media: Media, keep_bytes: bool, decode: bool, rules: MediaRules) -> Probed:
    (uri,) = media.uris
    # of an address over a network all is read at once: most formats need it, and a second way there takes longer
    data = read_bytes(uri) if keep_bytes or decode or rules.whole or local_path(uri) is None else None
    ends = read_ends(uri) if data is None else ends_of(data)
    digest = digest_bytes(data) if data is not None and (keep_bytes or rules.whole) else digest_ends(ends)
    stated = None if decode else stated_sound(ends)
    if stated is None:
        whole = probe_audio(read_bytes(uri) if data is None else data, uri, decode=decode)
    else:
        require_rate(stated[1], uri)
        whole = MediaHeader(samples=stated[0], sampling_rate=stated[1])
    _require_stated(media, (whole.samples or 0) / (whole.sampling_rate or 1))
    header = replace(cut_audio(media, whole), digests=(digest,))
    _require_duration(media, header)
    return replace(media, header=header), (data,) if keep_bytes and data is not None else None


def _require_stated(media: Media, seconds: float) -> None:
    """Reject a file that is not as long as its row says, by more than what durations are rounded and estimated by."""
    if media.stated is None or abs(seconds - media.stated[1]) <= max(_SLACK_LENGTH, _SLACK_SHARE * seconds):
        return
    key, stated = media.stated
    raise Reject(
        RejectReason.UNREAD_KEY,
        f"{media.uris[0]}: the row has {key}, {stated:g} s, and the file is {seconds:g} s long; a part of it is named "
        f"by its start, too (0 for the beginning), or `ignore_keys={key}` reads the file whole",
    )


def _require_duration(media: Media, header: MediaHeader) -> None:
    seconds = (header.samples or 0) / (header.sampling_rate or 1)
    if media.min_seconds is not None and seconds < media.min_seconds:
        message = f"{media.uris[0]}: {seconds:g} s, the shortest allowed is {media.min_seconds:g} s"
        raise Reject(RejectReason.AUDIO_TOO_SHORT, message)
    if media.max_seconds is not None and seconds > media.max_seconds:
        message = f"{media.uris[0]}: {seconds:g} s, the longest allowed is {media.max_seconds:g} s"
        raise Reject(RejectReason.AUDIO_TOO_LONG, message)


def _probe_video_file(media: Media, keep_bytes: bool, track: bool, decode: bool, rules: MediaRules) -> Probed:
    (uri,) = media.uris
    path = local_path(uri)
    if keep_bytes or path is None:
        data = read_bytes(uri)
        digest = digest_bytes(data) if keep_bytes or rules.whole else digest_ends(ends_of(data))
    else:
        data = b""
        digest = digest_whole(uri, path) if rules.whole else digest_ends(read_ends(uri))
    header = probe_video(
        data if path is None else path, uri, decoder=rules.video_decoder, decode=decode, max_pixels=rules.max_pixels
    )
    _require_stated(media, (header.total_frames or 0) / (header.fps or 1.0))
    if track:
        media, header = _with_sound(media, header, data if path is None else path, rules)
    header = cut_video(media, header)
    if header.times is not None:
        media = replace(media, notes=(*media.notes, VARIABLE_RATE))
    if header.mirrored:
        media = replace(media, notes=(*media.notes, MIRRORED))
    return replace(media, header=replace(header, digests=(digest,))), (data,) if keep_bytes else None


def _with_sound(media: Media, header: MediaHeader, source: str | bytes, rules: MediaRules) -> tuple[Media, MediaHeader]:
    """Return a video and its header with the samples of its sound."""
    (uri,) = media.uris
    offset = sound_offset(source, uri)
    found = probe_track(source, uri, offset=offset if rules.sound_offset == "keep" else 0.0)
    if found is None:
        return media, header
    length = (header.total_frames or 0) / (header.fps or 1.0)
    if rules.sound_offset == "keep" and offset >= length:
        message = f"{uri}: its sound starts {offset:.2f} s after its first picture, which is after its last"
        raise Reject(RejectReason.UNREADABLE_AUDIO, f"{message} (sound_offset)")
    if abs(offset) > _SLACK_SOUND:
        media = replace(media, notes=(*media.notes, SOUND_OFFSET))
    return media, replace(header, samples=found[0], sampling_rate=found[1])
