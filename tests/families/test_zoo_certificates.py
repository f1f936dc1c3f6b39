"""Tiny models of all classes compute on our batches what they do on the processor's rows, or the form is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from families.certified import FORMS, certificate, line, stated

from vlm_prep.processors import backbone
from vlm_prep.processors.families.checked import checked

STATED = stated()
SLOW = {"AriaProcessor", "DeepseekOcr2Processor", "Idefics3Processor", "SmolVLMProcessor", "UnlimitedOcrProcessor"}
"""Those of thousands of tokens a picture, or of pictures of 1,024 pixels."""


def kind(name: str) -> str:
    """What decides how we count and collate the rows of a class, and what its line says of them."""
    found = checked()[name]
    return f"{found.family} {sorted(found.levels.items())} {STATED[name].split('|')[3:]}"


FIRST = set({kind(name): name for name in sorted(STATED, reverse=True) if name not in SLOW}.values())
"""One class of each kind: what differs between classes of a kind is transformers' own code, of a pinned release."""


def test_the_table_has_many_classes() -> None:
    assert len(STATED) > 40


def test_nothing_that_differs_stands_in_the_table() -> None:
    cells = {cell.strip() for each in STATED.values() for cell in each.split("|")[3 : 3 + len(FORMS)]}
    assert cells <= {"equal", "refused"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FIRST else pytest.mark.long) for name in sorted(STATED)]
)
def test_a_class_computes_what_the_table_says(name: str, tmp_path: Path) -> None:
    assert line(name, certificate(name, tmp_path)) == STATED[name]


@pytest.mark.long
def test_every_document_of_a_pack_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three packs of which two were compared had shown nothing of a clip that is padded beside a longer one."""
    monkeypatch.setattr(backbone, "_HEARS_PADDING", ())
    verdicts = {each.form: each.verdict for each in certificate("Gemma3nProcessor", tmp_path).findings}
    assert {verdicts[form] for form in ("padded", "sdpa", "varlen", "positions")} == {"different"}
