"""What is no regular file in the place of one that vlm-prep reads itself: refused before it is opened."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.cli.run_file import read_run_file
from vlm_prep.core.errors import InputError, OutputError, ProcessorError, StoreError, VlmPrepError
from vlm_prep.engine.ownership import read_plan
from vlm_prep.pack.mix_file import read_mix
from vlm_prep.processors.load import resolve
from vlm_prep.processors.model_config import config_of, model_class, read_config
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.reader import Store
from vlm_prep.shards.store_check import damaged_files


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """Opening a pipe waits for a writer, and this process ends."""
    signal.alarm(20)
    yield
    signal.alarm(0)


@pytest.fixture
def store(tokenized: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tokenized, tmp_path / "tok"))


def test_a_pipe_in_the_place_of_any_file_of_a_store_is_named(store: Path) -> None:
    whole = Store(store).manifest
    names = [str(path.relative_to(store)) for path in sorted(store.rglob("*")) if path.is_file()]
    assert len(names) > 6
    for name in names:
        (store / name).rename(store.parent / "aside")
        os.mkfifo(store / name)
        if name == "manifest.json":
            with pytest.raises((StoreError, OSError), match="is a named pipe"):
                Store(store)
        else:
            said = list(damaged_files(store, whole))
            assert any(name in line for line in said), name
        if name == "rejects.parquet":
            with pytest.raises(StoreError, match="is a named pipe"):
                read_rejects(store)
        (store / name).unlink()
        (store.parent / "aside").rename(store / name)
    assert not list(damaged_files(store, whole))


@pytest.mark.parametrize("read", [read_run_file, read_mix, read_config])
@pytest.mark.parametrize("place", ["/dev/zero", "/proc/kmsg"])
def test_what_never_ends_is_no_file_of_settings(read: Callable[[Path], Any], place: str) -> None:
    with pytest.raises(InputError, match=r"not a file|Permission denied"):
        read(Path(place))


def test_a_pipe_that_a_shell_makes_is_a_run_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "63")
    writer = threading.Thread(target=(tmp_path / "63").write_text, args=("out: there\n",))
    writer.start()
    assert read_run_file(tmp_path / "63").data == {"out": "there"}
    writer.join()


def test_a_plan_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "_work").mkdir()
    os.mkfifo(tmp_path / "_work" / "plan.json")
    with pytest.raises((OutputError, OSError), match="is a named pipe"):
        read_plan(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "additional_chat_templates/tools.jinja"])
def test_a_processor_with_a_pipe_is_not_loaded(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(ProcessorError, match="is a pipe, a socket or a device"):
        resolve(str(tmp_path))


def test_a_model_that_no_repository_is_named_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(VlmPrepError, match=r"no config\.json of a model"):
        read_config(str(tmp_path / "nothing"))


def test_a_class_that_a_config_names_is_a_models_or_left_out() -> None:
    """`pipeline` is a function of transformers, `AutoModel` no model of its own."""
    config = config_of({"model_type": "qwen2", "architectures": ["pipeline", "AutoModel", 5]})
    assert model_class(config).__name__ == "Qwen2ForCausalLM"


@pytest.mark.parametrize(
    "data",
    [
        {"model_type": "qwen2", "num_hidden_layers": 10**9},
        {"model_type": "qwen2_5_vl", "vision_config": {"depth": 10**9}},
        {"model_type": "qwen2", "num_hidden_layers": -5},
        {"model_type": "qwen2", "num_hidden_layers": "many"},
        {"model_type": "qwen2_5_vl", "text_config": [1, 2]},
    ],
)
def test_a_model_that_cannot_be_is_one_message(data: dict[str, Any]) -> None:
    """Of a thousand million layers, transformers would list the kinds of all."""
    with pytest.raises(InputError, match="a model's config"):
        config_of(data)
