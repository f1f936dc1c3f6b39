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
    report/      stats, labels, the plan of a run
    cli/         the `vlm-prep` command

Start reading at `tokenize/tokenize_run.py` (the main job) or at `stream/dataset.py` (what training imports).
Imports go one way, in the order of the list.
"""

from __future__ import annotations

__version__ = "0.1.0"
