"""The real processor on the real media, and the comparison with what we wrote.

The real side shares with ours only the conversation and the decoded pictures: it renders through the processor's
apply_chat_template, tokenizes the expanded text with the reference tokenizer, and runs the image processor. Labels are
found a second way: `second_labels.py` places turns without sentinels, and tokens come from the reference
tokenizer's offsets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.processor_record import ProcessorRecord
from vlm_prep.core.records import Message
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.core.stored_media import probed_media
from vlm_prep.media.decode import load_media, load_track
from vlm_prep.processors.expansion import SOUND, as_reject
from vlm_prep.processors.families.generic import Generic
from vlm_prep.processors.payload.nested import Nested, kept, same_values, tensors_in
from vlm_prep.processors.payload.quick import QuickMaker
from vlm_prep.processors.payload.stored import CodedTensor
from vlm_prep.processors.payload.stored_video import has_sound, video_metadata
from vlm_prep.processors.runtime import describe_processor
from vlm_prep.processors.seen_pictures import SEEN, TILES, seen_pictures
from vlm_prep.processors.token_types import ANSWER, answer_types, values_of
from vlm_prep.shards.row_texts import conversation_of
from vlm_prep.tokenize.coordinates import ByteSpan, RenderedSpan
from vlm_prep.tokenize.cut_rows import cut_as
from vlm_prep.tokenize.drafts import Labelled
from vlm_prep.tokenize.encoder import SampleEncoder
from vlm_prep.tokenize.labels.answers import answer_at
from vlm_prep.tokenize.labels.masks import in_bytes
from vlm_prep.tokenize.labels.spans import trained_messages
from vlm_prep.tokenize.placeholders import IGNORE
from vlm_prep.tokenize.token_hook import TokenHook
from vlm_prep.tokenize.verify.sanitizer import sanitizer
from vlm_prep.tokenize.verify.second_labels import second_spans

Row = Mapping[str, Any]
_OF_TEXT = ("input_ids", "attention_mask")
_TYPES = ("mm_token_type_ids", "token_type_ids")


@dataclass(frozen=True, slots=True)
class Comparison:
    """What comparing a row showed."""

    differences: tuple[str, ...]
    """What differs, a line each; empty when all is equal."""
    labels: bool
    """Whether the labels were found a second way; not where only sentinels can decide them."""


class Oracle:
    """Compares rows of a tokenized store with the real processor.

    Args:
        encoder: the encoder that made them (its adapter holds the real processor).
        config: the settings they were made with.
        payload: how media were made into tensors, where they were.
    """

    def __init__(self, encoder: SampleEncoder, config: TokenizeConfig, payload: dict[str, Any] | None = None) -> None:
        self._encoder, self._config = encoder, config
        self._adapter, self._hf = encoder.adapter, encoder.adapter.hf
        self._runtime: ProcessorRecord = {**describe_processor(self._adapter), "payload": payload}
        self._pixels = QuickMaker(self._runtime, whole=self._hf)
        self.may_ask = isinstance(self._adapter, Generic)
        """Whether rows that differ may be made by asking the whole processor, see `asking`."""

    def compare(self, row: Row) -> Comparison:
        """Compare a stored row with the real processor's output.

        Raises:
            Reject: the media can no longer be read; processor_error, when the processor raises on the row or makes
                features of it that are not finite.
        """
        conversation = conversation_of(row)
        messages, tools = conversation["messages"], conversation.get("tools")
        real = self.real(row)
        if self._encoder.hook is not None:
            return self._compare_hooked(self._encoder.hook, row, dict(real), messages, tools)
        real = cut_as(row, real, self._config)
        found = _differing_ids(self._hf.tokenizer, row["input_ids"], real["input_ids"][0].numpy())
        found += self._differing_tensors(row, real)
        if found:
            # labels are compared on equal ids only; on unequal ones every position would differ
            return Comparison(tuple(found), labels=False)
        expected = self._second_labels(messages, tools, row)
        if expected is None:
            return Comparison((), labels=False)
        length = len(row["input_ids"])  # of a row that was cut less than all
        return Comparison(tuple(_differing_labels(self._hf.tokenizer, row, expected, length)), labels=True)

    def _compare_hooked(
        self, hook: TokenHook, row: Row, real: dict[str, Any], messages: list[Message], tools: Any
    ) -> Comparison:
        """Compare what a hook makes of the processor's output with what was stored: media are compared as they are, ids
        and labels behind the hook, which is called on the processor's ids."""
        whole = real["input_ids"][0].numpy().astype(np.int32)
        found = self._differing_tensors({**row, "input_ids": whole}, real)
        expected = self._second_labels(messages, tools, {**row, "input_ids": whole})
        twice = expected is not None
        if expected is None:
            document = self._encoder.read(messages, tools, trained_messages(messages, self._config.train_on))
            media = [probed_media(stored) for stored in row["media"]]
            placed, _ = self._encoder.place(document.rendered.text, media, row["media"], document.delimiters)
            expected, _ = self._encoder.labelled(document, placed)
        found += _differing_ids(self._hf.tokenizer, expected.ids, whole)
        if found:
            return Comparison(tuple(found), labels=False)
        geometry = {tensor.name: np.asarray(row[tensor.name], tensor.dtype) for tensor in self._adapter.geometry}
        try:
            made = hook(replace(expected, ids=whole), geometry, messages, tools)
        except Reject as reject:
            return Comparison((f"the row was written, and a second time {reject.message}",), labels=False)
        length = len(row["input_ids"])
        cut = self._config.cuts and length == self._config.most_tokens
        ids = made.ids[:length] if cut else made.ids
        if found := _differing_ids(self._hf.tokenizer, row["input_ids"], ids):
            return Comparison((f"the token_hook gives others a second time: {found[0]}",), labels=False)
        differing = _differing_labels(self._hf.tokenizer, row, made, length)
        return Comparison(tuple(differing), labels=twice or bool(differing))

    def real(self, row: Row) -> Any:
        """Return what the real processor makes of a stored row's conversation and media."""
        conversation = conversation_of(row)
        return self._real(conversation["messages"], conversation.get("tools"), row["media"])

    def _real(self, messages: Sequence[Message], tools: Any, media: Sequence[Row]) -> Any:
        """Run the processor's own apply_chat_template."""
        loaded = [load_media(struct, rate=self._adapter.sampling_rate) for struct in media]
        sounds = [self._sound(struct) for struct in media]
        options: dict[str, Any] = {}
        options |= self._adapter.call_options([video_metadata(struct) for struct in media if struct["kind"] == "video"])
        with as_reject("the processor cannot take this row"):
            if self._encoder.control.find(list(messages), tools):
                control = self._encoder.control
                tokens = control.tokens, control.told_tokens, control.call_tokens
                with sanitizer(*tokens, messages, tools) as (marked, schemas):
                    filled = _with_media(marked, loaded, sounds)
                    real = self._adapter.call(filled, schemas, {**options, "sanitize_control_tokens": True})
            else:
                real = self._adapter.call(_with_media(messages, loaded, sounds), tools, options)
        _require_finite(real)
        return self._with_prefixes(dict(real)) if self._config.thinking_prefix else real

    def _with_prefixes(self, real: dict[str, Any]) -> dict[str, Any]:
        """Put the thinking prefix behind the header of each model turn, in ids, as trainers of Gemma 4 do."""
        import torch

        header, prefix = (
            self._hf.tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in self._adapter.thinking_prefix or ("", "")
        )
        ids = real["input_ids"][0].tolist()
        ends = [end for end in range(len(header), len(ids) + 1) if ids[end - len(header) : end] == header]
        places = [end for end in ends if ids[end : end + len(prefix)] != prefix]
        count = len(prefix)
        fill = {"input_ids": prefix, "attention_mask": [1] * count, **dict.fromkeys(_TYPES, [0] * count)}
        for name, values in fill.items():
            if name in real:
                row = real[name][0].tolist()
                for end in reversed(places):
                    row[end:end] = values
                real[name] = torch.tensor([row])
        return real

    def _sound(self, struct: Row) -> Any:
        rate = self._adapter.sampling_rate
        shifted = self._config.sound_offset == "keep"
        return load_track(struct, rate=rate, shifted=shifted) if rate is not None and has_sound(struct) else None

    def _differing_tensors(self, row: Row, real: Any) -> list[str]:
        import torch

        with as_reject("the processor's parts cannot take this row's media"):
            ours: dict[str, Any] = dict(self._pixels.coded(row["media"])) if row["media"] else {}
        stored = {tensor.name: tensor.dtype for tensor in self._adapter.geometry}
        for name, dtype in stored.items():
            if len(row[name]):
                ours[name] = torch.from_numpy(np.asarray(row[name]).astype(dtype))
        ours |= self._of_text(row["input_ids"], row["labels"])
        if self._adapter.answer_types is not None:  # whose processor makes labels, too
            ours["labels"] = torch.from_numpy(row["labels"].astype(np.int64))[None]
        token = self._runtime["image_token_id"]
        if token is not None and TILES in ours and (self._runtime.get("backbone") or {}).get("cross_attention"):
            seen = seen_pictures(np.asarray(row["input_ids"])[None], token, ours[TILES].numpy())
            ours[SEEN] = torch.from_numpy(seen)
        real = {name: each for name, value in real.items() if (each := kept(value)) is not None}
        real.setdefault("attention_mask", ours["attention_mask"])  # of a processor that returns none, and says so: all
        lost, extra = [name for name in real if name not in ours], [name for name in ours if name not in real]
        found = [f"{name}: the processor returns it and the store does not hold it" for name in lost]
        found += [f"{name}: the processor does not return it" for name in extra]
        for name in (name for name in real if name in ours):
            # ids of 32 bits and a mask of bools are what int64 says
            expected = real[name].long() if name in _OF_TEXT else real[name]
            if difference := _tensor_difference(ours[name], expected):
                found.append(f"{name}: {difference}")
        return found

    def _of_text(self, ids: NDArray[np.int32], labels: NDArray[np.int32]) -> dict[str, Any]:
        """What follows from ids and labels alone, as the runtime makes it."""
        import torch

        made = {"input_ids": torch.from_numpy(ids.astype(np.int64))[None]}
        made["attention_mask"] = torch.ones_like(made["input_ids"])
        for name, by_value in self._runtime["token_values"].items():
            types = answer_types(labels, [len(labels)]) if ANSWER in by_value else values_of(ids, by_value)
            made[name] = torch.from_numpy(types)[None]
        return made

    def _second_labels(self, messages: list[Message], tools: Any, row: Row) -> Labelled | None:
        """Labels and weights by other renders and the tokenizer's own offsets; None where only sentinels can decide."""
        if self._encoder.control.find(messages, tools):
            return None
        found = second_spans(self._encoder.template, messages, tools, self._config)
        if found is None:
            return None
        text, spans = found
        length = len(row["input_ids"])  # of a row that was cut less than all
        # the ids are known to be equal here, so what we put in is the processor's; or it was asked for this row
        try:
            made = _labelled(self._encoder, text, spans, row)
        except Reject:
            if not self.may_ask:
                raise
            made = None
        if self.may_ask and (made is None or not np.array_equal(made.ids[:length], row["input_ids"])):
            made = _labelled(self._encoder.asking, text, spans, row)
        return made


def _labelled(encoder: SampleEncoder, text: str, spans: Sequence[RenderedSpan], row: Row) -> Labelled:
    """A stored row's rendered text, its media put in, with its trained spans, whole."""
    media = [probed_media(stored) for stored in row["media"]]
    placed, _ = encoder.place(text, media, row["media"])
    positions = [placed.move(position) for start, end, _ in spans for position in (start, end)]
    tokens = encoder.text.encode_by_offsets(placed.text, answer_at(encoder.adapter, positions))
    edges = iter(in_bytes(placed.text, [*positions, *(edge for span in placed.inside for edge in span)]))
    in_text: list[ByteSpan] = [(next(edges), next(edges), weight) for _, _, weight in spans]
    inside = [(start, next(edges)) for start in edges]
    return encoder.label(tokens, in_text, inside, placed.runs)


def _with_media(messages: Sequence[Message], loaded: Sequence[Any], sounds: Sequence[Any]) -> list[Message]:
    """The conversation with each bare media part holding its picture, waveform or frames, and these their sound."""
    remaining = iter(zip(loaded, sounds, strict=True))
    filled = []
    for message in messages:
        content = message["content"]
        if isinstance(content, list):
            content = [
                _filled(part, *next(remaining)) if part["type"] in ("image", "video", "audio") else part
                for part in content
            ]
        filled.append({**message, "content": content})
    return filled


def _require_finite(real: Mapping[str, Any]) -> None:
    """Refuse features that a model cannot train on. Masks may hold infinities."""
    import torch

    named = ((name, found) for name, each in real.items() if (found := kept(each)) is not None)
    for name, value in ((name, tensor) for name, found in named for tensor in tensors_in(found)):
        if "mask" not in name and value.is_floating_point():
            # no tensor of their size is made to look at them: that would cost as much as making them
            ends = torch.stack(torch.aminmax(value)) if value.numel() else value
            if not torch.isfinite(ends).all():
                lost = int((~torch.isfinite(value)).sum())
                raise Reject(
                    RejectReason.PROCESSOR_ERROR,
                    f"{name}: {lost} of {value.numel()} values that the processor makes of it are not finite",
                )


def _filled(part: Message, media: Any, sound: Any) -> Message:
    return {**part, part["type"]: media, **({SOUND: sound} if sound is not None else {})}


def _differing_ids(tokenizer: Any, ours: NDArray[np.int32], real: NDArray[Any]) -> list[str]:
    if np.array_equal(ours, real):
        return []
    shared = min(len(ours), len(real))
    different = np.flatnonzero(ours[:shared] != real[:shared])
    position = int(different[0]) if len(different) else shared
    return [
        f"input_ids: {len(ours)} tokens, the processor makes {len(real)}; they part at token {position}: "
        f"ours {_around(tokenizer, ours, position)}, the processor's {_around(tokenizer, real, position)}"
    ]


def _differing_labels(tokenizer: Any, row: Row, expected: Labelled, length: int) -> list[str]:
    labels, weights = expected.labels[:length], expected.weights[:length]
    if not np.array_equal(labels, row["labels"]):
        position = int(np.flatnonzero(labels != row["labels"])[0])
        return [
            f"labels: from token {position}: stored {_around(tokenizer, row['labels'], position)}, "
            f"the second way {_around(tokenizer, labels, position)}"
        ]
    stored = row.get("loss_weights")
    if stored is None or np.array_equal(weights, stored):
        return []
    position = int(np.flatnonzero(weights != stored)[0])
    return [f"loss_weights: at token {position}: stored {stored[position]}, the second way {weights[position]}"]


def _around(tokenizer: Any, ids: NDArray[Any], position: int) -> str:
    """Show the tokens around a position: their text and id, a dot for what is not trained."""
    window = [int(token) for token in ids[max(0, position - 3) : position + 5]]
    return " ".join("·" if token == IGNORE else f"{tokenizer.decode([token])!r}({token})" for token in window)


def _tensor_difference(ours: Any, real: Any) -> str | None:
    if isinstance(ours, CodedTensor):
        if not isinstance(real, Nested) and ours.equals(real):
            return None
        ours = ours.restored()
    elif same_values(real, ours):
        return None
    if isinstance(ours, Nested) or isinstance(real, Nested):
        return f"{_said(ours)}, the processor makes {_said(real)}"
    if ours.shape != real.shape or ours.dtype != real.dtype:
        return f"{ours.dtype} {tuple(ours.shape)}, the processor makes {real.dtype} {tuple(real.shape)}"
    gap = (ours.double() - real.double()).abs()  # bools have no difference, and unsigned ones a wrong one
    return f"{int((gap > 0).sum())} of {gap.numel()} values differ, by up to {float(gap.max()):.6g}"


def _said(value: Any) -> str:
    tensors = list(tensors_in(value))
    more = ", ..." if len(tensors) > 3 else ""
    shapes = ", ".join(f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in tensors[:3])
    return f"{len(tensors)} tensors in lists ({shapes}{more})" if isinstance(value, Nested) else shapes
