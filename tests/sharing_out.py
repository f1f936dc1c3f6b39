"""Which tests are slow, and how pytest-xdist shares tests out among its workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

SLOW = (
    "compat",
    "engine",
    "families",
    "omni",
    "oracle",
    "reference",
    "trainers",
    "cli/test_commands.py",
    "cli/test_object_store.py",
    "cli/test_plan.py",
    "cli/test_run_files.py",
    "cli/test_state.py",
    "ingest/test_ingest_audio.py",
    "pack/test_raise.py",
    "processors",
    "report/test_plan.py",
    "shards/test_remote.py",
    "shards/test_transfer.py",
    "shards/test_untrusted.py",
    "stream/test_object_store.py",
    "stream/test_object_store_faults.py",
    "stream/test_pixels.py",
    "stream/test_resume.py",
    "tokenize/test_label_kit.py",
    "tokenize/test_label_parts.py",
    "tokenize/test_label_reasoning.py",
    "tokenize/test_label_styles.py",
    "tokenize/test_payload.py",
)
"""What `make test-fast` leaves out, below tests/: worker processes, the kit's processors, trainers, servers."""
LONG = {
    "fuzz/test_fuzz.py": 30.0,
    "ingest/test_hub_sets.py": 3.0,
    "report/test_plan.py": 4.0,
    "shards/test_altered_stores.py": 2.0,
    "test_docs.py": 0.5,
    "tokenize/test_refusals.py": 10.0,
    "tokenize/test_update.py": 3.0,
    "trainers": 4.0,
}
"""Seconds of a test, about, of files whose tests take longer than most slow ones, below tests/: see `ByFile`."""
BY_PARAMETER = (
    "tests/families/test_certificates.py",
    "tests/families/test_families.py",
    "tests/families/test_zoo_certificates.py",
    "tests/fuzz/test_fuzz.py",
)
"""Files whose tests belong to what their parameter names, and not to each other."""


def scope_of(nodeid: str) -> str:
    """What a test is handed out with: its file, or what its parameter names over files."""
    file, _, test = nodeid.partition("::")
    parameter = test.partition("[")[2].removesuffix("]")
    return parameter if parameter and file in BY_PARAMETER else file


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """Gives the tests of a file to one worker: it makes their stores, and loads their processors, once. Those of
    families go by the family, over files. What takes long begins first, lest one worker end with it alone."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is slow, and let what pytest-xdist hands out together come first if it takes long."""
    root = Path(__file__).parent
    seconds: dict[str, float] = {}
    for item in items:
        file = item.path.relative_to(root)
        names = {str(file), file.parts[0]}
        if slow := bool(names & set(SLOW)):
            item.add_marker(pytest.mark.slow)
        takes = max((LONG[name] for name in names & set(LONG)), default=1.0 if slow else 0.05)
        seconds[scope_of(item.nodeid)] = seconds.get(scope_of(item.nodeid), 0.0) + takes
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: -seconds[scope_of(item.nodeid)])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """How pytest-xdist shares the tests out. Its own groups do nothing under pytest 9.2, where a test's id, to which it
    adds the group, cannot be changed any more."""
    config.option.loadscopereorder = False  # by the number of tests, it would be
    return ByFile(config, log)
