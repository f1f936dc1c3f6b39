"""The package is built in layers, and its modules are small enough to read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import vlm_prep

ORDER = (
    "core",
    "builtin",
    "shards",
    "engine",
    "media",
    "ingest",
    "processors",
    "tokenize",
    "pack",
    "stream",
    "certify",
    "trainers",
    "report",
    "cli",
)
ROOT = Path(vlm_prep.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
LAYERED = [path for path in MODULES if path.parent != ROOT]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the vlm_prep packages that are imported, also inside functions, except for type checkers."""
    if isinstance(tree, ast.If) and ast.unparse(tree.test).endswith("TYPE_CHECKING"):
        for other in tree.orelse:
            yield from imports(other)
        return
    if isinstance(tree, ast.Import):
        names = [alias.name for alias in tree.names]
    elif isinstance(tree, ast.ImportFrom):
        names = [tree.module or "."] if tree.level == 0 else ["." * tree.level]
        if tree.module == "vlm_prep":
            names = [f"vlm_prep.{alias.name}" for alias in tree.names]
    else:
        names = []
    yield from (name.split(".")[1] for name in names if name.startswith("vlm_prep."))
    for node in ast.iter_child_nodes(tree):
        yield from imports(node)


@pytest.mark.parametrize("path", LAYERED, ids=name_of)
def test_a_package_imports_only_packages_before_it(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    allowed = {*ORDER[: ORDER.index(layer) + 1], "__version__"}
    assert set(imports(tree_of(path))) <= allowed


@pytest.mark.parametrize("path", LAYERED, ids=name_of)
def test_imports_are_absolute(path: Path) -> None:
    nodes = ast.walk(tree_of(path))
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in nodes)


def imported_modules(tree: ast.AST, modules: set[str]) -> set[str]:
    """Return the modules that a module imports: at its top, inside functions, and for type checkers."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & modules) or {str(node.module)}
    return found & modules


def test_no_imports_go_in_a_circle() -> None:
    """Also not inside functions or for type checkers. The root, which imports its exports lazily, is left out."""
    paths = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in LAYERED}
    paths = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    imported = {name: imported_modules(tree_of(path), set(paths)) for name, path in paths.items()}
    try:
        list(TopologicalSorter(imported).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_every_package_has_a_place_in_the_order() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_what_it_holds(path: Path) -> None:
    assert not tree_of(path).body or ast.get_docstring(tree_of(path))


SOURCES = [
    *MODULES,
    *(path for folder in ("scripts", "tests") for path in sorted((ROOT.parent / folder).rglob("*.py"))),
]
LONG: set[str] = set()
"""Those that wait to be split by topic; none is added."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT.parent)))
def test_a_file_is_short_enough_to_read(path: Path) -> None:
    """Of the package, of scripts and of tests."""
    long = len(path.read_text().splitlines()) > 350
    assert long == (str(path.relative_to(ROOT.parent)) in LONG)


def texts_of(tree: ast.AST) -> Iterator[str]:
    """Yield the docstrings of a module: of itself, of what it defines, and under attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def names_in(tree: ast.AST) -> set[str]:
    """Return what a module defines, assigns, takes as arguments or imports."""
    found = {each.arg for each in ast.walk(tree) if isinstance(each, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


@cache
def defined() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return {module or package: the names in it} and {class: the names in its module}, by bare names."""
    modules: dict[str, set[str]] = {}
    classes: dict[str, set[str]] = {}
    for path in MODULES:
        tree = tree_of(path)
        names = names_in(tree)
        packages = path.parent.relative_to(ROOT.parent).parts
        for name in {*packages, path.stem} - {"__init__"}:
            modules.setdefault(name, set()).update(names, {path.stem}, packages)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, set()).update(names)
    return modules, classes


FILES_OF_OTHERS = {"json", "html", "parquet", "arrow", "bin", "yaml", "toml", "md", "txt"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_what_a_docstring_names_exists(path: Path) -> None:
    """Files (`name.py`), names of modules (`module.name`) and of classes (`Class.name`) of this package."""
    modules, classes = defined()
    text = "\n".join(texts_of(tree_of(path)))
    named = re.findall(r"\b([a-z_]\w*)\.py\b", text)
    files = {each.stem for each in SOURCES}
    unknown = {f"{name}.py" for name in named if name not in files}
    for dotted in re.findall(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(?:\(\))?`", text):
        owner, _, name = dotted.rpartition(".")
        owner = owner.rpartition(".")[2]
        known = modules.get(owner) or classes.get(owner)
        if known is not None and name not in known and name not in FILES_OF_OTHERS | {"py"}:
            unknown.add(dotted)
    assert unknown == set()


def test_a_module_name_stands_once() -> None:
    """Commands (`cli/`) may have the name of a package; elsewhere a file name says which file is meant."""
    names = [path.name for path in MODULES if path.name != "__init__.py"]
    assert sorted({name for name in names if names.count(name) > 1}) == []


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.name == "__init__.py" and path.parent != ROOT], ids=name_of
)
def test_a_package_map_names_every_module(path: Path) -> None:
    """Commands (`cli/`) are named as they are called."""
    text = ast.get_docstring(tree_of(path)) or ""
    modules = {each.stem for each in path.parent.glob("*.py")} - {"__init__"}
    if path.parent.name not in {"cli", "core"}:
        assert {name for name in modules if name not in text} == set()
