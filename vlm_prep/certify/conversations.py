"""The conversations of a certificate: small, of every kind of media, long enough for a window to be felt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlm_prep.core.records import Media, MediaKind, Message, Sample
from vlm_prep.media.probe import probe

_SIZES = ((96, 64), (64, 128), (120, 120))
_FRAMES = (4, 6)
_RATE = 16_000
_LONG = "The first row says one, the second says two, the third says three, and so on until the end of the page. " * 3


def conversations(kinds: Sequence[MediaKind], folder: Path, *, one_turn: bool = False) -> Iterator[Sample]:
    """Yield samples with probed media, which are written into `folder`.

    Args:
        kinds: that the processor takes.
        folder: for the media files.
        one_turn: pictures in rows of one question and one answer, for processors that take no others.
    """
    yield _sample("text", [_user("Who are you?"), _said("A test.")], ())
    yield _sample("long text", [_user(_LONG), _said(_LONG), _user("Again."), _said("No.")], ())
    if "image" in kinds:
        pictures = [_picture(folder / f"{number}.png", size, number) for number, size in enumerate(_SIZES)]
        yield _sample("picture", [_user("image", "What is this?"), _said("Noise.")], pictures[:1])
        turns = [_user("image", "And this?"), _said("More."), _user("image"), _said("So.")]
        if one_turn:
            yield _sample("other picture", [_user("image", _LONG), _said(_LONG)], pictures[1:2])
            turns = [_user("image", "image", "Compare."), _said("They differ.")]
        yield _sample("pictures", turns, pictures[1:])
    if "video" in kinds:
        videos = [_video(folder, frames, size) for frames, size in zip(_FRAMES, _SIZES, strict=False)]
        yield _sample("video", [_user("video", "What happens?"), _said("Nothing much.")], videos[:1])
        yield _sample("other video", [_user("video", "And here?"), _said("Even less.")], videos[1:])
    if "audio" in kinds:
        sounds = [_sound(folder / f"{number}.wav", seconds) for number, seconds in enumerate((1.0, 1.7))]
        yield _sample("sound", [_user("audio", "Transcribe."), _said("Hiss.")], sounds[:1])
        yield _sample("other sound", [_user("audio", "Again."), _said("Hiss, and more of it.")], sounds[1:])


def _sample(name: str, messages: list[Message], media: Sequence[Media]) -> Sample:
    probed = tuple(probe(item)[0] for item in media)
    return Sample(sample_id=name, dataset="certificate", source="certificate", line=1, messages=messages, media=probed)


def _user(*parts: str) -> Message:
    kinds = ("image", "video", "audio")
    return {"role": "user", "content": [{"type": part} if part in kinds else _text(part) for part in parts]}


def _said(text: str) -> Message:
    return {"role": "assistant", "content": [_text(text)]}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _picture(path: Path, size: tuple[int, int], seed: int) -> Media:
    from PIL import Image

    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(path)
    return Media(kind="image", uris=(str(path),))


def _video(folder: Path, count: int, size: tuple[int, int]) -> Media:
    frames = [_picture(folder / f"frame{number}of{count}.png", size, 10 + number) for number in range(count)]
    return Media(kind="video", uris=tuple(frame.uris[0] for frame in frames), frame_list=True, fps=2.0)


def _sound(path: Path, seconds: float) -> Media:
    import soundfile

    noise = np.random.default_rng(1).normal(0, 0.1, int(_RATE * seconds)).astype(np.float32)
    soundfile.write(path, noise, _RATE)
    return Media(kind="audio", uris=(str(path),))
