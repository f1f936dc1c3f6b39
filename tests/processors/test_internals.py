"""What is taken from inside transformers is there, and is taken in one module."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import vlm_prep
from vlm_prep.processors import internals
from vlm_prep.processors.torchvision_cpu import ensure_torchvision

NAMES = [each for each in vars(internals).values() if isinstance(each, internals.Internal)]
MODULES = sorted(Path(vlm_prep.__file__).parent.rglob("*.py"))
PUBLIC = {"auto"}


@pytest.mark.parametrize("name", NAMES, ids=lambda each: f"{each.module}.{each.name}")
def test_the_installed_release_of_transformers_has_the_name(name: internals.Internal) -> None:
    """Where a release moved one, the failure says which release and which name."""
    ensure_torchvision()
    name.get()


def test_a_name_that_moved_is_named_with_the_release() -> None:
    for moved in (internals.Internal("processing_utils", "_gone"), internals.Internal("models.gone", "resize")):
        with pytest.raises(vlm_prep.VlmPrepError, match=r"transformers \d[\w.]* has no transformers\.\w+.*gone"):
            moved.get()


@pytest.mark.parametrize("path", MODULES, ids=lambda each: each.stem)
def test_no_other_module_imports_from_inside_transformers(path: Path) -> None:
    """Attributes with an underscore are refused by ruff (SLF001)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("transformers"):
            inside = str(node.module).split(".")[1:]
            assert inside[:1] != ["models"] or set(inside[1:2]) <= PUBLIC, ast.unparse(node)
            assert not any(alias.name.startswith("_") for alias in node.names), ast.unparse(node)
