"""Every processor class of transformers that renders media in a chat: exact rows, rejects, or a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from families.outcomes import outcome
from families.zoo import build, chat_classes

from vlm_prep.processors.families.checked import TRANSFORMERS, checked, markdown
from vlm_prep.processors.load import load_processor

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


@pytest.mark.parametrize(("name", "asked"), [("Cosmos3EdgeProcessor", True), ("MiniMaxM3VLProcessor", False)])
def test_types_are_asked_for_where_the_model_makes_positions_of_them(name: str, asked: bool, tmp_path: Path) -> None:
    """Both name them and return them only when asked; MiniMax M3's model does not take them."""
    hf = load_processor(str(build(name, tmp_path / name))).hf
    assert ("mm_token_type_ids" in hf(text=["a"])) is asked
