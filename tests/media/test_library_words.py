"""What rejects of damaged pictures say: words, not the names of Python's errors; and nothing on the terminal."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from vlm_prep.core.errors import Reject
from vlm_prep.media.image import load_rgb
from vlm_prep.media.library_words import named_words

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (120, 90, 3), np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("share", [0.5, 0.02])
def test_a_cut_picture_is_said_in_words(kind: str, share: float) -> None:
    file = io.BytesIO()
    PICTURE.save(file, kind)
    data = file.getvalue()
    with pytest.raises(Reject) as caught:
        load_rgb(data[: int(len(data) * share)], "cut")
    assert not re.search(r"Error\b|Exception", caught.value.message), caught.value.message


def test_words_that_say_little_keep_the_name_of_their_error() -> None:
    assert named_words(KeyError(296)) == "KeyError: 296"
    assert named_words(OSError("image file is truncated")) == "image file is truncated"
    assert named_words(OSError()) == "OSError"
