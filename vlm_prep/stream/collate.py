"""Batches: pad and stack. Everything that could be decided before training was.

`PadCollate` has the semantics of the padding collater that it replaces in trainers (NeMo Automodel's
pad_collate_fn: right padding, shifted labels, media concatenated), except that nothing is cut or dropped: a row
longer than `max_length` raises, `second_per_grid_ts` is kept, and pixels keep the processor's float32 unless a
dtype is given.

A batch that lost all its rows to on_bad="skip" is a placeholder of one row, attended, with no label: the rank takes
its step with the others and adds nothing. Divide a sum of losses by the number of labels of all ranks (as
transformers' `num_items_in_batch` does): a mean over no label at all is nan.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Unpack, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from vlm_prep.processors.backbone import Backbone, attention_of, backbone_of_model, config_json
from vlm_prep.processors.state_code import LENGTHS, SEQ_IDX
from vlm_prep.stream.attention import (
    additive,
    block_causal,
    cumulative_lengths,
    document_ids,
    sequence_index,
    text_positions,
    thd_lengths,
)
from vlm_prep.stream.collate_base import (
    TRAINED,
    Batch,
    Collate,
    CollateOptions,
    StoreOptions,
    array_of,
    rows_of,
    store_options,
    tensors,
)
from vlm_prep.stream.dataset import Item, ShardDataset
from vlm_prep.stream.decoder_batches import DECODER, for_decoder, for_encoder, opened, parted
from vlm_prep.stream.document_padding import REAL_LENGTHS, boundaries, pad_documents, with_row_padding
from vlm_prep.stream.forms import UNKNOWN, Mask, check_form, failed_forms, form_for, is_additive
from vlm_prep.stream.layer_masks import LayerMasks

_LOG = logging.getLogger(__name__)


class PadOptions(StoreOptions, total=False):
    """Options of `PadCollate.for_store`."""

    decoder_start_token_id: int | None
    encoder_end_token_id: int | None


class PackedOptions(StoreOptions, total=False):
    """Options of `PackedCollate.for_store`."""

    mask: Mask | None
    attention: str | None
    model: Any
    backbone: Backbone
    mrope: bool
    document_multiple: int
    documents: int | None
    cu_seqlens: bool


class PadCollate(Collate):
    """Pad samples on the right and stack them.

    Examples:
        >>> rows = vp.ShardDataset(folder / "tok", seed=0)
        >>> batch = vp.PadCollate.for_store(rows)([rows[0], rows[1]])
        >>> batch["input_ids"].shape[0], batch["input_ids"].dtype
        (2, torch.int64)

    Returns, for a batch of B items padded to S: input_ids, labels, attention_mask (1 for tokens, 0 for padding) and the
    processor's token types (mm_token_type_ids, token_type_ids, ...), int64 (B, S), or (B, S-1) with `shift`;
    loss_weights float32 where the store has them; media tensors concatenated over the batch; n_images_per_sample and
    n_videos_per_sample.

    Args:
        pad_token_id: see `collate_base.Collate`.
        shift: labels[t] is the token after input_ids[t], for trainers that compare position by position; False for
            models that shift inside (transformers).
        decoder_start_token_id: of an encoder-decoder (Nemotron-Parse; `for_store` knows): the batch holds
            decoder_input_ids and decoder_attention_mask in place of input_ids and attention_mask; labels[t] is what
            the decoder is to say at t, so `shift` has no meaning. The decoder's first token is this one: put before
            rows that do not open with it themselves, as transformers' `generate` does with a decoder's prompt.
        encoder_end_token_id: of one whose encoder reads the question (Florence-2; `for_store` knows), which this token
            ends: the batch holds it in input_ids and attention_mask, and of the rest what a decoder is given.
        options: see `collate_base.Collate`.
    """

    def __init__(
        self,
        pad_token_id: int = 0,
        *,
        shift: bool = True,
        decoder_start_token_id: int | None = None,
        encoder_end_token_id: int | None = None,
        **options: Unpack[CollateOptions],
    ) -> None:
        super().__init__(pad_token_id, **options)
        self.shift, self.decoder_start_token_id = shift and decoder_start_token_id is None, decoder_start_token_id
        self.encoder_end_token_id = encoder_end_token_id

    @classmethod
    def for_store(cls, dataset: ShardDataset, **options: Unpack[PadOptions]) -> PadCollate:
        """Return a collater with the token ids of the dataset's processor."""
        known = {name: dataset.manifest.processor.get(name) for name in DECODER}
        return cls(**{**known, **store_options(dataset, options)})

    def __call__(self, items: Sequence[Item]) -> Batch:
        """Collate items of a tokenized store."""
        items = items or [self._placeholder()]
        if "seq_lens" in items[0]:
            raise ValueError("these items are packs, whose documents must not see each other: use PackedCollate")
        room = len(self.dummy.ids) + self.shift if self.dummy is not None else 0
        length = self._length(items, room)
        read: list[Any] = []
        if self.encoder_end_token_id is not None:
            items, read = parted(items, self.encoder_end_token_id)
            length = self._length(items, 0)
        if self.decoder_start_token_id is not None:
            # one longer: the last token of a row is no input, and the first is no label
            items, length = [opened(item, self.decoder_start_token_id) for item in items], length + 1
        batch = self._tokens(items, length)
        lengths = np.array([rows_of(item["input_ids"]) for item in items])
        batch["attention_mask"] = (np.arange(length) < lengths[:, None]).astype(np.int64)
        media = self._with_media(batch, items)
        if self.shift:
            for name, values in batch.items():
                batch[name] = values[:, 1:] if name in TRAINED else values[:, :-1]
        if self.decoder_start_token_id is not None:
            batch = for_decoder(batch, tuple(self.token_values))
        encoder = for_encoder(read, self.pad_token_id, self.pad_to_multiple_of or 1) if read else {}
        return {**tensors(batch), **tensors(encoder), **media}


class PackedCollate(Collate):
    """Pad packs on the right and stack them, with the attention of their documents.

    Examples:
        >>> packs = vp.ShardDataset(folder / "packed", rank=0, world_size=2)
        >>> batch = vp.PackedCollate.for_store(packs, mask="varlen")([packs[0]])
        >>> len(batch["input_ids"]), batch["input_ids"].dtype
        (1, torch.int64)

    Returns, for a batch of B packs padded to S: input_ids, labels int64 (B, S), loss_weights float32 where the store
    has them; position_ids int64 (3, B, S) for mRoPE (float32 for Qwen3-Omni) or (B, S); seq_lens, a list of int64
    (documents,); media tensors concatenated; and by `mask`

    - "sdpa": attention_mask bool (B, 1, S, S), float32 where the model adds it to its scores (eager attention); {kind
      of layer: such a mask} for models whose layers have narrower ones of their own, see `layer_masks`;
    - "positions": no attention_mask; the model makes each layer's mask of position_ids, which are (4, B, S) for mRoPE,
      the plain ones in front; use_cache False, since with a cache it would not;
    - "varlen": cu_seq_lens_q, cu_seq_lens_k int32, max_length_q, max_length_k, positions as above and no
      attention_mask: for flash attention alone;
    - "document_ids": attention_mask int64 (B, S), 1-based document numbers: no mask for stock attention, only for a
      trainer that builds its own of them;
    - "thd": seq_lens and seq_lens_padded int64 (B, documents), -1000 where a pack has fewer, qkv_format "thd", and
      neither attention_mask nor token types: the form of NeMo Automodel's packed_sequence_thd_vlm_collater;

    and what layers that carry state are told documents by (`processors.backbone`): seq_idx int32 (B, S), cu_seq_lens_q
    and its like. transformers refuses to run such layers without the kernels that read them.

    Args:
        pad_token_id: see `collate_base.Collate`.
        mask: the form of attention, see `attention`; None takes the first that keeps documents apart, see `forms`.
        attention: the implementation that the model runs ("sdpa", "eager", "flash_attention_2", ...), or another name
            for a trainer's own. Forms that it does not read are refused.
        model: the model, its config (also as JSON), or the folder of one: says what its layers need and which attention
            it runs, in place of `attention`, `backbone`.
        backbone: what its layers need; `for_store` takes the store's.
        shift: labels[t] becomes the label of t+1 within each document and -100 at its end, same length, so that no
            document predicts the next one's first token; False for models that shift inside. Those shift across
            documents too, so the first label of each later document is -100 then: it would be predicted from the
            document before.
        mrope: positions of a placeholder have three axes; `for_store` knows.
        certificate: of the store's packs (`pack --certify`); a form that did not pass is refused. `for_store` knows.
        document_multiple: each document is padded to a multiple of it, see `document_padding`; `for_store` takes what
            the packs were planned with. The batch's seq_lens stay those of the documents' own tokens.
        documents: as many entries of cu_seqlens and cu_seq_lens_q for each row, the missing ones empty, for graphs of
            fixed shapes.
        cu_seqlens: add cu_seqlens and cu_seqlens_padded, int32 (documents + 1,): of the documents' own tokens, and
            with their padding (a row's padding counts to its last document), as Transformer Engine takes them.
        options: see `collate_base.Collate`.

    Raises:
        InputError: in this form, or in any, the model's documents would see each other.
    """

    def __init__(
        self,
        pad_token_id: int = 0,
        *,
        mask: Mask | None = None,
        attention: str | None = None,
        model: Any = None,
        backbone: Backbone = UNKNOWN,
        shift: bool = False,
        mrope: bool = False,
        certificate: Mapping[str, Any] | None = None,
        document_multiple: int = 1,
        documents: int | None = None,
        cu_seqlens: bool = False,
        **options: Unpack[CollateOptions],
    ) -> None:
        super().__init__(pad_token_id, **options)
        self.document_multiple, self.documents, self.cu_seqlens = document_multiple, documents, cu_seqlens
        if mask is not None and mask not in get_args(Mask):
            raise ValueError(f"mask {mask!r}: it is one of {', '.join(get_args(Mask))}")
        if model is not None:
            backbone = backbone_of_model(model)
            attention = attention or attention_of(model)
        narrow = bool(backbone.own_masks or backbone.media_blocks) and model is not None
        self._layer_masks = LayerMasks(config_json(model)) if narrow else None
        failed = failed_forms(certificate)
        self.mask: Mask = mask or form_for(attention, backbone, mrope=mrope, layer_masks=narrow, failed=failed)
        check_form(self.mask, attention, backbone, mrope=mrope, layer_masks=narrow, failed=failed)
        if self.mask in ("document_ids", "thd") and attention is None:
            _LOG.warning(
                "mask=%r is read by a trainer's own attention alone; transformers' would let all documents of a pack "
                "see each other. Pass attention=..., the name of what your model runs, to be sure",
                self.mask,
            )
        self.shift, self.mrope, self.backbone = shift, mrope, backbone
        self.additive = self.mask == "sdpa" and is_additive(attention, backbone)

    @classmethod
    def for_store(cls, dataset: ShardDataset, **options: Unpack[PackedOptions]) -> PackedCollate:
        """Return a collater with the token ids of the dataset's processor."""
        processor = dataset.manifest.processor
        found = processor.get("backbone")
        known: dict[str, Any] = {"backbone": Backbone.from_json(found)} if found is not None else {}
        if processor.get("model") is not None and found is not None and found["known"]:
            known = {"model": processor["model"]}
        known |= {"mrope": processor.get("mrope") is not None, "certificate": dataset.manifest.extra.get("certificate")}
        known["document_multiple"] = dataset.manifest.config.get("document_multiple", 1)
        return cls(**{**known, **store_options(dataset, options)})

    def __call__(self, items: Sequence[Item]) -> Batch:
        """Collate packs."""
        items = items or [self._empty_pack()]
        if "seq_lens" not in items[0]:
            raise ValueError("these items are samples, not packs: use PadCollate, or pack the store first")
        if self.document_multiple > 1:
            items = [pad_documents(dict(item), self.document_multiple, self.token_fill) for item in items]
        length = self._length(items, len(self.dummy.ids) if self.dummy is not None else 0)
        batch = self._tokens(items, length)
        counts = [array_of(item["seq_lens"]).astype(np.int64) for item in items]
        self._require_unscaled(counts)
        for name, fill in ((name, self.token_fill[name]) for name in TRAINED if name in batch):
            for row, each in enumerate(counts):
                self._within_documents(batch[name][row], each, fill)
        lengths = [torch.from_numpy(each) for each in counts]
        batch["position_ids"] = self._positions(items, length, lengths)
        media = self._with_media(batch, items)
        if self.mask == "thd":
            for name in self.token_values:
                batch.pop(name, None)
        told = {**self._state(lengths, length), **self._attention(lengths, length)}
        if self.mask == "sdpa" and self._layer_masks is not None:
            types = {name: torch.from_numpy(batch[name]) for name in self.token_values if name in batch}
            told["attention_mask"] = self._layer_masks.of_batch(types, lengths, length)
        if self.additive:
            told["attention_mask"] = additive(told["attention_mask"])
        real = [torch.from_numpy(item[REAL_LENGTHS]) for item in items if REAL_LENGTHS in item] or lengths
        if self.mask == "thd":
            told["seq_lens"] = thd_lengths(real, length)[0]
        if self.cu_seqlens:
            told["cu_seqlens"] = boundaries(real, self.documents)
            told["cu_seqlens_padded"] = boundaries(with_row_padding(lengths, length), self.documents)
        return {**tensors(batch), "seq_lens": real, **media, **told}

    def _require_unscaled(self, counts: Sequence[NDArray[np.int64]]) -> None:
        limit = self.backbone.scaled_from
        if limit is not None and any(len(each) > 1 and each.sum() >= limit for each in counts):
            raise ValueError(f"{self.backbone.name} {self.backbone.scaled}: pack with pack_length={limit - 1} at most")

    def _empty_pack(self) -> Item:
        positions = torch.arange(2).expand(3, 2) if self.mrope else torch.arange(2)
        return {**self._placeholder(), "position_ids": positions, "seq_lens": torch.tensor([2])}

    def _within_documents(self, values: NDArray[Any], counts: NDArray[np.int64], fill: float) -> None:
        """Shift a row's labels (or weights) within its documents, or take those off that a model would shift across."""
        starts = np.cumsum(counts)[:-1]
        if not self.shift:
            values[starts] = fill
            return
        total = int(counts.sum())
        values[: total - 1] = values[1:total].copy()
        values[starts - 1] = fill
        values[total - 1] = fill

    def _positions(self, items: Sequence[Item], length: int, lengths: Sequence[torch.Tensor]) -> NDArray[Any]:
        rows = [array_of(item["position_ids"]) for item in items]
        dtype = np.float32 if rows[0].dtype == np.float32 else np.int64
        positions = np.zeros((*rows[0].shape[:-1], len(items), length), dtype)
        for row, values in enumerate(rows):
            positions[..., row, : values.shape[-1]] = values
        if positions.ndim == 2 or self.mask not in ("positions", "varlen") or not self.backbone.text_axis:
            return positions
        return np.concatenate([text_positions(lengths, length).numpy().astype(dtype)[None], positions])

    def _state(self, lengths: Sequence[torch.Tensor], length: int) -> Batch:
        """What layers that carry state are told documents by."""
        told: Batch = {}
        if SEQ_IDX in self.backbone.reads:
            told[SEQ_IDX] = sequence_index(lengths, length)
        if LENGTHS in self.backbone.reads:
            if self.backbone.known and len(lengths) > 1:
                raise ValueError(
                    f"{len(lengths)} packs: the kernels of {self.backbone.name}'s linear attention take one sequence "
                    "at a time: load packs with batch_size=1 (and pack them longer)"
                )
            told |= self._lengths(lengths, length)
        return told

    def _attention(self, lengths: Sequence[torch.Tensor], length: int) -> Batch:
        if self.mask == "positions":
            return {"use_cache": False}
        if self.mask == "varlen":
            return {**self._lengths(lengths, length), "use_cache": False}
        if self.mask == "thd":
            real, padded = thd_lengths(lengths, length)
            return {"seq_lens": real, "seq_lens_padded": padded, "qkv_format": "thd"}
        documents = document_ids(lengths, length)
        return {"attention_mask": documents if self.mask == "document_ids" else block_causal(documents)}

    def _lengths(self, lengths: Sequence[torch.Tensor], length: int) -> Batch:
        bounds, longest = cumulative_lengths(lengths, length)
        if self.documents is not None:
            # a row's padding is a run of its own
            missing = len(lengths) * (self.documents + 1) + 1 - len(bounds)
            if missing < 0:
                raise ValueError(f"packs of more than documents={self.documents} documents: pack with pack_documents")
            bounds = torch.cat([bounds, bounds[-1:].expand(missing)])
        names = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
        return {**names, "max_length_q": longest, "max_length_k": longest}
