"""An environment with one trainer's real package, beside this one's torch and transformers: `make test-trainers`, and
for a comparison `make bench-stream`.

    python scripts/trainer_env.py llamafactory     # makes .venv-trainers-llamafactory

What the trainer needs and this environment has not is installed there, pinned and without its own dependencies, which
would bring CUDA builds of gigabytes; all else is read from this environment by a .pth file. Where a trainer asks for
older versions (LLaMA-Factory: transformers <= 5.6) the tests say so to it in its own words.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

NEEDS = {
    "llamafactory": ("llamafactory==0.9.5", "peft==0.18.1", "omegaconf==2.3.0", "antlr4-python3-runtime==4.9.3",
                     "einops==0.8.1", "tyro==0.8.14", "docstring-parser==0.17.0", "shtab==1.7.2", "trl==0.24.0"),
    "ms-swift": ("ms-swift==4.6.0", "modelscope==1.31.0", "peft==0.18.1", "addict==2.4.0", "json-repair==0.53.0",
                 "sortedcontainers==2.4.0", "einops==0.8.1", "simplejson==3.20.2", "binpacking==1.5.2",
                 "dacite==1.9.2"),
    "axolotl": ("axolotl==0.19.0", "axolotl-contribs-lgpl==0.0.7", "axolotl-contribs-mit==0.0.6", "trl==1.9.0",
                "peft==0.20.0", "addict==2.4.0", "posthog==6.7.11", "backoff==2.2.1", "distro==1.9.0",
                "colorama==0.4.6", "fire==0.7.1", "termcolor==3.3.0", "art==6.5", "python-dotenv==1.0.1",
                "schedulefree==1.4.1", "einops==0.8.2", "torchao==0.18.0", "numba==0.68.1", "llvmlite==0.50.0",
                "httpcore==1.0.9", "h11==0.16.0", "httpx==0.28.1", "bitsandbytes==0.50.2", "fastcore==2.2.41",
                "triton==3.3.1", "evaluate==0.4.6"),
    "megatron-core": ("megatron-core==0.16.1",),
    "energon": ("megatron-energon==7.4.1", "multi-storage-client==1.3.1", "mfusepy==3.1.1", "rapidyaml==0.15.2",
                "filetype==1.2.0", "deprecation==2.1.0", "xattr==1.3.0", "wcmatch==12.0.1", "bracex==3.2.3",
                "lark==1.3.1", "prettytable==3.18.0", "wcwidth==0.9.4", "pyroute2==0.9.7", "psutil==7.2.2",
                "jmespath==1.1.0", "jsonschema==4.26.0", "jsonschema-specifications==2025.9.1", "referencing==0.37.0",
                "rpds-py==2026.9.1", "attrs==26.1.0", "opentelemetry-api==1.45.2"),
    "nemo-automodel": ("nemo-automodel==0.7.0",),
    "torchtitan": ("torchtitan==0.3.0", "torch_checkpointing==0.1.1", "tyro==1.0.17", "docstring-parser==0.18.0",
                   "shtab==1.13.0", "einops==0.8.2", "spmd_types==0.2.3", "triton==3.3.1"),
    "mosaicml-streaming": ("mosaicml-streaming==0.13.0", "Brotli==1.2.1", "python-snappy==0.7.3", "cramjam==2.14.0",
                           "zstd==1.5.7.2", "catalogue==2.0.10"),
    "readers": ("polars==2.1.0", "polars-runtime-32==2.1.0", "duckdb==2.0.1",
                "pylance==14.0.2", "lance-namespace==0.13.0", "lance-namespace-urllib3-client==0.13.0"),
}  # fmt: skip
"""{trainer: its package and what else it imports in the code that is tried}"""
ABSENT = {"llamafactory": ("torchaudio",), "axolotl": ("wandb",)}
"""Imported for audio or reports that nothing here uses: empty modules, which fail where they are used."""


def environment(trainer: str, root: Path) -> Path:
    """Make the environment unless it is there, and return its python."""
    folder = root / f".venv-trainers-{trainer}"
    python, ready = folder / "bin" / "python", folder / ".ready"
    wanted = "\n".join(NEEDS[trainer])
    if ready.exists() and ready.read_text() == wanted:
        return python
    venv.create(folder, with_pip=False, clear=True)
    site = next((folder / "lib").glob("python*")) / "site-packages"
    (site / "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
    subprocess.run([*pip, *NEEDS[trainer]], check=True)
    for name in ABSENT.get(trainer, ()):
        (site / name).mkdir()
        (site / name / "__init__.py").write_text(f'"""{name} is not installed here."""\n')
    ready.write_text(wanted)
    return python


def main() -> None:
    """Make environments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trainer", nargs="+", choices=sorted(NEEDS))
    for trainer in parser.parse_args().trainer:
        print(environment(trainer, Path(__file__).parents[1]))


if __name__ == "__main__":
    main()
