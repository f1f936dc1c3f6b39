"""vlm-prep: raw multimodal chats in, training-ready shards out; exact, and before the GPUs are rented.

The flow, one noun a step, one folder a step:

    source rows ──ingest──▶ Sample ──tokenize──▶ Encoded ──pack──▶ Pack ──stream──▶ batch

    core/        the nouns, errors and reject codes, fingerprint; imported by all
    ingest/      meta JSON, ShareGPT, messages, alpaca → Sample
    media/       headers and pixels of pictures and videos, by path or LMDB key
    processors/  one module per model family over a Hugging Face processor
    tokenize/    render, encode, expand placeholders, label, cut to length → Encoded
    pack/        best-fit-decreasing bins, per-rank packs, mRoPE positions → Pack
    shards/      Arrow schema, writer, reader, manifest
    engine/      deterministic tasks, worker processes, commits
    stream/      the runtime: dataset, order, collaters, pixels
    report/      stats
    cli/         the `vlm-prep` command

Start reading at `tokenize/run.py` (the main job) or at `stream/dataset.py` (what training imports).
Imports go one way, in the order of the list.
"""

from __future__ import annotations

__version__ = "0.1.0"
