"""Pictures with four bytes a pixel are Pillow's pictures, whichever decoder made them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.media import jpeg
from vlm_prep.media.image import load_rgb, load_rgbx

KIT = Path(__file__).resolve().parents[3] / "shared" / "kit"


def picture(mode: str = "RGB", size: tuple[int, int] = (83, 57)) -> Image.Image:
    draws = np.random.default_rng(1)
    coarse = Image.fromarray(draws.integers(0, 256, (9, 9, 3), np.uint8)).resize(size)
    noisy = np.asarray(coarse, np.int16) + draws.integers(-30, 31, (*size[::-1], 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


def saved(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return saved(picture(), exif=exif)


def with_xmp(value: int) -> bytes:
    return saved(picture(), xmp=f'<x tiff:Orientation="{value}"/>'.encode())


def narrow() -> bytes:
    """A JPEG whose colours are four times coarser from top to bottom (4:4:1), which simplejpeg has no name for.

    Made of 4:2:0, which has as many blocks for each of its units: 16 x 16 pixels become 8 x 32.
    """
    data = bytearray(saved(picture(size=(96, 48)), subsampling="4:2:0"))
    header = data.find(b"\xff\xc0")
    data[header + 5 : header + 9] = (96).to_bytes(2, "big") + (48).to_bytes(2, "big")
    data[header + 11] = 0x14
    return bytes(data)


FILES = {
    "4:4:4": saved(picture(), subsampling="4:4:4", quality=97),
    "4:2:2": saved(picture(), subsampling="4:2:2"),
    "4:2:0": saved(picture(), subsampling="4:2:0", quality=40),
    "4:2:0, one pixel": saved(picture(size=(1, 1))),
    "4:4:1": narrow(),
    "progressive": saved(picture(), progressive=True),
    "optimized, restart markers": saved(picture(), optimize=True, restart_marker_blocks=3),
    "grey": saved(picture("L")),
    "CMYK": saved(picture("CMYK")),
    "RGB within": saved(picture(), keep_rgb=True),
    "turned by EXIF": turned(6),
    "upright by EXIF": turned(1),
    "mirrored by XMP": with_xmp(2),
    "something behind its end": saved(picture()) + b"more",
    "PNG": saved(picture(), "PNG"),
    "transparent PNG": saved(picture("RGBA"), "PNG"),
    "palette": saved(picture().quantize(16), "PNG"),
    "WebP": saved(picture(), "WEBP"),
}


@pytest.mark.parametrize("name", FILES)
def test_the_pixels_are_pillows(name: str) -> None:
    expected = np.asarray(load_rgb(FILES[name]))
    for buffer in (None, np.full(4 * 100 * 100, 9, np.uint8), np.empty(10, np.uint8)):
        found = load_rgbx(FILES[name], buffer=buffer)
        assert found.dtype == np.uint8
        assert found.flags.writeable
        assert np.array_equal(found[..., :3], expected)


def test_plain_files_are_decoded_past_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {name: np.asarray(load_rgb(FILES[name])) for name in ("4:4:4", "4:2:2", "4:2:0", "progressive")}
    assert jpeg._as_pillow() == {"444", "422", "420"}
    monkeypatch.setattr(Image.Image, "convert", None)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    for name, pixels in expected.items():
        assert np.array_equal(load_rgbx(FILES[name])[..., :3], pixels)


@pytest.fixture
def _other_decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A libjpeg-turbo that rounds otherwise."""
    real = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *args, **kwargs: real(*args, **kwargs) ^ 1)
    jpeg._as_pillow.cache_clear()
    yield
    jpeg._as_pillow.cache_clear()


@pytest.mark.usefixtures("_other_decoder")
def test_a_decoder_that_differs_is_not_used() -> None:
    for name in ("4:4:4", "4:2:2", "4:2:0", "progressive"):
        assert np.array_equal(load_rgbx(FILES[name])[..., :3], np.asarray(load_rgb(FILES[name])))


def outcome(load: Any, data: bytes) -> Any:
    """The red, green and blue bytes of a file, or why it is rejected."""
    try:
        return np.asarray(load(data))[..., :3].tobytes()
    except Reject as reject:
        return reject.reason, reject.message


def test_damage_ends_as_it_does_with_pillow() -> None:
    whole, draws = FILES["4:2:0"], np.random.default_rng(2)
    cut = [whole[:length] for length in (0, 3, 200, len(whole) // 2, len(whole) - 2)]
    zeros = [whole[: len(whole) // 2] + bytes(len(whole) // 2)]
    changed = []
    for _ in range(150):
        data = bytearray(whole)
        data[draws.integers(len(data))] = draws.integers(256)
        changed.append(bytes(data))
    ends = {"pixels": 0, "reject": 0}
    for damaged in [*cut, *zeros, *changed]:
        expected, found = outcome(load_rgb, damaged), outcome(load_rgbx, damaged)
        assert found == expected
        ends["pixels" if isinstance(expected, bytes) else "reject"] += 1
    assert ends["pixels"] > 50
    assert ends["reject"] > 5


@pytest.mark.skipif(not KIT.is_dir(), reason="needs the kit of real media at ../shared/kit")
def test_real_photographs_are_pillows() -> None:
    files = [file for file in sorted((KIT / "data").rglob("*")) if file.suffix.lower() in (".jpg", ".jpeg")]
    assert files
    for file in files:
        data = file.read_bytes()
        assert outcome(load_rgbx, data) == outcome(load_rgb, data), file


def test_a_progressive_picture_of_many_scans_is_refused_before_it_is_decoded() -> None:
    """A scan of a dozen bytes that changes nothing is a pass over all pixels."""
    file = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    assert load_rgb(data[:-2] + last * 20 + b"\xff\xd9").size == (2000, 2000)
    bomb = data[:-2] + last * 800 + b"\xff\xd9" + data[-400:] * 3  # what lies behind the picture is not counted
    for load in (load_rgb, load_rgbx):
        with pytest.raises(Reject, match=r"81\d scans of 2000x2000 are more than 16 x") as caught:
            load(bomb)
        assert caught.value.reason == RejectReason.IMAGE_TOO_LARGE
