"""Install torch and torchvision as this machine needs them, before anything else asks for them.

A plain `pip install torch` brings the CUDA build, gigabytes of it, wherever the package index holds no CPU build of the
pinned version. Preparing data needs no GPU, so:

- a machine with an NVIDIA driver gets the plain build, which uses it;
- elsewhere both come from PyTorch's own index of CPU builds, if it answers;
- else the plain one is taken, and a line says so.

An environment that has a torch of the pinned version keeps it. Run it with the Python of the environment:

    .venv/bin/python scripts/install_torch.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

CPU_BUILDS = "https://download.pytorch.org/whl/cpu"
PATIENCE = 5.0
"""Seconds that the index has to answer."""
CONSTRAINTS = Path(__file__).resolve().parents[1] / "configs" / "constraints.txt"


def answers(index: str) -> bool:
    """Tell whether a package index lists torch within `PATIENCE` seconds."""
    try:
        with urllib.request.urlopen(f"{index}/torch/", timeout=PATIENCE) as page:
            return bool(page.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def main() -> int:
    line = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS)]
    if shutil.which("nvidia-smi"):
        return subprocess.call([*line, "torch"])
    if answers(CPU_BUILDS):
        # beside the usual index: a build named 2.13.0+cpu sorts above the 2.13.0 that lies there
        return subprocess.call([*line, "--extra-index-url", CPU_BUILDS, "torch", "torchvision"])
    print("PyTorch's index of CPU builds does not answer: torch comes from the usual place, maybe as a CUDA build")
    return subprocess.call([*line, "torch"])


if __name__ == "__main__":
    sys.exit(main())
