"""A run in parts, each a process of its own that knows nothing of the others, ends like an undisturbed whole run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vlm_prep.core.errors import InputError, OutputError, StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import IngestConfig, TokenizeConfig
from vlm_prep.engine.array_parts import Part, parse_part
from vlm_prep.engine.lock import Lock
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_run import tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"
Options = Callable[..., RunOptions]
Tree = Callable[[Path], dict[str, str]]
Command = Callable[..., subprocess.CompletedProcess[str]]

VLM_PREP = str(Path(sys.executable).with_name("vlm-prep"))


def started(*arguments: object) -> subprocess.Popen[str]:
    line = [VLM_PREP, *(str(each) for each in arguments)]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, many_rows: Path, options: Options) -> Path:
    """`many_rows` ingested at once."""
    out = tmp_path_factory.mktemp("whole") / "samples"
    ingest(open_samples(many_rows), IngestConfig(), options(out))
    return out


@pytest.fixture
def part(many_rows: Path, tmp_path: Path, options: Options) -> Callable[..., None]:
    """`part(2, 3)`: ingest part 2 of 3 of `many_rows` into tmp_path/out."""

    def run(number: int, count: int, config: IngestConfig | None = None, **settings: object) -> None:
        of = options(tmp_path / "out", part=Part(number=number, count=count), **settings)
        assert ingest(open_samples(many_rows), config or IngestConfig(), of) is None

    return run


def test_parts_share_all_tasks() -> None:
    parts = [Part(number=number, count=3) for number in (1, 2, 3)]
    assert [[task for task in range(7) if part.owns(task)] for part in parts] == [[0, 3, 6], [1, 4], [2, 5]]


@pytest.mark.parametrize("text", ["3", "0/3", "4/3", "1/0", "-1/3", "1/3/5", "a/b", "1.5/2"])
def test_a_part_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected i/n"):
        parse_part(text)


def test_parts_at_the_same_time_and_finish_make_the_same_bytes(
    tmp_path: Path, many_rows: Path, whole: Path, command: Command, tree: Tree
) -> None:
    out = tmp_path / "out"
    runs = [started("ingest", many_rows, "--out", out, "--workers", 1, "--part", f"{number}/3") for number in (1, 2, 3)]
    errors = [run.communicate(timeout=60)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], errors
    assert all("vlm-prep finish" in error for error in errors)
    assert len(list((out / "_work" / "shards").iterdir())) == 3
    result = command("finish", out)
    assert result.returncode == 0, result.stderr
    assert tree(out) == tree(whole)


def test_a_killed_part_is_missing_until_its_command_is_run_again(
    tmp_path: Path, many_rows: Path, whole: Path, part: Callable[..., None], command: Command, tree: Tree
) -> None:
    out = tmp_path / "out"
    line = ["ingest", many_rows, "--out", out, "--workers", "1", "--part", "1/2"]
    killed = started(*line)
    while not (out / "_work" / "done" / "task-000000.json").exists():
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.001)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    part(2, 2)
    missing = command("finish", out)
    assert missing.returncode == 2
    assert "1 of 2 parts are missing" in missing.stderr
    assert "--part 1/2: stopped; task(s) 2 missing" in missing.stderr
    assert not (out / "manifest.json").exists()
    lines: list[str] = []
    part(1, 2, say=lines.append)
    assert lines[0].startswith("taking over part 1/2")
    assert lines[1] == "continuing: 1 of 2 tasks are done"
    assert command("finish", out).returncode == 0
    assert tree(out) == tree(whole)


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """520 rows of text: three tasks."""
    path = tmp_path / "talk.jsonl"
    with path.open("w") as file:
        for n in range(1, 521):
            turns = [{"role": "user", "content": f"Count to {n}."}, {"role": "assistant", "content": " one" * (n % 9)}]
            file.write(json.dumps({"messages": turns}) + "\n")
    return path


def test_finishing_tokenized_parts_completes_the_proof(
    tmp_path: Path, talk: Path, options: Options, call: Command, tree: Tree
) -> None:
    samples, config = open_samples(talk), TokenizeConfig()
    manifest = tokenize(samples, PROCESSOR, config, options(tmp_path / "whole", max_reject_rate=1.0))
    assert manifest is not None
    for number in (2, 1):
        run = options(tmp_path / "out", part=Part(number=number, count=2))
        assert tokenize(samples, PROCESSOR, config, run) is None
    checked = [json.loads(path.read_bytes()) for path in (tmp_path / "out" / "_work" / "done").iterdir()]
    assert sum(record["facts"]["checked"].get("text", 0) for record in checked) < manifest.proof["rows"]["text"]
    result = call("finish", tmp_path / "out", "--max-reject-rate", 1)
    assert result.returncode == 0, result.stderr
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize("layout", ["ranks", "index"])
def test_packs_in_parts_are_the_same_bytes(
    tmp_path: Path, tokenized: Path, options: Options, call: Command, tree: Tree, layout: str
) -> None:
    config = PackConfig(pack_length=2048, world_size=3, layout=layout)  # type: ignore[arg-type]
    pack(tokenized, config, options(tmp_path / "whole"))
    for number in (2, 1):
        assert pack(tokenized, config, options(tmp_path / "out", part=Part(number=number, count=2))) is None
    assert call("finish", tmp_path / "out").returncode == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_parts_without_tasks_do_no_harm(
    tmp_path: Path, part: Callable[..., None], whole: Path, call: Command, tree: Tree
) -> None:
    for number in range(1, 6):
        part(number, 5)
    assert call("finish", tmp_path / "out").returncode == 0
    assert tree(tmp_path / "out") == tree(whole)


def test_parts_that_were_never_begun_are_named(tmp_path: Path, part: Callable[..., None], call: Command) -> None:
    part(2, 3)
    result = call("finish", tmp_path / "out")
    assert result.returncode == 2
    assert "2 of 3 parts are missing" in result.stderr
    assert "--part 1/3: never begun; task(s) 0 missing" in result.stderr
    assert "--part 3/3: never begun; task(s) 2 missing" in result.stderr
    assert "--part 2/3" not in result.stderr
    with pytest.raises(StoreError, match="unfinished"):
        Store(tmp_path / "out")


def test_the_tasks_that_an_unfinished_whole_run_misses_are_named(
    tmp_path: Path, part: Callable[..., None], call: Command
) -> None:
    part(1, 1)
    shutil.rmtree(tmp_path / "out" / "_work" / "parts")
    (tmp_path / "out" / "_work" / "done" / "task-000001.json").unlink()
    result = call("finish", tmp_path / "out")
    assert result.returncode == 2
    assert "of 3 tasks 1 are missing: 1" in result.stderr


def test_the_command_without_a_part_does_what_is_missing(
    tmp_path: Path, many_rows: Path, part: Callable[..., None], whole: Path, options: Options, tree: Tree
) -> None:
    lines: list[str] = []
    part(2, 3)
    ingest(open_samples(many_rows), IngestConfig(), options(tmp_path / "out", say=lines.append))
    assert lines == ["continuing: 1 of 3 tasks are done"]
    assert tree(tmp_path / "out") == tree(whole)


def test_a_part_of_a_finished_store_has_nothing_to_do(
    tmp_path: Path, part: Callable[..., None], call: Command, tree: Tree
) -> None:
    part(1, 1)
    call("finish", tmp_path / "out")
    before = tree(tmp_path / "out")
    lines: list[str] = []
    part(1, 1, say=lines.append)
    assert lines == [f"{tmp_path / 'out'} is complete already: nothing to do"]
    assert "complete already" in call("finish", tmp_path / "out").stderr
    assert tree(tmp_path / "out") == before


def test_another_configuration_in_another_part_is_refused(
    tmp_path: Path, part: Callable[..., None], tree: Tree
) -> None:
    part(1, 3)
    before = tree(tmp_path / "out" / "_work" / "done")
    with pytest.raises(OutputError, match=r"config\.check_media: 'header' then, 'decode' now"):
        part(2, 3, IngestConfig(check_media="decode"))
    assert tree(tmp_path / "out" / "_work" / "done") == before


def test_another_number_of_parts_is_refused(tmp_path: Path, part: Callable[..., None]) -> None:
    part(1, 3)
    with pytest.raises(OutputError, match="made in 3 parts, not in 2"):
        part(2, 2)
    part(2, 3)


def test_finish_of_a_folder_that_is_no_run_is_refused(tmp_path: Path, call: Command) -> None:
    assert call("finish", tmp_path / "nothing").returncode == 2
    assert call("finish", tmp_path).returncode == 2


def test_fresh_with_a_part_is_refused(tmp_path: Path, many_rows: Path, call: Command) -> None:
    result = call("ingest", many_rows, "--out", tmp_path / "out", "--part", "1/2", "--fresh")
    assert result.returncode == 2
    assert "--fresh and --part" in result.stderr


# ---- who may write at the same time ----


@pytest.fixture
def held() -> Iterator[Callable[[Path, str], None]]:
    """`held(out, "lock")`: a live process that holds a lock of `out`."""
    runs: list[subprocess.Popen[str]] = []

    def hold(out: Path, name: str) -> None:
        code = (
            "import sys, time; from pathlib import Path; from vlm_prep.engine.lock import Lock\n"
            f"Lock('it', Path({str(out / '_work' / name)!r}), print).acquire()\n"
            "print('held', flush=True); time.sleep(60)"
        )
        run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        runs.append(run)
        assert run.stdout is not None
        assert run.stdout.readline() == "held\n"

    yield hold
    for run in runs:
        run.kill()
        run.wait()


def test_a_part_that_is_at_work_is_not_begun_twice_and_others_are(
    tmp_path: Path, part: Callable[..., None], held: Callable[[Path, str], None], call: Command
) -> None:
    part(1, 3)
    held(tmp_path / "out", "lock-00002-of-00003")
    with pytest.raises(OutputError, match=r"part 2/3 of .* is being written by process"):
        part(2, 3)
    part(3, 3)
    (tmp_path / "out" / "_work" / "parts" / "00002-of-00003").touch()
    result = call("finish", tmp_path / "out")
    assert result.returncode == 2
    assert "--part 2/3: at work; task(s) 1 missing" in result.stderr


def test_no_part_begins_while_the_whole_is_written(
    tmp_path: Path, part: Callable[..., None], held: Callable[[Path, str], None]
) -> None:
    part(1, 3)
    held(tmp_path / "out", "lock")
    with pytest.raises(OutputError, match="is being written by process"):
        part(2, 3)


def test_the_whole_is_not_written_while_a_part_is(
    tmp_path: Path, many_rows: Path, part: Callable[..., None], held: Callable[[Path, str], None], options: Options
) -> None:
    part(1, 1)
    held(tmp_path / "out", "lock-00001-of-00001")
    with pytest.raises(OutputError, match=r"part 1/1 of .* is being written by process"):
        ingest(open_samples(many_rows), IngestConfig(), options(tmp_path / "out"))


def test_looking_at_a_lock_leaves_it_to_its_owner(tmp_path: Path) -> None:
    lock = Lock("it", tmp_path / "lock", print)
    lock.must_be_free()
    lock.acquire()
    with pytest.raises(OutputError, match=f"it is being written by process {os.getpid()}"):
        Lock("it", tmp_path / "lock", print).must_be_free()
    lock.check()
    lock.release()
    assert not list(tmp_path.iterdir())


def test_a_part_does_not_touch_what_others_are_writing(tmp_path: Path, part: Callable[..., None]) -> None:
    part(1, 3)
    shards = tmp_path / "out" / "_work" / "shards"
    theirs, mine = shards / "task-000001-000.arrow.far-7.tmp", shards / "task-000002-000.arrow.far-7.tmp"
    for path in (theirs, mine):
        path.write_bytes(b"half")
    part(3, 3)
    assert theirs.exists()
    assert not mine.exists()
