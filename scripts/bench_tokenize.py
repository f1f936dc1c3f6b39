"""Compare `tokenize` with the plain way (the full Hugging Face processor per sample, with labels), on one core.

Everything is measured in one process pinned to one core, after the processor is loaded: the plain way over all
samples, then `tokenize --media reference`, `encoded` and `pixels` as a worker does them (read rows, probe media,
encode, label, make tensors, write and fsync shards), a first pass with cold caches and then the median of three.
Verification is switched off for these rates, because it is the plain way, on a chosen share of rows; the last line is
the whole command with its defaults, start-up, imports and verification included. Ids and labels of all samples are
compared with the plain way's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np

OUT = Path("out/bench")
PICTURES = 400
"""Samples that payload `pixels` is measured on: it writes 3 MB for each."""
PASSES = 3
TURN, TURNS = 20, 20


def main() -> None:
    """Build the corpus, measure, compare, print."""
    arguments = _arguments()
    corpus, processor = build_corpus(arguments.kit, arguments.samples), build_processor(arguments.kit)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    from vlm_prep.core.settings import TokenizeConfig
    from vlm_prep.ingest.source import open_samples
    from vlm_prep.tokenize.tokenize_job import TokenizeJob

    samples = open_samples(corpus / "meta.json")
    job = TokenizeJob(samples, str(processor), TokenizeConfig(verify_fraction=0))
    job.setup()
    count = min(arguments.plain or len(samples), len(samples))
    plain_rate, plain = _plain(job, count)
    print(f"one core, {len(samples)} samples, {_images(corpus)} images; text by {job.encoder.text.implementation}")
    print(f"plain way (full processor, labels): {plain_rate:.1f} samples/s over {count} samples")
    for media, most in (("reference", None), ("encoded", None), ("pixels", PICTURES)):
        first, steady = _ours(job, media, most)
        print(
            f"tokenize --media {media:<10} {steady:,.0f} samples/s, {steady / plain_rate:.0f}x the plain way "
            f"(first pass, cold caches: {first:,.0f}/s, {first / plain_rate:.0f}x)"
        )
    _print_making(job)
    same_ids, same_labels = _compare(job, plain)
    print(f"identical to the plain way: ids {same_ids} of {count}, labels {same_labels} of {count}")
    if same_ids < count:
        sys.exit("ids differ from the real processor's")
    _whole_command(corpus, processor, len(samples))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, default=Path("../shared/kit"), help="folder of real processors and photos")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--plain", type=int, default=0, help="samples for the plain way (0: all)")
    return parser.parse_args()


def build_corpus(kit: Path, samples: int) -> Path:
    """Return the folder of a corpus of real photographs and instructions, building it the first time."""
    script = kit / "bench" / "make_corpus.py"
    if not script.exists():
        sys.exit(f"{kit}: the benchmark builds its corpus with the kit's bench/make_corpus.py; none is there")
    corpus = OUT / f"corpus-{samples}"
    if not (corpus / "meta.json").exists():
        print(f"building {corpus} ...", flush=True)
        subprocess.run([sys.executable, str(script), str(corpus), "--samples", str(samples)], check=True)
    return corpus


def build_processor(kit: Path) -> Path:
    """Return the folder of Qwen2.5-VL's processor, assembling it the first time."""
    folder = OUT / "procs"
    if not (folder / "qwen2_5_vl").exists():
        script = kit / "processors" / "assemble.py"
        subprocess.run([sys.executable, str(script), str(folder), "qwen2_5_vl"], check=True, stdout=subprocess.DEVNULL)
    return folder / "qwen2_5_vl"


def _images(corpus: Path) -> int:
    return sum(1 for _ in (corpus / "media").iterdir())


def plain_rate(processor: Path, corpus: Path, count: int) -> float:
    """Return the samples/s of the plain way over the first `count` samples."""
    from vlm_prep.core.settings import TokenizeConfig
    from vlm_prep.ingest.source import open_samples
    from vlm_prep.tokenize.tokenize_job import TokenizeJob

    job = TokenizeJob(open_samples(corpus / "meta.json", limit=count), str(processor), TokenizeConfig())
    job.setup()
    return _plain(job, len(job.samples))[0]


def _plain(job: Any, count: int) -> tuple[float, list[tuple[Any, Any]]]:
    """Run what a trainer's collate does; return samples/s and (ids, labels) of each sample."""
    samples = list(job.samples.read(0, count))
    _plain_one(job.encoder.adapter.hf, samples[0])
    start = time.perf_counter()
    results = [_plain_one(job.encoder.adapter.hf, sample) for sample in samples]
    return count / (time.perf_counter() - start), results


def _plain_one(processor: Any, sample: Any) -> tuple[Any, Any]:
    from PIL import Image

    pictures = iter([Image.open(media.uris[0]).convert("RGB") for media in sample.media])
    messages = [
        {
            "role": message["role"],
            "content": [
                {"type": "image", "image": next(pictures)} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in sample.messages
    ]
    output = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    ids = output["input_ids"][0].numpy()
    return ids, _marker_labels(processor.tokenizer, ids)


def _marker_labels(tokenizer: Any, ids: Any) -> Any:
    """Label as trainers do: from each assistant header to the next <|im_end|>, by searching ids."""
    start = [tokenizer.convert_tokens_to_ids("<|im_start|>"), *tokenizer.encode("assistant\n")]
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    labels = np.full_like(ids, -100)
    for position in np.flatnonzero(ids == start[0]):
        if list(ids[position : position + len(start)]) == start:
            first = position + len(start)
            last = first + int(np.flatnonzero(ids[first:] == stop)[0]) + 1
            labels[first:last] = ids[first:last]
    return labels


def _ours(job: Any, media: str, most: int | None) -> tuple[float, float]:
    """Return samples/s of the first pass and the median of the later ones, over `most` samples at most."""
    from dataclasses import replace

    from vlm_prep.ingest.source import open_samples
    from vlm_prep.tokenize.tokenize_job import TokenizeJob

    samples = open_samples(job.samples.origin["path"], limit=most) if most else job.samples
    fresh = TokenizeJob(samples, job.processor, replace(job.config, media=media))
    fresh.setup(job.encoder.adapter.loaded)
    rates = [_pass(fresh) for _ in range(1 + PASSES)]
    return rates[0], statistics.median(rates[1:])


def _pass(job: Any) -> float:
    from vlm_prep.engine.local import InProcessExecutor
    from vlm_prep.engine.tasks import Assignment, rows_per_task, split_rows

    folder = OUT / "shards"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    total = len(job.samples)
    start = time.perf_counter()
    assignments = [Assignment(task=task, folder=folder) for task in split_rows(total, rows_per_task(total))]
    with InProcessExecutor(job) as executor:
        executor.run(assignments, lambda assignment, result: None, lambda rows, tokens, rejects: None)
    elapsed = time.perf_counter() - start
    shutil.rmtree(folder)
    return total / elapsed


def _print_making(job: Any) -> None:
    """Print how much faster pixels are made than by the full processor, nothing written, in turns of a few samples.

    Per CPU time of this process: a machine that others use gives half as much from one second to the next, but to both.
    """
    from dataclasses import replace

    from vlm_prep.tokenize.tokenize_job import TokenizeJob

    jobs = {}
    for name, media in (("whole", "pixels"), ("alone", "pixels"), ("encoded", "encoded")):
        jobs[name] = TokenizeJob(job.samples, job.processor, replace(job.config, media=media))
        jobs[name].setup(job.encoder.adapter.loaded)
    ratios = [_turn(job, jobs, start) for start in range(0, min(len(job.samples), TURNS * TURN) - TURN + 1, TURN)]
    print(f"making pixels against the full processor, per CPU time, {TURN} samples a turn:")
    for name, values in zip(("payload alone", "payload, tokens and labels"), zip(*ratios, strict=True), strict=True):
        low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
        print(f"  {name:<28} {median:.1f}x, median of {len(values)} turns (quartiles {low:.1f} to {high:.1f})")


def _turn(job: Any, jobs: Any, start: int) -> tuple[float, float]:

    samples = list(job.samples.read(start, start + TURN))
    made = jobs["encoded"].results(start, start + TURN)
    media = [list(encoded.media) for encoded in made]
    plain = _seconds(lambda: [_plain_one(job.encoder.adapter.hf, sample) for sample in samples])
    alone = _seconds(lambda: [jobs["alone"].maker.tensors(structs) for structs in media])
    return plain / alone, plain / _seconds(lambda: list(jobs["whole"].results(start, start + TURN)))


def _seconds(do: Callable[[], object]) -> float:
    start = time.process_time()
    do()
    return time.process_time() - start


def _compare(job: Any, plain: list[tuple[Any, Any]]) -> tuple[int, int]:
    same_ids = same_labels = 0
    for (ids, labels), encoded in zip(plain, _encoded(job, len(plain)), strict=True):
        same_ids += np.array_equal(ids, encoded.input_ids)
        same_labels += np.array_equal(labels, encoded.labels)
    return same_ids, same_labels


def _encoded(job: Any, count: int) -> Iterator[Any]:
    yield from job.results(0, count)


def _whole_command(corpus: Path, processor: Path, count: int) -> None:
    for media in ("reference", "encoded"):
        command = [sys.executable, "-m", "vlm_prep.cli.main", "tokenize", str(corpus / "meta.json"), "--media", media]
        command += ["--processor", str(processor), "--out", str(OUT / "tok"), "--fresh", "--workers", "1", "--quiet"]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        elapsed = time.perf_counter() - start
        print(
            f"whole command, --media {media}, imports, loading and verification of 1 % included: "
            f"{elapsed:.1f} s, {count / elapsed:.0f} samples/s"
        )


if __name__ == "__main__":
    main()
