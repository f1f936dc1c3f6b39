"""What a run of tokenize counted: from the records of its tasks to the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vlm_prep.core.processor_record import ProcessorRecord
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.accounts import reject_reasons, sum_counts, sum_datasets
from vlm_prep.engine.tasks import Record
from vlm_prep.ingest.source import Samples
from vlm_prep.ingest.unread_keys import UNREAD, sum_unread
from vlm_prep.shards.manifest import Manifest
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.shared import card_warning
from vlm_prep.tokenize.task_output import EXTRA_DOCUMENTS
from vlm_prep.tokenize.token_hook import CHANGED, digest_of
from vlm_prep.tokenize.tokenize_job import STAGE
from vlm_prep.tokenize.verify.choose import proof

_CARD = """# Tokenized by vlm-prep

{shared}{rows} rows, {tokens} tokens. Open it with `datasets.load_from_disk(FOLDER)` or `load_dataset(FOLDER)`; for
training use `vlm_prep.stream.ShardDataset(FOLDER)`.

- `input_ids`, `labels` (unshifted, -100 where nothing is trained), media geometry under the processor's own names
- `media`: the files, by reference, with their bytes, or as `tensors` that were made of them
- `conversation`: JSON of messages and tools
- `manifest.json`: settings, accounts, the proof of equality with the processor; `rejects.parquet`: rows not written
"""


def shapes_in(records: Sequence[Record]) -> list[str]:
    """Return the shapes of all rows."""
    return [shape for record in records for shape in record.facts.get("shapes", ())]


def describe_run(
    samples: Samples,
    config: TokenizeConfig,
    runtime: ProcessorRecord,
    added: Sequence[Counter[str]],
    records: Sequence[Record],
    splits: dict[str, list[ShardInfo]],
) -> tuple[Manifest, str]:
    """Return the manifest of a run, and the text of its data card.

    Args:
        samples: the source.
        config: settings.
        runtime: `processor` of the manifest.
        added: what was compared beside what the records tell.
        records: of all tasks.
        splits: the shards under their final names.
    """
    totals: dict[str, Any] = sum_counts(records, rows=len(samples))
    totals["rejects"] = reject_reasons(records)
    totals["datasets"] = sum_datasets(records)
    if unread := sum_unread(record.facts.get(UNREAD, {}) for record in records):
        totals[UNREAD] = unread
    kinds: Counter[str] = Counter()
    for record in records:
        kinds.update(record.facts["kinds"])
    totals["kinds"] = dict(sorted(kinds.items()))
    checked = [*(record.facts["checked"] for record in records), *added]
    proved = proof(checked, kinds, runtime, config.verify_fraction, shapes_in(records))
    proved |= proof_of_hook(config, totals)
    manifest = Manifest(
        stage=STAGE,
        config=config.to_json(),
        splits=splits,
        totals=totals,
        processor=runtime,
        proof=proved,
        extra={"datasets": samples.describe()},
    )
    return manifest, data_card(totals)


def proof_of_hook(config: TokenizeConfig, totals: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a proof says of the token_hook: its name, the digest of its source, and how many rows it changed."""
    if config.token_hook is None:
        return {}
    name, source = digest_of(config.token_hook)
    return {"token_hook": {"name": name, "source": source, "rows_changed": totals.get(CHANGED, 0)}}


def data_card(totals: Mapping[str, Any]) -> str:
    """Return the text of a store's data card."""
    rows = totals["rows_written"] + totals.get(EXTRA_DOCUMENTS, 0)
    return _CARD.format(rows=rows, tokens=totals["tokens"], shared=card_warning(totals))
