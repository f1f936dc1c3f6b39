"""The samples' part of bench_stream.py: photographs and chats to the collater's output, on one core."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_tokenize import _plain_one, build_corpus, build_processor
from torch.utils.data import DataLoader

from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.processors.payload.pixels import PixelMaker
from vlm_prep.stream import PadCollate, ShardDataset
from vlm_prep.tokenize.tokenize_job import TokenizeJob
from vlm_prep.tokenize.tokenize_run import tokenize

OUT = Path("out/bench/stream")
BATCH = 4
MODES: tuple[Any, ...] = ("reference", "encoded", "pixels")
"""The payload modes that exist, from the smallest to the fastest."""


def samples(kit: Path, count: int, plain: int, mds: Callable[[Path], str]) -> None:
    """Print samples/s and tokens/s of each way.

    Args:
        kit: of photographs and processors.
        count: samples in the stores.
        plain: samples that are read where pixels are made.
        mds: reads a folder of `export` with mosaicml-streaming and returns "samples/s tokens/s", or why not.
    """
    corpus, processor = build_corpus(kit, count), build_processor(kit)
    stores = {mode: _store(corpus, processor, mode, count) for mode in MODES}
    rate, tokens = _rate(lambda: _plain(corpus, processor, plain))
    print(f"samples: {count} of the benchmark corpus, batches of {BATCH}, to the collater's output, one core")
    _line("plain way (processor in __getitem__)", rate, tokens, rate)
    text = ShardDataset(stores[MODES[0]], pixels=False)
    _line("ours, text and geometry alone", *_rate(lambda: _loaded(text)), rate)
    for mode in MODES:
        dataset = ShardDataset(stores[mode], max_rows=plain)
        _line(f"ours, --media {mode}", *_rate(partial(_loaded, dataset)), rate)
    for mode in MODES:
        coded = ShardDataset(stores[mode], pixels="bytes", max_rows=plain)
        _line(f"ours, --media {mode}, for the device", *_rate(partial(_loaded, coded)), rate)
    encoded, bytes_ = stores["encoded"], stores["pixels"]
    pixels = PixelMaker(ShardDataset(encoded).manifest.processor)
    collate = PadCollate.for_store(ShardDataset(encoded))
    for name, rows in (("HF datasets", _hf(encoded, plain)), ("webdataset", _tars(encoded))):
        way = partial(_collated, rows, pixels.pixels, collate)
        _line(f"{name}, encoded, same image processor", *_rate(way), rate)
    coder = PixelMaker(ShardDataset(bytes_).manifest.processor)
    way = partial(_collated, _hf(bytes_, plain), coder.coded, collate)
    _line("HF datasets, pixels, for the device", *_rate(way), rate)
    exported = export(bytes_)
    _line("webdataset, pixels, for the device", *_rate(partial(_exported, exported, collate)), rate)
    found = mds(exported)
    try:
        fast, tokens = (float(value) for value in found.split())
    except ValueError:
        print(f"  {'mosaicml-streaming, pixels':<40} {found}", flush=True)
    else:
        _line("mosaicml-streaming, pixels, for the device", fast, tokens, rate)


def _line(name: str, rate: float, tokens: float, plain: float) -> None:
    print(f"  {name:<40} {rate:9,.1f} samples/s {tokens:13,.0f} tokens/s   {rate / plain:8.1f}x", flush=True)


def _rate(way: Callable[[], Iterator[Any]]) -> tuple[float, float]:
    """Return samples and tokens per second of CPU time."""
    start, rows, tokens = time.process_time(), 0, 0
    for batch in way():
        rows += batch.get("documents", len(batch["input_ids"]))
        tokens += int(batch["attention_mask"].sum())
    seconds = time.process_time() - start
    return rows / seconds, tokens / seconds


def _store(corpus: Path, processor: Path, mode: Any, count: int) -> Path:
    out = OUT / f"tok-{count}-{mode}"
    if not (out / "manifest.json").exists():
        config = TokenizeConfig(media=mode, verify_fraction=0)
        tokenize(open_samples(corpus / "meta.json"), str(processor), config, RunOptions(out=out, fresh=True))
    return out


def _loaded(dataset: ShardDataset) -> Iterator[Any]:
    collate = PadCollate.for_store(dataset, shift=False)
    yield from DataLoader(dataset, batch_size=BATCH, sampler=dataset.sampler(), collate_fn=collate)


def _plain(corpus: Path, processor: Path, count: int) -> Iterator[Any]:
    """The full processor for each sample, padded and stacked."""
    read = open_samples(corpus / "meta.json")
    job = TokenizeJob(read, str(processor), TokenizeConfig(verify_fraction=0))
    job.setup()
    collate = PadCollate(shift=False)
    items = []
    for sample in read.read(0, count):
        ids, labels = _plain_one(job.encoder.adapter.hf, sample)
        items.append({"input_ids": ids, "labels": labels, "sample_id": sample.sample_id})
        if len(items) == BATCH:
            yield collate(items)
            items = []


def export(store: Path) -> Path:
    """Return a folder of tars of a store with payload `pixels`: ids, labels and bytes of each sample as .npy."""
    import webdataset

    folder = OUT / f"{store.name}-npy"
    if folder.exists():
        return folder
    partial_ = folder.with_name(f"{folder.name}-partial")
    partial_.mkdir(parents=True, exist_ok=True)
    dataset = ShardDataset(store, pixels="bytes", shuffle=False)
    with webdataset.ShardWriter(str(partial_ / "%06d.tar"), maxsize=1 << 28, verbose=0) as sink:
        for number in range(len(dataset)):
            item = dataset[number]
            arrays = {name: item[name] for name in ("input_ids", "labels")}
            if "pixel_values" in item:
                arrays["pixel_values"] = np.concatenate(item["pixel_values"].arrays)
            sink.write({"__key__": f"{number:09d}", **{f"{name}.npy": array for name, array in arrays.items()}})
    return partial_.rename(folder)


def _exported(folder: Path, collate: PadCollate) -> Iterator[dict[str, Any]]:
    import webdataset

    tars = [str(path) for path in sorted(folder.glob("*.tar"))]
    names = ("input_ids", "labels", "pixel_values")
    items: list[dict[str, Any]] = []
    for sample in webdataset.WebDataset(tars, shardshuffle=len(tars)).shuffle(16).decode():
        items.append({name: sample[f"{name}.npy"] for name in names if f"{name}.npy" in sample})
        if len(items) == BATCH:
            yield collate(items)
            items = []


def _collated(
    rows: Callable[[], Iterator[dict[str, Any]]], make: Callable[..., dict[str, Any]], collate: PadCollate
) -> Iterator[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    documents = 0
    for row in rows():
        documents += row.pop("documents", 1)
        media = row.pop("media")
        made = make(media) if media else {}
        items.append({**{name: torch.as_tensor(value) for name, value in row.items()}, **made})
        if len(items) == BATCH:
            yield {**collate(items), "documents": documents}
            items, documents = [], 0


def _hf(store: Path, count: int) -> Callable[[], Iterator[dict[str, Any]]]:
    """The same shards through Hugging Face datasets."""
    from datasets import load_from_disk

    dataset = load_from_disk(str(store))["train"].select_columns(["input_ids", "labels", "media"])
    order: Sequence[int] = torch.randperm(min(count, len(dataset)), generator=torch.Generator().manual_seed(0)).tolist()
    return lambda: (dataset[index] for index in order)


def _tars(store: Path) -> Callable[[], Iterator[dict[str, Any]]]:
    """The same rows as tars of packs, through webdataset; a batch holds more documents then."""
    import json

    import webdataset

    out = OUT / f"{store.name}-tars"
    if not (out / "manifest.json").exists():
        longest = int(ShardDataset(store).lengths().max())
        pack(store, PackConfig(pack_length=longest, format="webdataset"), RunOptions(out=out, fresh=True))
    tars = [str(path) for path in sorted(out.glob("rank_*/*.tar"))]

    def rows() -> Iterator[dict[str, Any]]:
        # all of them: packs are ordered by their pictures, so the first ones alone would be the heaviest
        for sample in webdataset.WebDataset(tars, shardshuffle=len(tars)).shuffle(64).decode():
            media = json.loads(sample["json"]["media"])
            for item in media:
                item["files"] = [
                    {**file, "bytes": sample["media.bin"][file["offset"] : file["offset"] + file["size"]]}
                    for file in item["files"]
                ]
            documents = len(sample["json"]["sample_ids"])
            ids, labels = sample["input_ids.npy"], sample["labels.npy"]
            yield {"input_ids": ids, "labels": labels, "media": media, "documents": documents}

    return rows
