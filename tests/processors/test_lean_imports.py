"""The command line and its workers import what they use; what they do not is still all there when it is asked for."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from transformers.utils import import_utils

from vlm_prep.core.own_process import ENVIRONMENT
from vlm_prep.engine.worker import ONE_THREAD
from vlm_prep.processors.lean_imports import _exported

LEAN = """
import inspect, os, sys
import pyarrow as pa
from vlm_prep.tokenize import before_fork, recipe
from vlm_prep.core.settings import TokenizeConfig

asked = recipe.Recipe(processor="builtin:qwen2.5-vl-mini", config=TokenizeConfig(), fast=True)
recipe.make_ready(asked.to_text())
made = recipe.made_for(asked)
assert recipe.made_for(asked) is made, "what was made before the fork is not used"
other = recipe.Recipe(processor=asked.processor, config=TokenizeConfig(fps=1.0), fast=True)
assert recipe.made_for(other).encoder.adapter.hf.video_processor.fps == 1.0
assert len(os.listdir("/proc/self/task")) == 1, "a thread would not live on in what is forked"
pa.array([["a"], ["b", None]]), pa.array([{"x": 1}])
unused = {"pandas", "torch._dynamo", "sympy", "scipy.optimize", "accelerate", "torchvision.models.resnet"}
assert not unused & set(sys.modules), unused & set(sys.modules)

from transformers import processing_utils
from transformers.utils import type_validators
inspect.getmodule(made)  # walks all modules
assert type(sys.modules["transformers.modeling_utils"]).__name__ == "_Unread"
assert "gelu" in type_validators.ACT2FN and "nonsense" not in type_validators.ACT2FN
base = processing_utils.PreTrainedAudioTokenizerBase
assert not isinstance(made, base)
from transformers.modeling_utils import PreTrainedAudioTokenizerBase, PreTrainedModel
assert issubclass(PreTrainedAudioTokenizerBase, base) and not issubclass(PreTrainedModel, base)
import pandas
assert pandas.Series([1]).sum() == 1
import torchvision
assert torchvision.models.resnet18(num_classes=2).fc.out_features == 2
assert torchvision.ops.nms is not None and torchvision.datasets.CIFAR10 is not None
"""


def test_a_worker_starts_with_a_processor_and_without_models_compilers_or_threads() -> None:
    environment = {**ENVIRONMENT, **ONE_THREAD, "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", LEAN], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


def test_the_names_that_transformers_exports_are_found_as_it_finds_them() -> None:
    files = sorted((Path(inspect.getfile(transformers)).parent / "models").rglob("*.py"))[::7]
    texts = [file.read_text(encoding="utf-8") for file in files]
    assert [_exported(import_utils.fetch__all__, text) for text in texts] == [
        import_utils.fetch__all__(text) for text in texts
    ]
    assert sum("__all__" in text for text in texts) > 100


@pytest.mark.parametrize(
    "text",
    [
        "",
        "__all__ = ['a']",
        "x = 1\n__all__ = ['a', 'b']\n",
        "__all__ = ['a']\n__all__ = ['b']\n",
        "__all__ = [\n    'a',\n    'b',\n]\ny = 2\n",
        "# __all__ below\nif x:\n    __all__ = ['a']\n",
        "x = 1\x0c__all__ = ['a']\n",
    ],
)
def test_names_are_found_in_any_file_as_transformers_finds_them(text: str) -> None:
    assert _exported(import_utils.fetch__all__, text) == import_utils.fetch__all__(text)
