"""Build the wheel, install it outside the checkout and run `vlm-prep demo` from it, once for each Python.

    python scripts/try_wheel.py              the Pythons that are at hand: 3.11, 3.12 and 3.13
    python scripts/try_wheel.py 3.13         one of them

A fresh environment takes its torch from where `scripts/install_torch.py` finds it. For a Python other than the one that
runs this, that may be a CUDA build of gigabytes: without an index of CPU builds such a Python is only resolved (each
package of `configs/constraints.txt` that the wheel needs has a file for it), unless `--cuda` is given.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from install_torch import CONSTRAINTS, CPU_BUILDS, answers
from supply_chain import build

VERSIONS = ("3.11", "3.12", "3.13")
TORCH = Path(__file__).with_name("install_torch.py")


def python_of(version: str) -> str | None:
    """Return the program of a Python that starts, of this version."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" == version:
        return sys.executable
    found = shutil.which(f"python{version}")
    if found and subprocess.run([found, "--version"], capture_output=True).returncode == 0:
        return found
    # pyenv's shims stand on the path for versions that are not switched on
    return next((str(each) for each in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))), None)


def run(*words: str | Path, cwd: Path) -> None:
    """Run a program away from the checkout.

    Raises:
        SystemExit: it failed.
    """
    surroundings = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run([str(word) for word in words], cwd=cwd, env=surroundings, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        sys.exit(f"{' '.join(str(word) for word in words)} ended with {done.returncode}")


def resolve(version: str, wheel: Path, folder: Path) -> None:
    """See that each pinned package that the wheel needs has a file for this Python; nothing is installed."""
    line = ["-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--only-binary=:all:", "--target"]
    line = [*line, str(folder / "none"), "--python-version", version, "--constraint", str(CONSTRAINTS), str(wheel)]
    run(sys.executable, *line, cwd=folder)
    print(f"Python {version}: every package has a file for it (not run: no CPU build of torch at hand, see --cuda)")


def install_and_run(version: str, python: str, wheel: Path, folder: Path) -> None:
    """Install the wheel into a fresh environment, and run the demo in an empty folder."""
    home = folder / "environment"
    run(python, "-m", "venv", home, cwd=folder)
    run(home / "bin" / "python", TORCH, cwd=folder)
    run(home / "bin" / "pip", "install", "--quiet", "--constraint", CONSTRAINTS, wheel, cwd=folder)
    empty = folder / "empty"
    empty.mkdir()
    run(home / "bin" / "vlm-prep", "demo", cwd=empty)
    shutil.rmtree(home)
    print(f"Python {version}: the wheel installs, and its demo runs outside the checkout")


def main() -> None:
    """Try each Python that is at hand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    parser.add_argument("--cuda", action="store_true", help="take a CUDA build of torch where there is no other")
    args = parser.parse_args()
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    with tempfile.TemporaryDirectory(prefix="wheel-") as name:
        wheel = build(Path(name))
        for version in args.versions:
            python, folder = python_of(version), Path(name) / version
            folder.mkdir()
            if python is None:
                print(f"Python {version}: not on this machine")
            elif version == here or args.cuda or answers(CPU_BUILDS):
                install_and_run(version, python, wheel, folder)
            else:
                resolve(version, wheel, folder)


if __name__ == "__main__":
    main()
