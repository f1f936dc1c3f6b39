"""What a release is made of: a wheel whose bytes depend on the sources alone, and the licences of what it needs.

python scripts/supply_chain.py wheel      builds the wheel twice, in two folders, and compares the bytes
python scripts/supply_chain.py licences   lists the pinned packages that are installed, with version and licence
python scripts/supply_chain.py hashes     writes configs/constraints-hashed.txt anew, by `uv`, from the index in use
python scripts/supply_chain.py audit      asks a database of vulnerabilities about the pinned versions, by `pip-audit`
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("vlm_prep", "pyproject.toml", "README.md", "LICENSE")
CONSTRAINTS, HASHED = ROOT / "configs" / "constraints.txt", ROOT / "configs" / "constraints-hashed.txt"
_TORCH_CPU = "sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"
"""Of torch's CPU build for Python 3.11 on Linux (x86-64), which is not on PyPI."""
_HEAD = """\
# The versions of constraints.txt with the digests of their files on PyPI, of torch also of its CPU build:
# pip install --require-hashes --no-deps --requirement configs/constraints-hashed.txt
# Made by `make hashes`.
"""
EPOCH = "315532800"
"""1980-01-01, the earliest time that a zip file can hold."""


def build(folder: Path) -> Path:
    """Build the wheel of a copy of the sources in a folder."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in PARTS:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.exists():
            shutil.copy(path, source / name)
    line = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*line, folder / "wheel", source], check=True, env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH})
    (found,) = (folder / "wheel").glob("*.whl")
    return found


def wheel() -> None:
    """Build the wheel twice and compare.

    Raises:
        SystemExit: the two differ.
    """
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory(prefix="another-") as other:
        digests = []
        for folder in (one, other):
            found = build(Path(folder))
            digests.append(hashlib.sha256(found.read_bytes()).hexdigest())
            print(f"{found.name}  sha256 {digests[-1]}")
    if digests[0] != digests[1]:
        sys.exit("the two wheels differ")


def pinned() -> dict[str, str]:
    """Return the versions of configs/constraints.txt by package."""
    lines = CONSTRAINTS.read_text().splitlines()
    found = (re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", line) for line in lines)
    return {each[1]: each[2] for each in found if each}


def licence_of(name: str) -> str:
    """Return a package's licence as it states it."""
    about = metadata.metadata(name)
    classes = [str(each) for each in about.get_all("Classifier") or () if "License ::" in str(each)]
    written = [str(each).strip().partition("\n")[0] for each in about.get_all("License") or ()]
    stated = [*(str(each) for each in about.get_all("License-Expression") or ()), *classes, *written]
    return next((each.rpartition(":: ")[2][:60] for each in stated if each), "not stated")


def licences() -> None:
    """Print a line for each pinned package.

    Raises:
        SystemExit: an installed one is not of the pinned version.
    """
    others = []
    for name, version in pinned().items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            print(f"{name:<32}{version:<16}not installed here")
            continue
        print(f"{name:<32}{found:<16}{licence_of(name)}")
        if found.partition("+")[0] != version.partition("+")[0]:
            others.append(f"{name} {found}, pinned {version}")
    if others:
        sys.exit("not as pinned: " + "; ".join(others))


def hashes() -> None:
    """Write the digests of all files of the pinned versions, as the package index states them."""
    line = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-deps", "--generate-hashes", "--no-header"]
    line += ["--no-annotate", "--no-emit-index-url", "--python-version", "3.11.7", str(CONSTRAINTS)]
    made = subprocess.run(line, check=True, capture_output=True, text=True).stdout
    lines = [each for each in made.splitlines() if not each.lstrip().startswith("#")]
    torch = next(number for number, each in enumerate(lines) if each.startswith("torch=="))
    lines.insert(torch + 1, f"    --hash={_TORCH_CPU} \\")
    HASHED.write_text(_HEAD + "\n".join(lines) + "\n")


def audit() -> None:
    """Ask a database of vulnerabilities, which is on the network: pip-audit has none of its own.

    Raises:
        SystemExit: a version is known to be vulnerable, or the database could not be asked about one.
    """
    line = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--requirement", str(HASHED)]
    ended = subprocess.run([*line, "--format", "json"], check=False, capture_output=True, text=True)
    try:
        found = json.loads(ended.stdout)["dependencies"]
    except (ValueError, KeyError):
        lines = ended.stderr.strip().splitlines() or ["it said nothing"]
        sys.exit(f"not audited: pip-audit failed: {lines[-1]}")
    if wrong := audited(found):
        sys.exit(wrong)
    print(f"{len(found)} versions, none known to be vulnerable")


def audited(found: list[dict[str, Any]]) -> str:
    """Return in one sentence what is wrong by pip-audit's report; nothing where each version was looked up and is
    sound. By itself it calls versions that it does not find "no known vulnerabilities"."""
    bad = [f"{each['name']} {each['version']} ({one['id']})" for each in found for one in each.get("vulns", ())]
    skipped = [each["name"] for each in found if "skip_reason" in each]
    if bad:
        return f"known to be vulnerable: {', '.join(bad)}"
    if skipped or not found:
        return f"not audited: {len(skipped)} of {len(found)} versions are unknown to the database that is reached here"
    return ""


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    todo = {"wheel": wheel, "licences": licences, "hashes": hashes, "audit": audit}
    parser.add_argument("what", choices=tuple(todo))
    todo[parser.parse_args().what]()


if __name__ == "__main__":
    main()
