"""Every family's processor: the kit's real ones, and small real ones built with transformers."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from families import zoo
from families.build import BUILT, build
from families.rows import REMOTE, Adapters, Made

from vlm_prep.core.settings import ProcessorConfig
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.families.table import adapter_for
from vlm_prep.processors.load import LoadedProcessor


@pytest.fixture(scope="session")
def folders(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`folders("gemma3")`: the folder of a processor, made when it is asked for."""
    root = tmp_path_factory.mktemp("families")

    @functools.cache
    def folder(name: str) -> Path:
        if name in BUILT:
            return build(name, root / name)
        script = str(kit / "processors" / "assemble.py")
        subprocess.run([sys.executable, script, str(root), name], check=True, capture_output=True)
        return root / name

    return folder


@pytest.fixture(scope="session")
def adapters(folders: Callable[[str], Path], load_once: Callable[..., LoadedProcessor]) -> Adapters:
    """`adapters("gemma3")`: a family's adapter, loaded once; tests must leave it as it is."""

    @functools.lru_cache(maxsize=2)  # a tokenizer of 262,144 pieces takes 400 MB
    def adapter(name: str) -> Adapter:
        return adapter_for(load_once(str(folders(name)), ProcessorConfig(trust_remote_code=name in REMOTE)))

    return adapter


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """`made("Molmo2Processor")`: the folder of a small real processor of a class of transformers, see `zoo`."""
    root = tmp_path_factory.mktemp("zoo")
    return functools.cache(lambda name: zoo.build(name, root / name))
