"""Every processor class of transformers that renders media in a chat: exact rows, rejects, or a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from families.outcomes import outcome
from families.zoo import chat_classes

from vlm_prep.processors.families.checked import TRANSFORMERS, checked, markdown

CLASSES = sorted(checked())


def test_the_table_names_every_class_of_the_installed_transformers() -> None:
    if transformers.__version__ != TRANSFORMERS:
        pytest.skip(f"the table is of transformers {TRANSFORMERS}: tests/families/outcomes.py writes it anew")
    assert sorted(chat_classes()) == CLASSES


def test_the_documentation_holds_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "families.md").read_text()
    table = page.partition("<!-- table -->")[2].partition("<!-- end -->")[0]
    assert table.strip().splitlines() == markdown()


@pytest.mark.parametrize("name", CLASSES)
def test_rows_are_exact_or_the_table_says_why_not(name: str, tmp_path: Path) -> None:
    found, wrong = outcome(name, tmp_path)
    assert wrong == []
    assert found == checked()[name]
