"""Which pictures are opened: by content, from a list, and without another program."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from vlm_prep.core.errors import InputError, Reject
from vlm_prep.core.records import Media
from vlm_prep.media.image import load_rgb
from vlm_prep.media.image_formats import NEVER_OPENED, check_formats, format_of
from vlm_prep.media.probe import probe
from vlm_prep.media.rules import MediaRules

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n0 0 64 64 rectfill\nshowpage\n"
WMF = b"\xd7\xcd\xc6\x9a\x00\x00" + bytes(2 * 2) + (64).to_bytes(2, "little") * 2 + bytes(80)


def reason(path: Path, **options: object) -> str:
    with pytest.raises(Reject) as caught:
        probe(Media(kind="image", uris=(str(path),)), rules=MediaRules(), **options)  # type: ignore[arg-type]
    assert caught.value.reason.value == "unreadable_image"
    return caught.value.message


@pytest.mark.parametrize("content", [POSTSCRIPT, b"\xc5\xd0\xd3\xc6" + bytes(28) + POSTSCRIPT, WMF, b"%PDF-1.7\n" * 9])
@pytest.mark.parametrize("name", ["a.jpg", "a.eps"])
def test_nothing_that_calls_a_program_is_opened(
    tmp_path: Path, content: bytes, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def called(*arguments: object, **settings: object) -> None:
        raise AssertionError("Ghostscript was called")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", called)
    path = tmp_path / name
    path.write_bytes(content)
    for options in ({}, {"keep_bytes": True}, {"decode": True}):
        reason(path, **options)
    with pytest.raises(Reject):
        load_rgb(content, name)


def test_the_kits_postscript_under_jpg_says_what_it_is(kit: Path) -> None:
    assert "EPS" in reason(kit / "cases" / "hostile" / "eps" / "evil.jpg")


def test_a_format_is_told_by_content_and_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.eps"
    Image.new("RGB", (30, 20)).save(path, "PNG")
    header = probe(Media(kind="image", uris=(str(path),)), rules=MediaRules(formats=("PNG",)))[0].header
    assert header is not None and (header.height, header.width) == (20, 30)
    assert "PNG" in _said(path, ("JPEG",))


def _said(path: Path, formats: tuple[str, ...]) -> str:
    with pytest.raises(Reject) as caught:
        probe(Media(kind="image", uris=(str(path),)), rules=MediaRules(formats=formats))
    return caught.value.message


@pytest.mark.parametrize("name", sorted(NEVER_OPENED))
def test_what_calls_a_program_cannot_be_put_on_the_list(name: str) -> None:
    with pytest.raises(InputError, match="never opened"):
        check_formats(("JPEG", name.lower()))


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="JPG") as caught:
        check_formats(("jpg",))
    assert "JPEG" in str(caught.value.hint)
    assert check_formats(("jpeg", "HEIF")) == ("JPEG", "HEIF")


@pytest.mark.parametrize("kind", ["HEIF", "JXL", "AVIF"])
def test_pictures_of_phones_and_of_the_web_are_read(tmp_path: Path, kind: str) -> None:
    pytest.importorskip({"HEIF": "pillow_heif", "JXL": "pillow_jxl"}.get(kind, "PIL"))
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    elif kind == "JXL":
        import pillow_jxl  # noqa: F401
    path = tmp_path / "a.jpg"
    Image.new("RGB", (64, 48), (200, 30, 30)).save(path, kind, quality=95)
    header = probe(Media(kind="image", uris=(str(path),)), rules=MediaRules())[0].header
    assert header is not None and (header.height, header.width) == (48, 64)
    assert abs(np.asarray(load_rgb(path.read_bytes()), int) - (200, 30, 30)).max() < 8


def test_without_its_package_the_message_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(Image.OPEN, "JXL", raising=False)
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    path = tmp_path / "a.jxl"
    path.write_bytes(b"\xff\x0a" + bytes(100))
    assert "vlm-prep[pictures]" in reason(path)


def test_telling_a_format_opens_nothing() -> None:
    assert format_of(POSTSCRIPT) == "EPS"
    assert format_of(b"nothing") is None


# --- grey in floats -----


def tiff(values: np.ndarray, **tags: float) -> bytes:
    file = io.BytesIO()
    info = {int(tag[1:]): value for tag, value in tags.items()}
    Image.fromarray(values.astype(np.float32)).save(file, "TIFF", tiffinfo=info)
    return file.getvalue()


def test_floats_from_0_to_1_are_grey() -> None:
    grey = np.asarray(load_rgb(tiff(np.array([[0, 0.5, 1.0]]))))
    assert grey[0, :, 0].tolist() == [0, 128, 255]


def test_floats_in_a_declared_range_are_grey() -> None:
    data = tiff(np.array([[-100.0, 0, 100]]), t340=-100.0, t341=100.0)
    assert np.asarray(load_rgb(data))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("value", [1.5, -0.1, np.nan, np.inf])
def test_floats_of_no_known_range_are_rejected(value: float) -> None:
    with pytest.raises(Reject, match="range"):
        load_rgb(tiff(np.array([[0, value]])))
