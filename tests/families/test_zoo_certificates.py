"""Tiny models of all classes compute on our batches what they do on the processor's rows, or the form is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from families.certified import FORMS, certificate, line, stated

STATED = stated()
SLOW = {"AriaProcessor", "Idefics3Processor", "SmolVLMProcessor", "UnlimitedOcrProcessor"}
"""Those of thousands of tokens a picture, which `PYTHONPATH=tests python -m families.certified` certifies alone."""


def test_the_table_has_many_classes() -> None:
    assert len(STATED) > 40


def test_nothing_that_differs_stands_in_the_table() -> None:
    cells = {cell.strip() for each in STATED.values() for cell in each.split("|")[3 : 3 + len(FORMS)]}
    assert cells <= {"equal", "refused"}


@pytest.mark.parametrize("name", sorted(set(STATED) - SLOW))
def test_a_class_computes_what_the_table_says(name: str, tmp_path: Path) -> None:
    assert line(name, certificate(name, tmp_path)) == STATED[name]
