"""What fast kernels compute, on the CPU: flash attention over runs of tokens, and state that ends with a document.

transformers has no way to run these forms without the packages of the kernels (flash-attn, mamba-ssm, causal-conv1d,
flash-linear-attention), which need a GPU, and refuses to. What a batch must tell them can be checked all the same: here
each kernel is replaced by transformers' own slow function, run on one document at a time, cut where the batch says.
A tensor that does not reach its layer, or says something else, shows as a difference.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

FLASH = "flash_attention_2"
_CONV, _SCAN, _FUSED = "causal_conv1d_fn", "mamba2_chunk_scan", "mamba2_split_conv1d_scan_combined"
_DELTA = ("torch_chunk_gated_delta_rule", "torch_chunk_kda")
_TOKENS_OF = {_SCAN: (0, 1, 3, 4), "delta": (0, 1, 2)}


@contextmanager
def reference_kernels(model: Any) -> Iterator[None]:
    """Run a model's attention as flash attention, and its stateful layers by the documents that a batch tells."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    flash = ALL_ATTENTION_FUNCTIONS[FLASH]
    ALL_ATTENTION_FUNCTIONS[FLASH] = flash_attention
    changed: list[tuple[Any, str, Any]] = []
    names = {type(module).__module__ for module in model.modules()}
    for module in [sys.modules[name] for name in sorted(names) if name.startswith("transformers.models.")]:
        for name, wrap in _WRAPPED.items():
            if hasattr(module, name):
                changed.append((module, name, getattr(module, name)))
                setattr(module, name, wrap(getattr(module, name)))
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS[FLASH] = flash
        for module, name, function in changed:
            setattr(module, name, function)


def flash_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    s_aux: torch.Tensor | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Return attention (batch, tokens, heads, width) as flash attention's kernels compute it.

    Args:
        module: the layer.
        query: (batch, heads, tokens, width), as are key and value, with fewer heads perhaps.
        key: see query.
        value: see query.
        attention_mask: int or bool (batch, tokens): padding; or None.
        scaling: of scores.
        sliding_window: tokens that are seen back, the token itself included.
        softcap: of scores.
        is_causal: None takes the layer's.
        s_aux: a score for each head that takes its share of the weight, and gives no value (an attention sink).
        cu_seq_lens_q: boundaries of runs over the flattened batch.
        others: of no meaning here.
    """
    import torch

    batch, heads, length, width = query.shape
    repeats = heads // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    edges = [length * row for row in range(batch + 1)]
    if cu_seq_lens_q is not None:
        edges = cu_seq_lens_q.tolist()
    attended = attention_mask.reshape(-1).bool() if attention_mask is not None else None
    flat = [each.transpose(1, 2).reshape(batch * length, heads, -1).transpose(0, 1) for each in (query, key, value)]
    made = torch.zeros(heads, batch * length, flat[2].shape[-1])
    scale = scaling if scaling is not None else width**-0.5
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    for start, stop in itertools.pairwise(edges):  # the whole at once would be as large as all runs squared
        places = torch.arange(start, stop)
        seen = torch.ones(stop - start, stop - start, dtype=torch.bool)
        if attended is not None:
            seen &= attended[None, start:stop]
        if causal:
            seen &= places[:, None] >= places[None, :]
        if sliding_window is not None:
            seen &= places[:, None] - places[None, :] < sliding_window
        seen |= torch.eye(len(places), dtype=torch.bool)
        of_q, of_k, of_v = (each[:, start:stop] for each in flat)
        if softcap is None and s_aux is None:  # the same, without the scores of all heads in memory
            attend = torch.nn.functional.scaled_dot_product_attention
            made[:, start:stop] = attend(of_q, of_k, of_v, attn_mask=seen, scale=scale)
            continue
        scores = of_q @ of_k.transpose(1, 2) * scale
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores = scores.masked_fill(~seen, float("-inf"))
        if s_aux is not None:
            scores = torch.cat([scores, s_aux.reshape(heads, 1, 1).expand(heads, stop - start, 1)], -1)
        made[:, start:stop] = scores.softmax(-1)[..., : stop - start] @ of_v
    return made.transpose(0, 1).reshape(batch, length, heads, -1).contiguous(), None


def _runs(index: torch.Tensor) -> list[tuple[int, int]]:
    """The stretches of equal numbers in one row."""
    edges = (index.diff() != 0).nonzero().flatten() + 1
    starts = [0, *edges.tolist()]
    return list(zip(starts, [*starts[1:], len(index)], strict=True))


def _conv(function: Callable[..., Any]) -> Callable[..., Any]:
    def by_document(hidden: torch.Tensor, *args: Any, seq_idx: Any = None, **kwargs: Any) -> Any:
        import torch

        kwargs.pop("cu_seqlens", None)
        if seq_idx is None:
            return function(hidden, *args, **kwargs)
        rows = [
            torch.cat([function(hidden[row : row + 1, :, a:b], *args, **kwargs) for a, b in _runs(seq_idx[row])], -1)
            for row in range(len(hidden))
        ]
        return torch.cat(rows)

    return by_document


def _scan(function: Callable[..., Any]) -> Callable[..., Any]:
    def by_document(*args: Any, seq_idx: Any = None, **kwargs: Any) -> Any:
        import torch

        if seq_idx is None:
            return function(*args, **kwargs)
        rows = []
        for row in range(len(args[0])):
            made = [_cut(function, args, kwargs, _TOKENS_OF[_SCAN], row, run) for run in _runs(seq_idx[row])]
            rows.append(_join(made))
        return _join(rows, dim=0) if isinstance(rows[0], tuple) else torch.cat(rows)

    return by_document


def _delta(function: Callable[..., Any]) -> Callable[..., Any]:
    def by_document(*args: Any, cu_seqlens: Any = None, **kwargs: Any) -> Any:
        kwargs.pop("seq_idx", None)
        if cu_seqlens is None:
            return function(*args, **kwargs)
        if len(args[0]) != 1:
            raise ValueError("flash-linear-attention's kernels take runs of one row")
        edges = cu_seqlens.tolist()
        runs = list(itertools.pairwise(edges))
        return _join([_cut(function, args, kwargs, _TOKENS_OF["delta"], 0, run) for run in runs])

    return by_document


def _cut(
    function: Callable[..., Any], args: Any, kwargs: Any, of_tokens: Sequence[int], row: int, run: tuple[int, int]
) -> Any:
    part = (slice(row, row + 1), slice(*run))
    cut = [value[part] if place in of_tokens else value for place, value in enumerate(args)]
    named = {name: value[part] if name in ("g", "beta") else value for name, value in kwargs.items()}
    return function(*cut, **named)


def _join(made: Sequence[Any], dim: int = 1) -> Any:
    import torch

    if isinstance(made[0], tuple):
        return torch.cat([each[0] for each in made], dim), made[-1][1]
    return torch.cat(list(made), dim)


def _no_fused(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: None


_WRAPPED: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    _CONV: _conv,
    _SCAN: _scan,
    _FUSED: _no_fused,
    **dict.fromkeys(_DELTA, _delta),
}
