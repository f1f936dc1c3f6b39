"""What `soak_commands.py` disturbs: every command that writes, on stores of a few rows."""

from __future__ import annotations

import contextlib
import io
import shutil
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from PIL import Image
from soak import tree

from vlm_prep.cli import options as cli_options
from vlm_prep.core.errors import StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import IngestConfig, TokenizeConfig
from vlm_prep.engine.array_parts import Part
from vlm_prep.engine.retry_rejects import settle
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.gather.gather_free import free, unused
from vlm_prep.ingest.gather.gather_run import gather
from vlm_prep.ingest.ingest_run import ingest, retry_ingest
from vlm_prep.ingest.source import Samples, open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.shards.store_check import damaged_files
from vlm_prep.shards.store_names import ROWS_FILE
from vlm_prep.shards.transfer import pull, push
from vlm_prep.tokenize.merge_run import merge
from vlm_prep.tokenize.tokenize_run import retry_tokenize, tokenize
from vlm_prep.tokenize.update_run import update
from vlm_prep.trainers.exporting import Target, export

PROCESSOR = "builtin:qwen2.5-vl-mini"
ROWS = 12

Step = Callable[[Path], object]


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command and what it is to leave."""

    steps: Sequence[Step]
    begin: Step = lambda out: None
    """Makes what it starts from."""
    made: Callable[[Path], dict[str, str]] = tree
    look: Callable[[Path], None] = lambda out: None
    """Raises if what is there is neither nothing nor whole."""
    shares: bool = True
    """Whether another host may take it over."""


def write_rows(folder: Path, *, missing: bool) -> Path:
    """Write rows with tiny pictures; with `missing` some of the pictures are not there."""
    folder.mkdir(parents=True)
    rows = []
    for number in range(ROWS):
        turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": f"Thing {number}."}]
        rows.append({"messages": turns, "images": [f"{number}.png"]})
        if not (missing and number in (2, 5, 7)) and number != 9:
            Image.new("RGB", (28 + number, 28), (number * 20, 0, 90)).save(folder / f"{number}.png")
    (folder / "rows.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return folder / "rows.jsonl"


def options(out: Path, **settings: Any) -> RunOptions:
    """Return how a stage runs: in this process, silent."""
    return RunOptions(out=out, workers=0, progress=False, max_reject_rate=1.0, say=lambda line: None, **settings)


def whole_or_nothing(out: Path) -> None:
    """See that a folder holds no store or a whole one."""
    if (out / "manifest.json").exists():
        Store(out, verify=True)
        return
    with contextlib.suppress(StoreError):
        Store(out)
        raise AssertionError(f"{out} opens without a manifest")


def commands_of(base: Path, bucket: str | None) -> dict[str, Command]:
    """Return the commands, with what they start from in `base`."""
    rows = write_rows(base / "rows", missing=False)
    samples = open_samples(rows)
    found: dict[str, Command] = {}

    def add(name: str, *steps: Step, **more: Any) -> None:
        found[name] = Command(steps=steps, **{"look": whole_or_nothing, **more})

    add("ingest", lambda out: ingest(samples, IngestConfig(), options(out)))
    for media in ("reference", "encoded", "pixels"):
        settings = TokenizeConfig(media=media, max_image_pixels=10**6)
        add(f"tokenize {media}", partial(_tokenize, samples, settings))
    made = base / "tokenized"
    _tokenize(samples, TokenizeConfig(media="encoded", max_image_pixels=10**6), made)
    ranks = PackConfig(pack_length=64, world_size=2)
    for name, packed in (
        ("ranks", ranks),
        ("index", replace(ranks, layout="index")),
        ("tars", replace(ranks, format="webdataset")),
    ):
        add(f"pack {name}", partial(_pack, made, packed))
    add("pack again", partial(_fresh_pack, made, ranks), begin=partial(_pack, made, PackConfig(pack_length=128)))
    _add_parts(add, samples)
    _add_retries(add, base)
    _add_updates(add, base)
    _add_joins(add, base, made, ranks)
    _add_exports(add, base, made)
    _add_media_stores(add, base, samples)
    page = partial(_view, made)
    add("view", page, begin=_folder, look=_whole_page, shares=False)
    _add_copies(add, made, bucket or f"file://{base}/bucket")
    return found


def _tokenize(samples: Samples, config: TokenizeConfig, out: Path) -> None:
    tokenize(samples, PROCESSOR, config, options(out))


def _pack(source: Path, config: PackConfig, out: Path) -> None:
    pack(source, config, options(out))


def _fresh_pack(source: Path, config: PackConfig, out: Path) -> None:
    pack(source, config, options(out, fresh=True))


def _add_parts(add: Callable[..., None], samples: Samples) -> None:
    def steps(run: Callable[[RunOptions], object]) -> list[Step]:
        parts = [lambda out, number=number: run(options(out, part=Part(number=number, count=2))) for number in (1, 2)]
        return [*parts, lambda out: run(options(out))]

    settings = TokenizeConfig(max_image_pixels=10**6)
    add("parts, finish: ingest", *steps(lambda how: ingest(samples, IngestConfig(), how)), shares=False)
    add("parts, finish: tokenize", *steps(lambda how: tokenize(samples, PROCESSOR, settings, how)), shares=False)


def _add_retries(add: Callable[..., None], base: Path) -> None:
    rows = write_rows(base / "repaired", missing=True)
    ingest(open_samples(rows), IngestConfig(), options(base / "ingest-before"))
    tokenize(open_samples(rows), PROCESSOR, TokenizeConfig(max_image_pixels=10**6), options(base / "tokenize-before"))
    for number in (2, 5, 7):
        Image.new("RGB", (40, 28), (0, number, 0)).save(rows.parent / f"{number}.png")
    samples, reasons = open_samples(rows), ["missing_file"]

    def again(run: Callable[[RunOptions], object], out: Path) -> None:
        if not settle(out, lambda line: None):
            run(options(out))

    ingested = partial(again, lambda how: retry_ingest(samples, reasons, how))
    tokenized = partial(again, lambda how: retry_tokenize(samples, PROCESSOR, reasons, how))
    for stage, work in (("ingest", ingested), ("tokenize", tokenized)):
        start = base / f"{stage}-before"
        add(f"retry {stage}", work, begin=lambda out, start=start: shutil.copytree(start, out))


def _folder(out: Path) -> None:
    out.mkdir(exist_ok=True)


def _other_rows(source: Path) -> None:
    """Change, add and take away rows of a source, and change a picture."""
    first, second, *rest = source.read_bytes().splitlines(keepends=True)
    source.write_bytes(b"".join([first, *rest[1:], second.replace(b"What?", b"Where?"), rest[0].replace(b"3", b"4")]))
    Image.new("RGB", (44, 28), (0, 90, 90)).save(source.parent / "4.png")


def _add_updates(add: Callable[..., None], base: Path) -> None:
    config, job = TokenizeConfig(media="encoded", max_image_pixels=10**6), base / "job-before"
    source = write_rows(base / "updated", missing=False)
    _tokenize(open_samples(source), config, base / "update-before")
    job.mkdir()
    _write_job(source, job)
    _run_job(job)
    _other_rows(source)
    samples = open_samples(source)

    def begin_job(out: Path) -> None:
        shutil.copytree(job, out)
        _write_job(source, out)

    def made(out: Path) -> dict[str, str]:
        # the place of the tokenized store is another in each round
        return {
            name: digest for name, digest in tree(out).items() if name not in ("job.yaml", "made/packed/origin.json")
        }

    def look(out: Path) -> None:
        for stage in ("tokenized", "packed"):
            if (out / "made" / stage).exists():
                whole_or_nothing(out / "made" / stage)

    add(
        "tokenize --update",
        lambda out: update(samples, PROCESSOR, config, options(out)),
        begin=lambda out: shutil.copytree(base / "update-before", out),
    )
    add("run --update", partial(_run_job, update=True), begin=begin_job, made=made, look=look)


def _write_job(source: Path, out: Path) -> None:
    tokenized = {"processor": PROCESSOR, "media": "encoded", "max_image_pixels": 10**6, "max_reject_rate": 1.0}
    sections = {"tokenize": tokenized, "pack": {"pack_length": 64, "world_size": 2}}
    (out / "job.yaml").write_bytes(orjson.dumps({"source": str(source), "out": str(out / "made"), **sections}))


def _run_job(out: Path, *, update: bool = False) -> None:
    """Run a job in this process, not in workers of it."""
    from vlm_prep.cli.main import app

    usual = cli_options.run_options
    cli_options.run_options = lambda *how: replace(usual(*how), workers=0, say=lambda line: None)
    line = ["run", str(out / "job.yaml"), "--quiet", *(["--update"] if update else [])]
    with contextlib.redirect_stdout(io.StringIO()):
        app(line, standalone_mode=False)


def _add_joins(add: Callable[..., None], base: Path, made: Path, packed: PackConfig) -> None:
    """Merge, and pack of a mix."""
    config = TokenizeConfig(media="encoded", max_image_pixels=10**6)
    other = base / "tokenized-too"
    _tokenize(open_samples(write_rows(base / "more", missing=True)), config, other)
    add("merge", lambda out: merge([made, other], options(out)))
    mix = base / "mix.yaml"
    mix.write_bytes(orjson.dumps({"stores": [{"store": str(made), "weight": 2}, {"store": str(other), "weight": 1}]}))
    add("pack mix", partial(_pack, mix, packed))


def _sound_media(out: Path) -> None:
    if (out / "manifest.json").exists() and (found := damaged_files(out, read_manifest(out))):
        raise AssertionError(f"{found}")


def _add_media_stores(add: Callable[..., None], base: Path, samples: Samples) -> None:
    """Gather media files, and give back what nothing refers to."""
    ingested, media = base / "to-gather", base / "gathered"
    ingest(samples, IngestConfig(), options(ingested))
    gather([ingested], options(media))
    few = base / "rows" / "few.jsonl"
    few.write_bytes(b"".join((base / "rows" / "rows.jsonl").read_bytes().splitlines(keepends=True)[:3]))

    def give_back(out: Path) -> None:
        uses = base / f"uses-{out.name}"
        if not (uses / "manifest.json").exists():
            ingest(open_samples(few), IngestConfig(media_store=[str(out)]), options(uses))
        if (found := unused(out, [uses])).contents:
            free(out, found)

    def begin(out: Path) -> None:
        shutil.copytree(media, out)

    add("gather", lambda out: gather([ingested], options(out)), look=_sound_media)
    add("gc", give_back, begin=begin, look=lambda out: None, shares=False)  # a kill in it is made good by the next one


def _add_exports(add: Callable[..., None], base: Path, store: Path) -> None:
    for target in typing.get_args(Target)[:3]:  # the fourth takes text alone
        export(store, target, base / f"exported-{target}")
        whole = tree(base / f"exported-{target}")

        def look(out: Path, whole: dict[str, str] = whole) -> None:
            if (out / "there").exists() and tree(out / "there") != whole:
                raise AssertionError(f"{out / 'there'} is there and not whole")

        add(f"export {target}", partial(_export, store, target), begin=_folder, look=look, shares=False)


def _export(store: Path, target: Target, out: Path) -> None:
    if not (out / "there").exists():  # what is there is whole, and export refuses to write over it
        export(store, target, out / "there")


def _view(store: Path, out: Path) -> None:
    from vlm_prep.cli.main import app

    app(["view", str(store), "--out", str(out / "page.html"), "--quiet"], standalone_mode=False)


def _whole_page(out: Path) -> None:
    page = out / "page.html"
    if page.exists() and not page.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        raise AssertionError(f"{page} is cut")


def _add_copies(add: Callable[..., None], store: Path, bucket: str) -> None:
    def place(out: Path) -> str:
        return f"{bucket}/{out.name}"

    def there(out: Path) -> dict[str, str]:
        import fsspec

        files, root = fsspec.url_to_fs(place(out), use_listings_cache=False)
        shutil.rmtree(out, ignore_errors=True)
        for path in files.find(root) if files.exists(root) else ():
            target = out / path.removeprefix(f"{root}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(files.cat_file(path))
        return tree(out)

    def look(out: Path) -> None:
        found = there(out)
        if "manifest.json" in found and found != whole:
            raise AssertionError(f"{place(out)} has a manifest and is not whole")
        shutil.rmtree(out, ignore_errors=True)

    whole = {name: digest for name, digest in tree(store).items() if name != ROWS_FILE}  # which stays here
    push(store, f"{bucket}/there", lambda line: None)
    add("push", lambda out: push(store, place(out), lambda line: None), made=there, look=look, shares=False)
    add("pull", lambda out: pull(f"{bucket}/there", out, lambda line: None), shares=False)
