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


def test_a_package_imports_only_packages_before_it() -> None:
    later: dict[str, set[str]] = {}
    for path in LAYERED:
        allowed = {*ORDER[: ORDER.index(path.relative_to(ROOT).parts[0]) + 1], "__version__"}
        later[name_of(path)] = set(imports(tree_of(path))) - allowed
    assert {name: found for name, found in later.items() if found} == {}


def test_imports_are_absolute() -> None:
    def relative(node: ast.AST) -> bool:
        return isinstance(node, ast.ImportFrom) and node.level > 0

    assert [name_of(path) for path in LAYERED if any(map(relative, ast.walk(tree_of(path))))] == []


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


def test_a_module_says_what_it_holds() -> None:
    trees = {name_of(path): tree_of(path) for path in MODULES}
    assert [name for name, tree in trees.items() if tree.body and not ast.get_docstring(tree)] == []


SOURCES = [
    *MODULES,
    *(path for folder in ("scripts", "tests") for path in sorted((ROOT.parent / folder).rglob("*.py"))),
]


def test_a_file_is_short_enough_to_read() -> None:
    """Of the package, of scripts and of tests."""
    lines = {str(path.relative_to(ROOT.parent)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: count for name, count in lines.items() if count > 350} == {}


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


def test_what_a_docstring_names_exists() -> None:
    """Files (`name.py`), names of modules (`module.name`) and of classes (`Class.name`) of this package."""
    files = {each.stem for each in SOURCES}
    unknown = {name_of(path): unknown_names(path, files) for path in MODULES}
    assert {name: found for name, found in unknown.items() if found} == {}


def unknown_names(path: Path, files: set[str]) -> set[str]:
    modules, classes = defined()
    text = "\n".join(texts_of(tree_of(path)))
    named = re.findall(r"\b([a-z_]\w*)\.py\b", text)
    unknown = {f"{name}.py" for name in named if name not in files}
    for dotted in re.findall(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(?:\(\))?`", text):
        owner, _, name = dotted.rpartition(".")
        owner = owner.rpartition(".")[2]
        known = modules.get(owner) or classes.get(owner)
        if known is not None and name not in known and name not in FILES_OF_OTHERS | {"py"}:
            unknown.add(dotted)
    return unknown


def test_a_module_name_stands_once() -> None:
    """Commands (`cli/`) may have the name of a package; elsewhere a file name says which file is meant."""
    names = [path.name for path in MODULES if path.name != "__init__.py"]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_a_package_map_names_every_module() -> None:
    """Commands (`cli/`) are named as they are called."""
    missing: dict[str, set[str]] = {}
    for path in MODULES:
        if path.name != "__init__.py" or path.parent == ROOT or path.parent.name in {"cli", "core"}:
            continue
        text = ast.get_docstring(tree_of(path)) or ""
        missing[name_of(path)] = {each.stem for each in path.parent.glob("*.py") if each.stem not in text}
    assert {name: found - {"__init__"} for name, found in missing.items() if found - {"__init__"}} == {}
