"""The certificate of a packed store: what a tiny model computes on some of its packs, and on their documents alone.

    packed store ─ packs ─ PackedCollate, form by form ─▶ tiny model
    tokenized store ─ their documents ─ PadCollate ─────▶ tiny model, which counts positions itself

The documents come from the tokenized store, one to a batch and without position ids, so nothing that packing adds
(order, positions, media, masks, lengths) is on both sides. What is found stands in the manifest, rounded up to powers
of ten from 1e-6 on: the last bits of float32 are the machine's, and a store is the same wherever it is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vlm_prep.certify.compare import Finding, Rows, compare_packed, run_alone
from vlm_prep.certify.kernels import FLASH
from vlm_prep.certify.tiny_model import TinyModel
from vlm_prep.core.bounds import unpacking
from vlm_prep.core.errors import InputError, ProcessorError, StoreError
from vlm_prep.core.regular_files import read_regular
from vlm_prep.pack.assemble import assemble_pack
from vlm_prep.pack.model_rule import stored_rule
from vlm_prep.pack.pack_plan import PLAN_SPLIT
from vlm_prep.processors.backbone import backbone_of, config_json
from vlm_prep.processors.model_config import config_of
from vlm_prep.shards.layout import PLAN_FILE
from vlm_prep.shards.manifest import Manifest, read_manifest
from vlm_prep.shards.object_store import StorePath, beside, store_path
from vlm_prep.shards.reader import Store
from vlm_prep.stream.collate import PadCollate
from vlm_prep.stream.collate_base import store_options
from vlm_prep.stream.dataset import ShardDataset
from vlm_prep.stream.order import EpochOrder, Order
from vlm_prep.stream.stored_rows import Rows as StoredRows
from vlm_prep.stream.stored_rows import rows_of

PACKS = 4
"""Packs that are compared: the first of several documents of each mixture of kinds of media, as many as that are."""
TOKENS = 8192
"""A longer pack is compared by its first documents of so many tokens: a mask of 32,768 tokens is 4 GB."""
_FLOOR = -6


@dataclass(frozen=True, kw_only=True)
class PacksCertificate:
    """What was found; JSON-ready, in a manifest's `extra`."""

    model: str
    """transformers' name of it."""
    layers: Mapping[str, int]
    """Of the tiny model."""
    findings: tuple[Finding, ...]
    """Differences are powers of ten that they do not exceed, 1e-6 for all that are smaller."""
    packs: int
    documents: int
    tokens: int
    """That were compared."""
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether a form keeps documents apart, and none that was tried lets them see each other."""
        verdicts = {each.verdict for each in self.findings}
        return "equal" in verdicts and verdicts <= {"equal", "refused"}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        told = {name: value for name, value in vars(self).items() if name not in ("findings", "notes", "layers")}
        findings = [each.to_json() for each in self.findings]
        more = {"layers": dict(self.layers), "notes": list(self.notes), "findings": findings}
        return {**told, **more, "passed": self.passed}


def certifier(model: Mapping[str, Any] | None, *, trust_remote_code: bool) -> Callable[[StorePath, Manifest], Any]:
    """Return what certifies packs once they are written, for `pack.pack_run`; JSON-ready.

    Args:
        model: the config of the model, as JSON.
        trust_remote_code: run the Python code of a processor that comes with some.

    Raises:
        InputError: the config is not known, or transformers has no such model.
        ProcessorError: the model cannot be made small.
    """
    TinyModel(_known(model), [])  # now, and not when all is packed
    return lambda folder, manifest: certify_packs(folder, manifest, trust_remote_code=trust_remote_code).to_json()


def _known(model: Mapping[str, Any] | None) -> Any:
    if model is None:
        raise InputError(
            "`certify` needs the model's config.json, which does not lie beside the processor", "give `model=FOLDER`"
        )
    config = config_of(model)
    if config is None:
        raise InputError(
            f"transformers has no model {model.get('model_type')}, so there is nothing to certify packs with",
            "leave `certify` out, and compare a step of your model, padded and packed, by hand",
        )
    return config


def certify_packs(
    folder: str | StorePath,
    manifest: Manifest | None = None,
    *,
    model: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> PacksCertificate:
    """Compare packs of a store with their documents alone.

    Args:
        folder: of the packs; the tokenized store must be where their manifest says.
        manifest: of packs that are not finished yet.
        model: the model's config, as JSON; None takes the one that the packs were made for.
        trust_remote_code: run the Python code of a processor that comes with some.

    Raises:
        StoreError: no packed store, one in webdataset format, or its tokenized store is gone.
        InputError: the model's config is not known.
        ProcessorError: the model cannot be made small, or does not take the documents.
    """
    folder = store_path(folder)
    manifest = manifest or read_manifest(folder, stage="pack")
    if manifest.extra.get("format") == "webdataset":
        raise StoreError(f"{folder} is in webdataset format, which no collater reads", "certify packs in arrow shards")
    config = _known(model if model is not None else manifest.processor.get("model"))
    source = beside(folder, manifest.extra["source"])
    alone = _Known(source, read_manifest(source, stage="tokenize"), trust_remote_code=trust_remote_code)
    if alone.manifest.fingerprint != manifest.extra["source_fingerprint"]:
        raise StoreError(
            f"{source} is not the tokenized store that {folder} was packed from", "restore it, or pack again"
        )
    packed = _Known(folder, manifest, trust_remote_code=trust_remote_code)
    rows, notes = _rows_of_packs(packed, len(alone)), list[str]()
    numbers = _chosen(packed, rows)
    if not numbers:
        notes.append("no pack has several documents")
        numbers = list(range(min(1, len(rows))))
    packs = [_pack(packed, alone, number, rows[number], notes) for number in numbers]
    documents = _documents(alone, [int(row) for (_, kept) in packs for row in kept])
    items = [item for item, _ in packs]
    ids = np.unique(np.concatenate([np.asarray(item["input_ids"]) for item in items]))
    tiny = TinyModel(config, ids.tolist())
    findings = _findings(tiny, documents, items, packed, notes)
    return PacksCertificate(
        model=str(config.model_type),
        layers=dict(backbone_of(tiny.config).layers),
        findings=tuple(replace(each, logits=_rounded(each.logits), loss=_rounded(each.loss)) for each in findings),
        packs=len(items),
        documents=len(documents),
        tokens=sum(len(item["input_ids"]) for item in items),
        notes=tuple(dict.fromkeys(notes)),
    )


class _Known(ShardDataset):
    """A store whose manifest may not be written yet."""

    def __init__(self, folder: StorePath, manifest: Manifest, *, trust_remote_code: bool) -> None:
        self._known = manifest
        super().__init__(folder, shuffle=False, trust_remote_code=trust_remote_code)  # type: ignore[arg-type]

    def _open(self, *, verify: bool) -> tuple[StoredRows, Order]:
        rows = rows_of(self.path, self._known, verify=verify, cache=self._cache)
        return rows, EpochOrder(rows.places, self.seed, shuffle=False)

    def row(self, number: int) -> dict[str, Any]:
        """Return a row as it is stored."""
        return self._rows.row(number)

    def item_of(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the item of a row that is in no shard."""
        made = self._make(row["media"], row["media_counts"]) if self._make is not None and row["media"] else None
        return self._item(row, dict(made or {}))


def _rows_of_packs(packed: _Known, documents: int) -> list[NDArray[np.int64]]:
    """Which rows of the tokenized store, which has so many, each pack holds.

    Raises:
        StoreError: the plan beside the packs is missing, damaged, or of another store.
    """
    if packed.manifest.extra["layout"] == "index":
        plan = Store(packed.path, split=PLAN_SPLIT, manifest=packed.manifest)
        return [np.asarray(plan.row(number)["rows"]) for number in range(len(plan))]
    try:
        data = read_regular(packed.path / PLAN_FILE)
        with unpacking(len(data)):
            table = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(["rows"], use_threads=False)
            rows = [np.asarray(each, np.int64) for each in table.column("rows").to_pylist()]
        if len(rows) != len(packed):
            raise ValueError(f"it has {len(rows)} packs, the store {len(packed)}")
        if any(((each < 0) | (each >= documents)).any() or each.ndim != 1 for each in rows):
            raise ValueError(f"it names rows that a store of {documents} has not")
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise StoreError(f"{packed.path / PLAN_FILE} is missing or damaged: {error}", "pack again") from error
    return rows


def _chosen(packed: ShardDataset, rows: Sequence[NDArray[np.int64]]) -> list[int]:
    """The packs that are compared: of each mixture of kinds of media the first, then the next of each."""
    kinds = packed.kinds()
    by_kinds: dict[int, list[int]] = {}
    for number in range(len(rows)):
        if len(rows[number]) > 1:
            by_kinds.setdefault(int(kinds[number]), []).append(number)
    rounds = [(place, numbers[place]) for numbers in by_kinds.values() for place in range(min(PACKS, len(numbers)))]
    return sorted(number for _, number in sorted(rounds)[:PACKS])


def _pack(
    packed: _Known, alone: _Known, number: int, rows: NDArray[np.int64], notes: list[str]
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """A pack as training reads it, and the rows of its documents; of a long one its first documents."""
    lengths = alone.lengths()[rows]
    kept = max(1, int(np.searchsorted(np.cumsum(lengths), TOKENS, side="right")))
    if kept == len(rows):
        return packed[number], rows
    notes.append(f"packs of more than {TOKENS} tokens were compared by their first documents")
    documents = [alone.row(int(row)) for row in rows[:kept]]
    names = [tensor["name"] for tensor in packed.manifest.processor["tensors"]]
    rule = stored_rule(packed.manifest.processor)
    return packed.item_of(assemble_pack(documents, number, rule, names)), rows[:kept]


def _documents(alone: ShardDataset, rows: Sequence[int]) -> Rows:
    """Each document as the model takes it by itself, without positions."""
    collate = PadCollate(**{**store_options(alone, {}), "shift": False, "counts": False})
    items = (alone[row] for row in dict.fromkeys(rows))
    return {str(item["sample_id"]): collate([item]) for item in items}


def _findings(
    model: TinyModel,
    documents: Rows,
    packs: Sequence[dict[str, Any]],
    packed: ShardDataset,
    notes: list[str],
) -> Iterator[Finding]:
    first, failed = run_alone(model, documents, "sdpa")
    notes += [f"{name}: the model itself does not take what its processor makes: {failed[name]}" for name in failed]
    packs = [pack for pack in packs if not failed.keys() & set(pack["sample_ids"])]
    if not packs:
        raise ProcessorError(
            f"each pack that was looked at has a document that the model does not take as its processor makes it: "
            f"{next(iter(failed.items()))}",
            "give the config.json of the model that the processor belongs to: `model=FOLDER`",
        )
    alone = {"sdpa": first}
    try:
        alone[FLASH], failed = run_alone(model, documents, FLASH)
        if failed:
            del alone[FLASH]
            notes.append(f"{FLASH}: {next(iter(failed.items()))}")
    except ProcessorError as error:  # a model that does not run this attention at all
        notes.append(f"{FLASH}: {error.message}")
    mrope = packed.manifest.processor.get("mrope") is not None
    options = {**store_options(packed, {}), "mrope": mrope}
    yield from compare_packed(model, alone, [[pack] for pack in packs], config_json(model.config), options)


def _rounded(value: float | None) -> float | None:
    """A power of ten that is at least the value; not less than float32 leaves open."""
    if value is None or not math.isfinite(value):
        return value
    power = _FLOOR if value <= 10.0**_FLOOR else math.ceil(math.log10(value) - 1e-9)
    return float(f"1e{power}")
