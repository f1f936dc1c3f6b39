"""vlm-prep: raw multimodal chats in, training-ready shards out; exact, and before the GPUs are rented.

The flow, one noun a step, one folder a step:

    source rows ──ingest──▶ Sample ──tokenize──▶ Encoded ──pack──▶ Pack ──stream──▶ batch

    core/        the nouns, errors and reject codes, settings, fingerprint; imported by all
    builtin/     a small real processor and data set, for the demo and the tests
    shards/      Arrow schema, writer, reader, manifest
    engine/      deterministic tasks, worker processes, commits
    media/       headers and content of pictures, videos and audio, by path, LMDB key or place in a data file
    ingest/      meta JSON, ShareGPT, messages, alpaca, asr; JSON, Parquet, Arrow → Sample
    processors/  model families over a Hugging Face processor
    tokenize/    render, encode, expand placeholders, label, cut to length, prove → Encoded
    pack/        best-fit-decreasing bins, per-rank packs, mRoPE positions → Pack
    stream/      the runtime: dataset, order, collaters
    certify/     what a model computes on our batches, and on the processor's own rows
    trainers/    other projects' trainers over our stores
    report/      stats, labels, the plan of a run
    cli/         the `vlm-prep` command

In Python (`import vlm_prep as vp`) the steps are functions, `__all__` names them; each has an example:

    samples = vp.open_samples("data/meta.json")
    vp.tokenize(samples, "Qwen/Qwen2.5-VL-7B-Instruct", vp.TokenizeConfig(), vp.RunOptions(out=Path("out/tok")))
    vp.pack("out/tok", vp.PackConfig(pack_length=8192), vp.RunOptions(out=Path("out/packed")))
    rows = vp.ShardDataset("out/packed", rank=0, world_size=8)

Start reading at `tokenize/tokenize_run.py` (the main job) or at `stream/dataset.py` (what training imports).
Imports go one way, in the order of the list.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from vlm_prep.core.errors import VlmPrepError as VlmPrepError
    from vlm_prep.core.pack_settings import PackConfig as PackConfig
    from vlm_prep.core.settings import IngestConfig as IngestConfig
    from vlm_prep.core.settings import SourceConfig as SourceConfig
    from vlm_prep.core.settings import TokenizeConfig as TokenizeConfig
    from vlm_prep.engine.stage import RunOptions as RunOptions
    from vlm_prep.ingest.ingest_run import ingest as ingest
    from vlm_prep.ingest.source import open_samples as open_samples
    from vlm_prep.pack.pack_run import pack as pack
    from vlm_prep.report.plan.planning import Choices as Choices
    from vlm_prep.report.plan.planning import plan as plan
    from vlm_prep.report.statistics import collect
    from vlm_prep.shards.layout import read_rejects as read_rejects
    from vlm_prep.stream.budget import TokenBudget as TokenBudget
    from vlm_prep.stream.collate import PackedCollate as PackedCollate
    from vlm_prep.stream.collate import PadCollate as PadCollate
    from vlm_prep.stream.dataset import ShardDataset as ShardDataset
    from vlm_prep.stream.mixture import MixedDataset as MixedDataset
    from vlm_prep.tokenize.tokenize_run import tokenize as tokenize
    from vlm_prep.tokenize.verify.store import check_store

    stats, verify = collect, check_store

__version__ = "0.1.0"

_EXPORTS: Final[dict[str, tuple[str, str | None]]] = {
    "Choices": ("report.plan.planning", "Choices"),
    "IngestConfig": ("core.settings", "IngestConfig"),
    "MixedDataset": ("stream.mixture", "MixedDataset"),
    "PackConfig": ("core.pack_settings", "PackConfig"),
    "PackedCollate": ("stream.collate", "PackedCollate"),
    "PadCollate": ("stream.collate", "PadCollate"),
    "RunOptions": ("engine.stage", "RunOptions"),
    "ShardDataset": ("stream.dataset", "ShardDataset"),
    "SourceConfig": ("core.settings", "SourceConfig"),
    "TokenBudget": ("stream.budget", "TokenBudget"),
    "TokenizeConfig": ("core.settings", "TokenizeConfig"),
    "VlmPrepError": ("core.errors", "VlmPrepError"),
    "ingest": ("ingest", None),
    "open_samples": ("ingest.source", "open_samples"),
    "pack": ("pack", None),
    "plan": ("report.plan.planning", "plan"),
    "read_rejects": ("shards.layout", "read_rejects"),
    "stats": ("report.statistics", "collect"),
    "tokenize": ("tokenize", None),
    "verify": ("tokenize.verify.store", "check_store"),
}
"""Name → (module, name in it), imported when first asked for; None: the package itself, which is callable."""

__all__ = [*sorted(_EXPORTS), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _EXPORTS[name]
    found = importlib.import_module(f"{__name__}.{module}")
    value = found if attribute is None else getattr(found, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
