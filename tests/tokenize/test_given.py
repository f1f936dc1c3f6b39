"""Settings that come from outside: chat templates in all their files, and arguments that must take effect."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_styles import CHATML

from vlm_prep.core.bounds import bounded
from vlm_prep.core.errors import ProcessorError
from vlm_prep.core.settings import ProcessorConfig
from vlm_prep.processors.chat_template import template_text
from vlm_prep.processors.load import load_processor

Make = Callable[..., Any]
NAMED = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}]


@pytest.mark.parametrize(
    "given",
    [
        CHATML,
        json.dumps({"chat_template": CHATML}),
        json.dumps({"chat_template": CHATML, "bos_token": None}, indent=2),
        json.dumps({"chat_template": NAMED}),
        json.dumps({"chat_template": {"default": CHATML}}),
        json.dumps(CHATML),
    ],
)
def test_a_template_is_read_from_every_file_that_holds_one(given: str) -> None:
    assert template_text(given) == CHATML


@pytest.mark.parametrize("given", ["{}", "[]", '{"chat_template": null}', '{"chat_template": ""}', "3", "[1]"])
def test_json_without_a_template_is_refused(given: str) -> None:
    with pytest.raises(ProcessorError, match="holds no chat template"):
        template_text(given)


def test_json_without_a_default_template_names_those_it_has() -> None:
    given = json.dumps({"chat_template": [{"name": "tool_use", "template": "x"}, {"name": "rag", "template": "y"}]})
    with pytest.raises(ProcessorError, match="templates named tool_use, rag"):
        template_text(given)


def test_the_template_of_a_json_is_what_rows_are_rendered_with() -> None:
    given = ProcessorConfig(chat_template=json.dumps({"chat_template": CHATML}))
    assert load_processor("builtin:qwen2.5-vl-mini", given).chat_template == CHATML


ENDLESS = "{%- for a in range(99999) -%}{%- for b in range(99999) -%}{%- endfor -%}{%- endfor -%}" + CHATML
HUGE = "{{- ('x' * 4000000000) -}}" + CHATML


def test_a_template_that_does_not_end_is_refused(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm_prep.core.bounds.bounded.__wrapped__.__defaults__", (0.5, 1 << 30))
    with pytest.raises(ProcessorError, match="was not done after"):
        bench("builtin", template=ENDLESS)


def test_a_template_that_fills_the_memory_is_refused(bench: Make) -> None:
    with pytest.raises(ProcessorError, match="took more than 1024 MiB"):
        bench("builtin", template=HUGE)


def test_limits_end_with_the_block() -> None:
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGPROF)
    with bounded("it"):
        assert resource.getrlimit(resource.RLIMIT_DATA) != before[0]
    assert (resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGPROF)) == before
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize(
    "args",
    [
        {"size": {"shortest_edge": 3136, "longest_edge": 200704}},
        {"max_pixels": 200704},
        {"do_resize": False},
        {"image_mean": [0.4, 0.5, 0.6]},
    ],
)
def test_arguments_take_effect(processors: Path, name: str, args: dict[str, Any]) -> None:
    part = load_processor(str(processors / name), ProcessorConfig(processor_args=args)).hf.image_processor
    if "size" in args:
        assert dict(part.size)["longest_edge"] == 200704
    if "max_pixels" in args:
        assert dict(part.size)["longest_edge"] == 200704
    if "do_resize" in args:
        assert part.do_resize is False


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
@pytest.mark.parametrize(
    "args",
    [
        {"min_pixels": 100_000, "max_pixels": 50_176},
        {"size": {"shortest_edge": 100_000, "longest_edge": 50_176}},
        {"max_pixels": 28},
        {"size": {"height": 28, "width": 28}},
        {"size": 28},
    ],
)
def test_arguments_that_cannot_be_are_refused(processors: Path, name: str, args: dict[str, Any]) -> None:
    with pytest.raises(ProcessorError):
        load_processor(str(processors / name), ProcessorConfig(processor_args=args))


def test_a_process_that_was_stopped_meanwhile_is_not_at_fault() -> None:
    """A minute of SIGSTOP, as batch systems send, counted as the template's."""
    child = os.fork()
    if child == 0:
        try:
            with bounded("it", seconds=0.3):
                os.kill(os.getpid(), signal.SIGSTOP)
            os._exit(0)
        except BaseException:
            os._exit(1)
    os.waitpid(child, os.WUNTRACED)
    time.sleep(0.6)
    os.kill(child, signal.SIGCONT)
    assert os.waitpid(child, 0)[1] == 0
