"""What a model's layers that carry state are told documents by, read from its source.

State-space layers, linear attention and short convolutions run kernels, and a kernel that is not told where a document
ends carries its state on into the next one without a word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_KERNEL = re.compile(r'use_kernel_func_from_hub_with_fallback\("(\w+)"')
_TOLD_BY_SEQ_IDX = {"causal_conv1d_fn", "mamba_chunk_scan_combined", "mamba_split_conv1d_scan_combined"}
"""Kernels of causal-conv1d and mamba-ssm that take `seq_idx`."""
_TOLD_BY_LENGTHS = {"chunk_gated_delta_rule", "chunk_kda"}
"""Kernels of flash-linear-attention that take `cu_seqlens`."""
_PASSED = "cu_seqlens=kwargs"
"""How a module hands the lengths of a batch to such a kernel, which knows them under another name."""
_NEVER_TOLD = {"selective_scan_fn", "mamba_inner_fn"}
"""Mamba-1's, which know of one sequence only."""
_STATEFUL = re.compile(r"class \w*(?:Rwkv|xLSTM|Mamba|RecurrentBlock|ShortConv|DeltaNet)\w*\(")
SEQ_IDX, LENGTHS = "seq_idx", "cu_seq_lens_q"


def has_state(source: str) -> bool:
    """Whether layers of a model's source carry state."""
    marks = (_KERNEL, _STATEFUL)
    return "create_recurrent_attention_mask" in source or any(mark.search(source) for mark in marks)


def told_by(source: str) -> tuple[str, ...]:
    """Return by what their kernels are told where a document ends: `SEQ_IDX`, `LENGTHS`."""
    kernels = set(_KERNEL.findall(source))
    reads = [SEQ_IDX] if kernels & _TOLD_BY_SEQ_IDX else []
    return tuple(reads + ([LENGTHS] if kernels & _TOLD_BY_LENGTHS and _PASSED in source else []))


def never_told(source: str, state: Sequence[str]) -> str | None:
    """Say why state of these kinds of layers crosses documents whatever a batch holds; None if it need not."""
    kernels = set(_KERNEL.findall(source))
    scans = kernels & (_TOLD_BY_SEQ_IDX | _TOLD_BY_LENGTHS) - {"causal_conv1d_fn"}
    deaf = bool(kernels & _NEVER_TOLD) or bool(kernels & _TOLD_BY_LENGTHS and _PASSED not in source)
    alone = set(state) <= {"conv"} and "causal_conv1d_fn" in kernels
    if not deaf and (scans or alone):
        return None
    return f"has {', '.join(state)} layers, which carry state from one document into the next whatever a batch says"
