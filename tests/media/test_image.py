"""Pictures: the header says the size that decoding gives, damage is found, and every mode becomes the right RGB."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from vlm_prep.core.errors import Reject
from vlm_prep.core.records import Media
from vlm_prep.media import image
from vlm_prep.media.files import END_BYTES, Ends, ends_of, read_ends
from vlm_prep.media.image import load_rgb, probe_image
from vlm_prep.media.probe import probe

UNREADABLE = {"broken_data_stream.png", "truncated_jpeg.jpg"}


def height_and_width(path: Path, **options: bool) -> tuple[int, int]:
    media, _ = probe(Media(kind="image", uris=(str(path),)), **options)  # type: ignore[arg-type]
    assert media.header is not None
    return media.header.height, media.header.width


def reason(path: Path, **options: bool) -> str:
    with pytest.raises(Reject) as caught:
        height_and_width(path, **options)
    return caught.value.reason.value


def saved(picture: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "picture"
        path.write_bytes(data)
        return path

    return write


# --- size -----


def test_every_picture_of_the_kit_has_the_size_that_its_header_says(kit: Path) -> None:
    pictures = [path for path in sorted((kit / "data" / "images").rglob("*")) if path.is_file()]
    assert len(pictures) > 50
    wrong = {}
    for path in pictures:
        if path.name in UNREADABLE:
            continue
        width, height = load_rgb(path.read_bytes()).size
        sizes = {height_and_width(path, keep_bytes=keep) for keep in (False, True)}
        if sizes != {(height, width)}:
            wrong[path.name] = sizes
    assert wrong == {}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_header_size_is_the_upright_size(write: Callable[[bytes], Path], format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(saved(Image.linear_gradient("L").convert("RGB").resize((60, 20)), format, exif=exif))
    assert height_and_width(path) == ((60, 20) if orientation > 4 else (20, 60))
    assert load_rgb(path.read_bytes()).size[::-1] == height_and_width(path)


def test_an_orientation_behind_the_pixels_of_a_png_counts(write: Callable[[bytes], Path]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(Image.new("RGB", (60, 20), "red"), "PNG")
    body = exif.tobytes()[6:]
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    path = write(data[:-12] + chunk + data[-12:])
    assert load_rgb(path.read_bytes()).size == (20, 60)
    assert height_and_width(path) == (60, 20)


def test_the_pixels_of_a_large_png_are_not_read_to_learn_its_size(
    write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    body = b"eXIf" + exif.tobytes()[6:]
    turned = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    data = saved(Image.effect_noise((700, 500), 90), "PNG")
    assert len(data) > 3 * END_BYTES
    with monkeypatch.context() as patched:
        patched.setattr(image, "read_bytes", lambda uri: pytest.fail("it was read"))
        assert height_and_width(write(data)) == (500, 700)
    assert height_and_width(write(data[:-12] + turned + data[-12:])) == (700, 500)


def test_a_png_is_not_decoded_to_learn_its_size(write: Callable[[bytes], Path]) -> None:
    data = bytearray(saved(Image.effect_noise((300, 200), 90), "PNG"))
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    path = write(bytes(data))
    assert height_and_width(path) == (200, 300)
    assert reason(path, decode=True) == "unreadable_image"


def test_a_header_behind_a_large_metadata_block_is_found(write: Callable[[bytes], Path]) -> None:
    profile = np.random.default_rng(0).bytes(200_000)
    path = write(saved(Image.new("RGB", (60, 20)), "JPEG", icc_profile=profile))
    assert height_and_width(path) == (20, 60)


# --- pixels -----


@pytest.mark.parametrize("orientation", range(2, 9))
def test_all_orientations_show_the_upright_picture(kit: Path, orientation: int) -> None:
    folder = kit / "data" / "images" / "pillow"
    upright = load_rgb((folder / "hopper.jpg").read_bytes())
    shown = np.asarray(load_rgb((folder / f"hopper_orientation_{orientation}.jpg").read_bytes()), np.int16)
    ways: dict[Image.Transpose | None, Image.Image] = {way: upright.transpose(way) for way in Image.Transpose}
    ways[None] = upright
    # they were compressed anew after turning, so the nearest of the eight is looked for
    distance = {way: np.abs(shown - np.asarray(picture, np.int16)).mean() for way, picture in ways.items()}
    assert min(distance, key=lambda way: distance[way]) is None


def test_turning_is_lossless_and_as_pillow_turns(kit: Path) -> None:
    path = kit / "data" / "images" / "china_exif6.jpg"
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    np.testing.assert_array_equal(np.asarray(load_rgb(path.read_bytes())), expected)


def test_an_exif_block_that_cannot_be_written_again_can_still_be_read() -> None:
    # a tag whose type and value disagree: Pillow reads it and fails to write it
    entry = struct.pack(">HHII", 0x010E, 12, 1, 0) + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 2) + entry + bytes(4)
    data = saved(Image.new("RGB", (60, 20), "red"), "JPEG", exif=exif)
    assert load_rgb(data).size == (20, 60)


def over_white(colour: int, alpha: int) -> int:
    return round((colour * alpha + 255 * (255 - alpha)) / 255)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_transparent_colour_is_laid_on_white(format: str) -> None:
    alphas = np.array([[0, 51, 128, 254, 255]], np.uint8)
    colours = np.zeros((1, 5, 4), np.uint8)
    colours[..., :3], colours[..., 3] = (200, 100, 0), alphas
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    picture = load_rgb(saved(Image.fromarray(colours), format, **options))
    expected = [[over_white(colour, int(alpha)) for colour in (200, 100, 0)] for alpha in alphas[0]]
    assert np.asarray(picture)[0].tolist() == expected


def test_transparent_grey_is_laid_on_white() -> None:
    grey = np.array([[[10, 0], [10, 100], [10, 255]]], np.uint8)
    picture = load_rgb(saved(Image.fromarray(grey, "LA"), "PNG"))
    assert np.asarray(picture)[0, :, 0].tolist() == [255, over_white(10, 100), 10]


def test_a_transparent_palette_entry_is_white() -> None:
    picture = Image.new("P", (3, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.putdata([0, 1, 2])
    data = saved(picture, "PNG", transparency=bytes([0, 255, 128]))
    half = over_white(0, 128)
    assert np.asarray(load_rgb(data))[0].tolist() == [[255, 255, 255], [0, 255, 0], [half, half, 255]]


def test_a_colour_key_is_white() -> None:
    picture = Image.new("RGB", (2, 1), (1, 2, 3))
    picture.putpixel((1, 0), (9, 9, 9))
    data = saved(picture, "PNG", transparency=(1, 2, 3))
    assert np.asarray(load_rgb(data))[0].tolist() == [[255, 255, 255], [9, 9, 9]]


@pytest.mark.parametrize("name", ["hopper_gray16.png", "pillow/16bit.cropped.tif"])
def test_sixteen_bit_grey_is_scaled(kit: Path, name: str) -> None:
    path = kit / "data" / "images" / name
    with Image.open(path) as stored:
        values = np.asarray(stored).astype(np.float64)
    assert values.max() > 255
    expected = np.rint(values * 255 / 65535)
    np.testing.assert_array_equal(np.asarray(load_rgb(path.read_bytes()))[..., 0], expected)


def test_all_sixteen_bit_values_are_rounded_to_the_nearest() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    picture = np.asarray(load_rgb(saved(Image.fromarray(values), "PNG")))
    np.testing.assert_array_equal(picture[..., 1], np.rint(values * (255 / 65535)))


@pytest.mark.parametrize("name", ["china_cmyk.jpg", "pillow/pil_sample_cmyk.jpg", "chelsea_palette.png", "camera.png"])
def test_other_modes_are_converted_as_pillow_converts(kit: Path, name: str) -> None:
    path = kit / "data" / "images" / name
    with Image.open(path) as stored:
        expected = np.asarray(stored.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(load_rgb(path.read_bytes())), expected)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert np.unique(np.asarray(load_rgb(data)).reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]


def test_floating_point_pixels_of_no_known_range_are_rejected_before_tokenizing(write: Callable[[bytes], Path]) -> None:
    path = write(saved(Image.fromarray(np.linspace(0, 2, 600, dtype=np.float32).reshape(20, 30)), "TIFF"))
    assert reason(path) == "unreadable_image"


# --- damage -----

CUT = ["images/rocket.jpg", "images/coffee.png", "images/coffee.webp", "images/pillow/hopper.gif", "images/page.png",
       "images/china_exif6.jpg", "images/coffee_deflate.tif", "images/pillow/hopper.bmp"]  # fmt: skip


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("keep", [False, True], ids=["ends", "bytes"])
def test_a_cut_file_is_rejected(kit: Path, write: Callable[[bytes], Path], name: str, keep: bool) -> None:
    data = (kit / "data" / name).read_bytes()
    for tenth in range(10):
        path = write(data[: 1 + len(data) * tenth // 10])
        assert reason(path, keep_bytes=keep) in ("truncated_image", "unreadable_image"), tenth


@pytest.mark.parametrize("name", ["pillow/hopper.jpg", "pillow/hopper.webp", "pillow/hopper.gif", "china_6x5.png"])
def test_no_cut_loses_a_pixel_unseen(kit: Path, name: str) -> None:
    data = (kit / "data" / "images" / name).read_bytes()
    whole = load_rgb(data).tobytes()
    for end in range(1, len(data), 7):
        cut = data[:end]
        try:
            probe_image(name, ends_of(cut), data=cut)
        except Reject:
            continue
        assert load_rgb(cut).tobytes() == whole, end


def test_a_cut_jpeg_filled_up_with_zeros_is_rejected(kit: Path, write: Callable[[bytes], Path]) -> None:
    data = (kit / "data" / "images" / "rocket.jpg").read_bytes()
    assert reason(write(data[: len(data) // 2] + bytes(len(data) // 2))) == "truncated_image"


@pytest.mark.parametrize("extra", [bytes(10), b"\0" * 70_000, b"garbage", b"\r\n"])
def test_bytes_behind_the_end_of_a_jpeg_do_no_harm(kit: Path, write: Callable[[bytes], Path], extra: bytes) -> None:
    data = (kit / "data" / "images" / "china.jpg").read_bytes()
    path = write(data + extra)
    assert height_and_width(path) == (427, 640)
    assert load_rgb(path.read_bytes()).tobytes() == load_rgb(data).tobytes()


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_picture(write: Callable[[bytes], Path]) -> None:
    thumbnail = saved(Image.new("RGB", (16, 16), "blue"), "JPEG")
    entries = struct.pack(">HHII", 0x0201, 4, 1, 8 + 2 + 4 + 2 + 24 + 4) + struct.pack(
        ">HHII", 0x0202, 4, 1, len(thumbnail)
    )
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">HI", 0, 14) + struct.pack(">H", 2) + entries + bytes(4) + thumbnail
    picture = Image.effect_noise((200, 100), 80).convert("RGB")
    data = saved(picture, "JPEG", exif=b"Exif\0\0" + tiff)
    assert data.count(b"\xff\xd9") == 2
    thumbnail_end = data.index(b"\xff\xd9") + 2
    for end in (thumbnail_end, thumbnail_end + 700, len(data) - 200):
        assert reason(write(data[:end])) in ("truncated_image", "unreadable_image"), end
    # the cut picture, with the thumbnail's end as its last bytes and zeros behind it
    assert reason(write(data[: len(data) // 2] + bytes(5000))) == "truncated_image"
    assert height_and_width(write(data)) == (100, 200)


@pytest.mark.parametrize("name", sorted(UNREADABLE))
def test_damaged_pictures_of_the_kit_are_rejected_when_decoded(kit: Path, name: str) -> None:
    path = kit / "data" / "images" / "pillow" / name
    assert reason(path, decode=True) in ("truncated_image", "unreadable_image")


def test_text_is_no_picture(write: Callable[[bytes], Path]) -> None:
    assert reason(write(b"<html>404 Not Found</html>" * 100)) == "unreadable_image"


def png_header(width: int, height: int) -> bytes:
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + body
    header += struct.pack(">I", zlib.crc32(b"IHDR" + body))
    pixels = zlib.compress(bytes(1000))
    header += struct.pack(">I", len(pixels)) + b"IDAT" + pixels + struct.pack(">I", zlib.crc32(b"IDAT" + pixels))
    return header + b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


@pytest.mark.parametrize("size", [(100_000, 100_000), (13_378, 13_378)])
def test_a_header_that_claims_too_many_pixels_is_rejected_by_size(
    write: Callable[[bytes], Path], size: tuple[int, int]
) -> None:
    assert reason(write(png_header(*size))) == "image_too_large"


def test_the_limit_on_pixels_is_the_users(kit: Path) -> None:
    path = str(kit / "data" / "images" / "china.jpg")
    assert probe_image(path, read_ends(path), max_pixels=640 * 427).size == (427, 640)
    with pytest.raises(Reject, match="640x427"):
        probe_image(path, read_ends(path), max_pixels=640 * 427 - 1)


def test_ends_alone_are_enough_for_a_large_jpeg(kit: Path) -> None:
    path = kit / "data" / "images" / "large_food.jpeg"
    ends = read_ends(str(path))
    assert ends.size > len(ends.head) + len(ends.tail)
    assert probe_image("a uri that cannot be read", Ends(ends.size, ends.head, ends.tail)).size == (4032, 3024)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"root:x:0:0:root:/root:/bin/bash\n", "it is text"),
        (b"<!DOCTYPE html><html><body>404", "it is a page of HTML"),
        (b'{"error": "no such key"}', "it is JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "it is a pointer of Git LFS"),
    ],
)
def test_a_reject_names_the_kind_of_a_text_and_quotes_none_of_it(tmp_path: Path, content: bytes, said: str) -> None:
    """A row may name any file that the user may read, and rejects travel with the store."""
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(Reject, match=said) as caught:
        probe(Media(kind="image", uris=(str(tmp_path / "a.png"),)))
    assert not [word for word in content.decode().split() if len(word) > 8 and word in caught.value.message]
