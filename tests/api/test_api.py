"""`import vlm_prep as vp`: what it names, that it is lazy, and that it leaves the process as it was."""

from __future__ import annotations

import doctest
import importlib
import json
import subprocess
import sys
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import vlm_prep as vp
from vlm_prep.builtin import builtin_data
from vlm_prep.ingest.source import SourceOptions

ROOT = Path(vp.__file__).parent.parent
NAMES = [
    *("Choices", "IngestConfig", "MixedDataset", "PackConfig", "PackedCollate", "PadCollate", "RunOptions"),
    *("ShardDataset", "SourceConfig", "TokenBudget", "TokenizeConfig", "VlmPrepError", "__version__", "ingest"),
    *("open_samples", "pack", "plan", "read_rejects", "stats", "tokenize", "verify"),
]
WITH_EXAMPLES = (
    *("open_samples", "ingest", "tokenize", "pack", "verify", "plan", "stats", "read_rejects"),
    *("ShardDataset", "PadCollate", "PackedCollate"),
)


def test_the_exported_names() -> None:
    assert sorted(vp.__all__) == sorted(NAMES)
    assert set(NAMES) <= set(dir(vp))
    for name in NAMES:
        assert getattr(vp, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'tokenise'"):
        vp.tokenise  # noqa: B018


def test_the_folder_of_a_step_is_the_step_whatever_was_imported_before() -> None:
    code = """
import vlm_prep.tokenize.labels.spans, vlm_prep.pack.bins, vlm_prep.ingest.meta, inspect
import vlm_prep as vp
from vlm_prep.tokenize.tokenize_run import tokenize
assert vp.tokenize.function is tokenize
assert list(inspect.signature(vp.tokenize).parameters)[:4] == ["samples", "processor", "config", "options"]
assert vp.pack.function.__name__ == "pack" and vp.ingest.function.__name__ == "ingest"
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def examples_of(name: str) -> Any:
    module, attribute = vp._EXPORTS[name]
    found = importlib.import_module(f"vlm_prep.{module}")
    return found.function if attribute is None else getattr(found, attribute)


def test_every_example_is_true(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of the flow, so that each finds what the one before made."""
    samples = vp.open_samples(builtin_data(), datasets=["photo_talk"], limit=8)
    names = {"vp": vp, "folder": tmp_path, "samples": samples, "told": lambda line: None}
    for name in WITH_EXAMPLES:
        (test,) = doctest.DocTestFinder(recurse=False).find(examples_of(name), name, globs=names)
        assert test.examples, name
        result = doctest.DocTestRunner().run(test)
        assert result.failed == 0, capsys.readouterr().out


LAZY = """
import sys
import {module}
print(sorted(name for name in {names} if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("vlm_prep", ["torch", "numpy", "PIL", "transformers", "tokenizers", "pyarrow", "typer", "yaml"]),
        ("vlm_prep.stream", ["PIL", "transformers", "tokenizers", "simplejpeg", "typer", "datasets", "vlm_prep.media"]),
        ("vlm_prep.stream", ["vlm_prep.tokenize", "vlm_prep.ingest", "vlm_prep.engine", "pydantic", "jinja2"]),
    ],
)
def test_an_import_loads_what_it_needs(module: str, names: list[str]) -> None:
    code = LAZY.format(module=module, names=names)
    told = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    assert told.stdout.strip() == "[]"


STATE = """
import json, logging, os, sys, warnings
from pathlib import Path
import numpy, scipy.signal, soundfile, torch, transformers, PIL.Image, tokenizers, decord
import vlm_prep as vp
from vlm_prep.builtin import builtin_data

folder = Path(sys.argv[1])
transformers.logging.set_verbosity_info()
torch.set_num_threads(3)

def state():
    return {
        "verbosity": transformers.logging.get_verbosity(),
        "bars": transformers.utils.logging.is_progress_bar_enabled(),
        "hub": logging.getLogger("huggingface_hub").level,
        "filters": [repr(each) for each in warnings.filters],
        "threads": torch.get_num_threads(),
        "pixels": PIL.Image.MAX_IMAGE_PIXELS,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
    }

before = state()
samples = vp.open_samples(builtin_data(), limit=6)
run = {"workers": 0, "progress": False, "say": lambda line: None}
mini = "builtin:qwen2.5-vl-mini"
vp.tokenize(samples, mini, vp.TokenizeConfig(media="pixels"), vp.RunOptions(out=folder / "a", **run))
vp.tokenize(samples, mini, vp.TokenizeConfig(), vp.RunOptions(out=folder / "b", **run))
vp.pack(folder / "b", vp.PackConfig(pack_length=2048), vp.RunOptions(out=folder / "c", **run))
vp.verify(folder / "b", mini)
for name in "abc":
    rows = vp.ShardDataset(folder / name)
    collate = vp.PackedCollate if name == "c" else vp.PadCollate
    collate.for_store(rows)([rows[0]])
after = state()
print(json.dumps({name: [before[name], after[name]] for name in before if before[name] != after[name]}))
"""


def test_the_process_stays_as_it_was(tmp_path: Path) -> None:
    line = [sys.executable, "-c", STATE, str(tmp_path)]
    told = subprocess.run(line, check=True, cwd=ROOT, capture_output=True, text=True)
    changed = json.loads(told.stdout.splitlines()[-1])
    # what torch, sympy and urllib3 do when they are imported is theirs
    before, after = changed.pop("environment", ({}, {}))
    assert {name: value for name, value in after.items() if not name.startswith("TORCH")} == before
    before, after = changed.pop("filters", ((), ()))
    new = [each for each in after if each not in before]
    assert [each for each in new if not any(name in each for name in ("torch", "sympy", "urllib3"))] == []
    assert [each for each in after if each in before] == list(before)
    assert changed == {}


def test_the_options_of_open_samples_are_the_settings_of_a_source() -> None:
    named = signature(vp.open_samples).parameters.keys() - {"path", "how"}
    assert sorted([*get_type_hints(SourceOptions), *named]) == sorted(each.name for each in fields(vp.SourceConfig))
