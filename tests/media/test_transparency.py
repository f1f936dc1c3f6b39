"""Transparency: laid on white as transformers' processors lay it, and counted."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlm_prep.core.records import Media
from vlm_prep.media.image import load_rgb
from vlm_prep.media.probe import probe
from vlm_prep.processors.torchvision_cpu import ensure_torchvision


def png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


CELLS = np.zeros((4, 4, 4), np.uint8) + np.array([200, 30, 7, 0], np.uint8)


@pytest.mark.parametrize(
    ("picture", "options", "alpha", "transparent"),
    [
        (Image.fromarray(CELLS), {}, True, True),
        (Image.fromarray(CELLS | np.array([0, 0, 0, 255], np.uint8)), {}, True, False),
        (Image.fromarray(CELLS).convert("LA"), {}, True, True),
        (Image.fromarray(CELLS[..., :3]), {"transparency": (200, 30, 7)}, True, True),
        (Image.fromarray(CELLS[..., :3]), {"transparency": (1, 2, 3)}, True, False),
        (Image.fromarray(CELLS[..., :3]), {}, False, False),
        (Image.fromarray(CELLS[..., 0]), {}, False, False),
    ],
)
def test_pictures_that_may_be_transparent_are_counted_and_where_they_are_decoded_those_that_are(
    tmp_path: Path, picture: Image.Image, options: dict[str, Any], alpha: bool, transparent: bool
) -> None:
    path = tmp_path / "a.png"
    picture.save(path, **options)
    media = Media(kind="image", uris=(str(path),))
    assert probe(media)[0].notes == (("pictures_with_alpha",) if alpha else ())
    assert probe(media, decode=True)[0].notes == (("pictures_with_alpha",) if transparent else ())


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparency_is_laid_on_white_as_transformers_processors_do(mode: str) -> None:
    ensure_torchvision()
    from transformers.image_transforms import convert_to_rgb

    cells = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
    picture = Image.fromarray(cells)
    data = png(picture.quantize() if mode == "P" else picture.convert(mode))
    real = convert_to_rgb(Image.open(io.BytesIO(data)), return_numpy=True)
    np.testing.assert_array_equal(np.asarray(load_rgb(data)), real)
