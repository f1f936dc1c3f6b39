"""omni_positions equals the `get_rope_index` of Qwen-Omni's thinkers that transformers ships."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from vlm_prep.pack.omni import omni_positions
from vlm_prep.pack.positions import Mrope

IMAGE, VIDEO, AUDIO = 901, 902, 903
VISION_START, VISION_END, AUDIO_START, AUDIO_END = 911, 912, 913, 914
Scheme = Literal["qwen2_5_omni", "qwen3_omni_moe"]
SCHEMES: tuple[Scheme, ...] = ("qwen2_5_omni", "qwen3_omni_moe")
Check = Callable[["Document"], None]
RATE = {"qwen2_5_omni": 25, "qwen3_omni_moe": 13}


def rule_of(scheme: Scheme, rate: float | None = None) -> Mrope:
    return Mrope(
        scheme=scheme,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        spatial_merge_size=2,
        tokens_per_second=RATE[scheme] if rate is None else rate,
        audio_token_id=AUDIO,
        audio_start_token_id=AUDIO_START,
        vision_start_token_id=VISION_START,
        seconds_per_chunk=2.0,
    )


def audio_tokens(scheme: Scheme, frames: int) -> int:
    """Tokens of an audio file by its spectrogram's frames: the model's own formulas."""
    if scheme == "qwen2_5_omni":
        return ((frames - 1) // 2 + 1 - 2) // 2 + 1
    from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import _get_feat_extract_output_lengths

    return int(_get_feat_extract_output_lengths(torch.tensor(frames), 50))


@dataclass(eq=False)
class Document:
    """A document under construction, as the chat templates and processors write it."""

    scheme: Scheme
    ids: list[int] = field(default_factory=list)
    images: list[list[int]] = field(default_factory=list)
    videos: list[list[int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    audios: list[int] = field(default_factory=list)
    rate: float | None = None
    sound: bool = False

    def text(self, n: int) -> Document:
        self.ids += [i % 800 + 1 for i in range(n)]
        return self

    def image(self, height: int, width: int) -> Document:
        self.images.append([1, height, width])
        self.ids += [VISION_START, *[IMAGE] * (height // 2 * (width // 2)), VISION_END]
        return self

    def video(self, steps: int, height: int, width: int, seconds: float) -> Document:
        self.videos.append([steps, height, width])
        self.seconds.append(seconds)
        self.ids += [VISION_START, *[VIDEO] * (steps * (height // 2) * (width // 2)), VISION_END]
        return self

    def audio(self, frames: int) -> Document:
        self.audios.append(frames)
        self.ids += [AUDIO_START, *[AUDIO] * audio_tokens(self.scheme, frames), AUDIO_END]
        return self

    def both(self, steps: int, height: int, width: int, seconds: float, frames: int) -> Document:
        """A video with its sound, in the order that the real processor's own method writes."""
        self.videos.append([steps, height, width])
        self.seconds.append(seconds)
        self.audios.append(frames)
        self.sound = True
        written = interleaved(
            self.scheme,
            [steps, height, width],
            float(np.float32(seconds)),
            audio_tokens(self.scheme, frames),
            self.rate or RATE[self.scheme],
        )
        self.ids += [VISION_START, *written, VISION_END]
        return self


def interleaved(scheme: Scheme, grid: list[int], seconds: float, audio: int, rate: float) -> list[int]:
    import transformers

    name = "Qwen2_5OmniProcessor" if scheme == "qwen2_5_omni" else "Qwen3OmniMoeProcessor"
    cls = getattr(transformers, name)
    processor = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2),
        video_token="V",
        audio_token="A",
        audio_bos_token="(",
        audio_eos_token=")",
    )
    if scheme == "qwen2_5_omni":
        processor.get_chunked_index = cls.get_chunked_index.__get__(processor)
    text = cls.replace_video_with_audio_token(
        processor,
        {"video_grid_thw": torch.tensor([grid]), "video_second_per_grid": [seconds]},
        0,
        {"num_audio_tokens": [audio]},
        0,
        position_id_per_seconds=rate,
        seconds_per_chunk=2.0,
    )
    return [{"V": VIDEO, "A": AUDIO, "(": AUDIO_START, ")": AUDIO_END}[letter] for letter in text]


def ours(document: Document) -> np.ndarray:
    return omni_positions(
        np.array(document.ids, np.int32),
        np.array(document.images) if document.images else None,
        np.array(document.videos) if document.videos else None,
        np.array(document.seconds, np.float32),
        rule_of(document.scheme, document.rate),
    )


@pytest.fixture(scope="session")
def expected(thinker: Callable[[Mrope], Any]) -> Callable[[Document], np.ndarray]:
    """What the real model computes for a document."""
    return lambda document: real_positions(document, thinker(rule_of(document.scheme, document.rate)))


def real_positions(document: Document, model: Any) -> np.ndarray:
    ids = torch.tensor([document.ids])
    positions, _ = model.get_rope_index(
        input_ids=ids,
        image_grid_thw=torch.tensor(document.images) if document.images else None,
        video_grid_thw=torch.tensor(document.videos) if document.videos else None,
        attention_mask=torch.ones_like(ids),
        use_audio_in_video=document.sound,
        audio_seqlens=torch.tensor(document.audios) if document.audios else None,
        second_per_grids=torch.tensor(document.seconds) if document.seconds else None,
    )
    result: np.ndarray = positions[:, 0].numpy()
    return result


@pytest.fixture(scope="session")
def check(expected: Callable[[Document], np.ndarray]) -> Check:
    """Compares a document's positions with the real model's."""

    def compare(document: Document) -> None:
        positions = ours(document)
        assert positions.dtype == (np.int32 if document.scheme == "qwen2_5_omni" else np.float32)
        assert np.array_equal(positions, expected(document))

    return compare


SECONDS = (0.2, 1 / 3, 2 / 3, 1.0, 2.0, 2 / 29.97, 2 / 23.976, 4.0)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("sound", [False, True], ids=["silent", "sound"])
def test_random_mixes_equal_the_real_model(check: Check, scheme: Scheme, sound: bool) -> None:
    rng = np.random.default_rng([11, sound])
    for _ in range(40):
        document = Document(scheme).text(int(rng.integers(1, 20)))
        for _ in range(int(rng.integers(0, 6))):
            height, width = (2 * int(n) for n in rng.integers(1, 8, 2))
            steps, frames = int(rng.integers(1, 9)), int(rng.integers(4, 900))
            kind = rng.choice(["text", "image", "video", "audio"])
            if kind == "image":
                document.image(height, width)
            elif kind == "audio":
                document.audio(frames)
            elif kind == "video":
                # a row of the real processor has one rate for all its videos; the model takes any
                seconds = float(rng.choice(SECONDS))
                if sound:
                    document.both(steps, height, width, seconds, frames)
                else:
                    document.video(steps, height, width, seconds)
            document.text(int(rng.integers(1, 30)))
        check(document)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("steps", "frames"), [(2, 1000), (30, 40), (8, 800), (1, 6)])
@pytest.mark.parametrize("seconds", [2 / 3, 1.0, 2.0])
def test_sound_may_be_longer_or_shorter_than_the_video(
    check: Check, scheme: Scheme, steps: int, frames: int, seconds: float
) -> None:
    check(Document(scheme).text(3).both(steps, 8, 12, seconds, frames).text(2).both(1, 30, 4, seconds, 50).text(5))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("rate", [2.0, 7.0, 13.0, 25.0])
@pytest.mark.parametrize("seconds", SECONDS)
def test_seconds_are_multiplied_in_float32_like_in_the_model(
    check: Check, scheme: Scheme, rate: float, seconds: float
) -> None:
    document = Document(scheme, rate=rate).text(3).video(300, 4, 6, seconds).text(1000).image(4, 4)
    check(document.text(2000).video(200, 4, 4, seconds).text(30))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_media_may_touch(check: Check, scheme: Scheme) -> None:
    check(Document(scheme).image(4, 8).video(3, 8, 4, 1.0).audio(60).image(6, 6).audio(61))
    check(Document(scheme).audio(60).both(3, 8, 4, 1.0, 200).image(4, 4).both(2, 4, 4, 1.0, 100).text(1))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_and_audio_alone_have_plain_ranges(check: Check, scheme: Scheme) -> None:
    document = Document(scheme).text(10).audio(333).text(3).audio(20).text(7)
    assert np.array_equal(ours(document), np.tile(np.arange(len(document.ids)), (3, 1)))
    check(document)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_silent_video_beside_one_with_sound_is_placed_as_it_is_alone(
    expected: Callable[[Document], np.ndarray], scheme: Scheme
) -> None:
    """The reference has one flag for the whole batch, and loses count of such a row."""
    silent = expected(Document(scheme).video(3, 8, 6, 1.0).text(1))
    sounding = expected(Document(scheme).both(3, 8, 6, 1.0, 250).text(1))
    row = Document(scheme).video(3, 8, 6, 1.0).both(3, 8, 6, 1.0, 250).video(3, 8, 6, 1.0).text(1)
    alone = [silent, sounding, silent]
    starts = np.cumsum([0, *(part[0, -1] for part in alone)])
    parts = [part[:, :-1] + start for part, start in zip(alone, starts, strict=False)]
    assert np.array_equal(ours(row)[:, :-1], np.concatenate(parts, axis=1))


def test_steps_of_a_fraction_of_a_position_stay_fractions_in_qwen3_omni() -> None:
    positions = ours(Document("qwen3_omni_moe").video(3, 4, 4, 2 / 3).text(1))
    assert positions[0, 5] == np.float32(1) + np.float32(2 / 3) * np.float32(13)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.images.append([1, 4, 4]), r"1 stretches of image tokens \(4 tokens\) for 2 image grids"),
        (lambda d: d.images.clear(), "1 stretches of image tokens .* for 0 image grids"),
        (lambda d: d.videos[0].__setitem__(0, 3), "stretch 0 of video tokens has 8 tokens, its grid 12 merged"),
        (lambda d: d.seconds.clear(), r"video_second_per_grid is \[\] for 2 videos"),
        (lambda d: d.seconds.__setitem__(1, float("nan")), "one finite number each is due"),
        (lambda d: d.ids.remove(IMAGE), "stretch 0 of image tokens has 3 tokens"),
    ],
)
def test_placeholders_that_do_not_match_their_media_are_refused(scheme: Scheme, change: Any, message: str) -> None:
    document = Document(scheme).image(4, 4).video(2, 4, 4, 1.0).both(2, 4, 4, 1.0, 99)
    change(document)
    with pytest.raises(ValueError, match=message):
        ours(document)


def test_a_rule_without_the_audio_tokens_is_refused() -> None:
    ids: dict[str, Any] = {"image_token_id": IMAGE, "video_token_id": VIDEO, "spatial_merge_size": 2}
    with pytest.raises(ValueError, match="needs tokens_per_second and the ids"):
        Mrope(scheme="qwen2_5_omni", tokens_per_second=25, **ids)
