"""One sample through the main job: render, encode, expand placeholders, label, cut to length.

What is skipped, compared with the real processor, is only what cannot change ids or labels: decoding and resizing
pixels, and tokenizing thousands of copies of one placeholder. Measured on one core: 0.2 ms a sample with one picture,
where the full processor takes 50 ms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from vlm_prep.core.errors import InputError, ProcessorError, Reject, RejectReason
from vlm_prep.core.label_convention import LabelConvention
from vlm_prep.core.records import Encoded, Media, Message, Sample
from vlm_prep.core.settings import ControlTokens as ControlMode
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.core.stored_media import store_media
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.expansion import Expansion, naming
from vlm_prep.processors.families.generic import Generic
from vlm_prep.processors.left_out import noted
from vlm_prep.tokenize.beginnings import cuts, media_of
from vlm_prep.tokenize.boxes import Boxes
from vlm_prep.tokenize.chat.control_tokens import ControlTokens, Delimiters, byte_position
from vlm_prep.tokenize.chat.fit import fit_to_template
from vlm_prep.tokenize.chat.template import ChatTemplate
from vlm_prep.tokenize.chat.tool_text import Tools
from vlm_prep.tokenize.coordinates import ByteSpan, PlacedChar, RenderedChar, TextByte
from vlm_prep.tokenize.cut_rows import CUT, require_cuttable, require_length
from vlm_prep.tokenize.drafts import Draft, Drafted, Labelled
from vlm_prep.tokenize.labels.answers import answer_at, empty_answers, nothing_trained, require_written_media
from vlm_prep.tokenize.labels.documents import Document, DocumentReader
from vlm_prep.tokenize.labels.masks import in_bytes, mask_tokens, weigh_tokens
from vlm_prep.tokenize.labels.spans import reject_weights, trained_messages, uses_weights, weigh
from vlm_prep.tokenize.placeholders import IGNORE, Placed, Placer, find_tokens, repeat_runs
from vlm_prep.tokenize.rescue import Piece, Rescue
from vlm_prep.tokenize.text import TextEncoder, Tokens
from vlm_prep.tokenize.token_hook import hook_of, noted_first

VIDEO_FRAMES = "video frames"
Payload = tuple[tuple[bytes, ...] | None, ...]


class SampleEncoder:
    """Turns probed samples into encoded ones.

    Args:
        adapter: the model family.
        config: settings.
        fast: whether gigatoken may be used.
        asks: whether the whole processor is asked for each row, see `Generic.expand_asking`.
    """

    def __init__(self, adapter: Adapter, config: TokenizeConfig, *, fast: bool = True, asks: bool = False) -> None:
        self.adapter, self.config, self._asks = adapter, config, asks
        self.template = ChatTemplate(adapter.loaded)
        self.text = TextEncoder(adapter.hf.tokenizer, fast=fast)
        mode: ControlMode = "allow" if adapter.prompts_are_tokens else config.control_tokens
        self.control = ControlTokens(adapter.hf, self.template, mode)
        self._reader = DocumentReader(self.template, self.control, config.rewritten_history)
        self._added = tuple(np.asarray(ids, np.int32) for ids in adapter.added_around)
        self._placer = Placer(adapter.placeholders, adapter.unplaced, self._prefix())
        self._boxes = Boxes(adapter, config)
        self._rescue = Rescue(adapter, config, self._drafted)
        self.hook = hook_of(config, adapter)

    @cached_property
    def asking(self) -> SampleEncoder:
        """Return an encoder like this one that asks."""
        return SampleEncoder(self.adapter, self.config, fast=False, asks=True)

    def encode(self, sample: Sample, payload: Payload) -> Encoded:
        """Encode a sample that becomes one document, see `documents`."""
        (encoded,) = self.documents(sample, payload)
        return encoded

    def documents(self, sample: Sample, payload: Payload) -> tuple[Encoded, ...]:
        """Encode one sample: one document, or several with rewritten_history="split".

        Args:
            sample: with probed media.
            payload: for each media its files' bytes, or None.

        Raises:
            Reject: the row cannot be written, with the reason.
            InputError: an overlong row under overlong="error".
        """
        sample = self._boxes.read(sample)
        drafted = self._drafted(sample)
        if self.config.overlong == "rescue" and drafted.length > (self.config.max_length or 0):
            pieces = self._rescue.pieces(sample, drafted)
        else:
            pieces = [Piece(replace(drafted, drafts=self._fitting(sample, drafted)))]
        found = [(piece, draft) for piece in pieces for draft in piece.drafted.drafts if draft.trains]
        if not found:
            raise nothing_trained(sample.messages)
        for _, draft in found:
            require_length(len(draft.ids), self.config)
        found[0] = found[0][0], noted_first([draft for _, draft in found])
        return tuple(
            self._finish(piece, payload, draft, number=number, suffix="" if len(found) == 1 else f"~{number}")
            for number, (piece, draft) in enumerate(found, start=1)
        )

    def _drafted(self, sample: Sample) -> Drafted:
        """Encode a sample whatever its length."""
        sample, boxes = self._boxes.written(sample)
        fitted = fit_to_template(sample.messages, sample.tools, self.template, self.config, sample.strings)
        messages, tools = self.adapter.asked(fitted.messages), fitted.tools
        if not self.config.loss_weights and uses_weights(messages):
            raise reject_weights()
        wanted = trained_messages(messages, self.config.train_on)
        fitted = replace(fitted, notes=(*fitted.notes, *empty_answers(messages, wanted, self.config.empty_answers)))
        documents = self._reader.documents(messages, tools, wanted)
        drafts = [self._draft(media_of(sample, each.messages, len(messages)), each) for each in documents]
        return Drafted(sample, fitted, drafts, boxes)

    def _prefix(self) -> tuple[str, str] | None:
        if not self.config.thinking_prefix:
            return None
        if self.adapter.thinking_prefix is None:
            raise ProcessorError(
                f"{self.adapter.loaded.name}: {self.adapter.family} has no thinking channel to begin answers with",
                "leave `thinking_prefix` out; it is for Gemma 4",
            )
        return self.adapter.thinking_prefix

    def read(self, messages: list[Message], tools: Tools, wanted: Sequence[int]) -> Document:
        """Render a stored conversation and find turns in it, see `documents.DocumentReader.read`."""
        return self._reader.read(messages, tools, wanted)

    def is_media(self, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which ids are media tokens."""
        found = np.zeros(len(ids), np.bool_)
        found[find_tokens(ids, self.adapter.run_ids)] = True
        return found

    def in_bytes(
        self, document: Document, positions: Sequence[PlacedChar], placed: Placed | None = None
    ) -> list[TextByte]:
        """Return character positions of a document's text as byte positions of what is encoded."""
        text = document.rendered.text if placed is None else placed.text
        if document.delimiters is not None:
            return [byte_position(text, position, document.delimiters) for position in positions]
        return in_bytes(text, positions)

    def place(
        self,
        text: str,
        media: Sequence[Media],
        stored: Sequence[Mapping[str, Any]] = (),
        delimiters: Delimiters | None = None,
    ) -> tuple[Placed, tuple[Expansion, ...]]:
        """Replace the placeholders of a rendered text, see `placeholders.Placer.place` and `Adapter.expand`.

        Raises:
            Reject: unsupported_media for kinds that the processor does not take, and as placing and expanding do.
        """
        self.adapter.check_kinds(media)
        with naming(media, lambda number: self.adapter.expand(media[number : number + 1], stored[number : number + 1])):
            return self._placer.place(text, media, lambda: self._expand(text, media, stored), delimiters)

    def _expand(self, text: str, media: Sequence[Media], stored: Sequence[Mapping[str, Any]]) -> tuple[Expansion, ...]:
        if self._asks and isinstance(self.adapter, Generic):
            return self.adapter.expand_asking(text, media, stored)
        return self.adapter.expand(media, stored)

    def _draft(self, media: Sequence[Media], document: Document) -> Draft:
        try:
            placed, expansions = self.place(document.rendered.text, media, delimiters=document.delimiters)
        except Reject as reject:
            if reject.reason is RejectReason.MEDIA_COUNT_MISMATCH:
                require_written_media(self.template, document)
            raise
        made, turn_ends = self.labelled(document, placed)
        ours = made if self.config.label_convention == "ours" else self.labelled(document, placed, "ours")[0]
        structural = int(np.count_nonzero(made.labels != ours.labels))
        notes: tuple[str, ...] = ()
        if self.hook is not None:
            made, notes = self.hook.noted(made, self._geometry(expansions), document.messages, document.tools)
            turn_ends = dict.fromkeys(turn_ends, 0)  # where they are now is not known: each cut is tried
        weights = made.weights if self.config.loss_weights else None
        return Draft(document.messages, made.ids, made.labels, weights, turn_ends, expansions, notes, structural)

    def labelled(
        self, document: Document, placed: Placed, convention: LabelConvention | None = None
    ) -> tuple[Labelled, dict[int, int]]:
        """Return a document's ids and what is trained of them, see `label`, and where its turns end, see `tokens`."""
        tokens, spans, turn_ends = self.tokens(document, placed, convention)
        edges = [position for span in placed.inside for position in span]
        found = iter(self.in_bytes(document, edges, placed))
        inside = [(start, next(found)) for start in found]
        return self.label(tokens, spans, inside, placed.runs), turn_ends

    def tokens(
        self, document: Document, placed: Placed | None = None, convention: LabelConvention | None = None
    ) -> tuple[Tokens, list[ByteSpan], dict[int, int]]:
        """Return the tokens of a rendered document, the trained spans in bytes, and where its turns end in tokens.

        Args:
            document: the document.
            placed: its text with the placeholders replaced, if they are.
            convention: of structural tokens, in place of the config's.
        """
        text, turns = document.rendered.text, document.turns
        known = document.view, self.template.findings, self.config, document.rendered.places
        spans = weigh(text, turns, *known, convention)
        rendered = [position for start, end, _ in spans for position in (start, end)]
        if self.config.most_tokens is not None:
            rendered += [RenderedChar(turn.end) for turn in turns.values()]
        placed_text = Placed(text) if placed is None else placed
        text, positions = placed_text.text, [placed_text.move(position) for position in rendered]
        marks, at = document.delimiters, answer_at(self.adapter, positions)
        tokens = self.text.encode(text, at) if marks is None else self.control.encode(self.text, text, marks)
        edges = iter(self.in_bytes(document, positions, placed))
        in_text = [(next(edges), next(edges), weight) for _, _, weight in spans]
        ends = np.searchsorted(tokens.starts, list(edges), side="left").tolist()
        return tokens, in_text, dict(zip(turns, ends, strict=bool(ends)))

    def label(
        self,
        tokens: Tokens,
        spans: Sequence[ByteSpan],
        inside: Sequence[tuple[TextByte, TextByte]],
        runs: Sequence[int],
    ) -> Labelled:
        """Return the whole row: tokens labelled, what the tokenizer puts around them, and all runs repeated.

        Args:
            tokens: of the text with its placeholders replaced.
            spans: trained bytes of it, with their weights.
            inside: bytes put in for media; no token that holds one is trained (" Frame" of InternVL's "Frame1: <img>").
            runs: how often each media token stands there.
        """
        untrained = mask_tokens(tokens, inside) | self.is_media(tokens.ids)
        trained = mask_tokens(tokens, [(start, end) for start, end, _ in spans]) & ~untrained
        labels = np.where(trained, tokens.ids, np.int32(IGNORE))
        weights = np.where(untrained, np.float32(0), weigh_tokens(tokens, spans))
        ids = tokens.ids
        first, last = self._added
        if (len(first) or len(last)) and not tokens.starts_with_bos:
            ids = np.concatenate([first, ids, last])
            labels = np.pad(labels, (len(first), len(last)), constant_values=IGNORE)
            weights = np.pad(weights, (len(first), len(last)))
        repeats = repeat_runs(ids, self.adapter.run_ids, runs)
        if repeats is None:
            return Labelled(ids, labels, weights)
        return Labelled(np.repeat(ids, repeats), np.repeat(labels, repeats), np.repeat(weights, repeats))

    def _fitting(self, sample: Sample, drafted: Drafted) -> list[Draft]:
        """Apply the overlong policy; drafts are beginnings of one conversation, the shortest first."""
        limit, drafts, tools = self.config.most_tokens, drafted.drafts, drafted.fitted.tools
        if limit is None or all(len(draft.ids) <= limit for draft in drafts):
            return drafts
        if self.config.cuts:
            return [self._cut(draft, limit) for draft in drafts]
        longest = drafts[-1]
        length = len(longest.ids)
        if self.config.overlong == "error":
            raise InputError(
                f"{sample.sample_id}: {length} tokens, more than `max_length={limit}`",
                "raise `max_length`, or choose another `overlong`",
            )
        if self.config.overlong == "truncate":
            kept = [draft for draft in drafts if len(draft.ids) <= limit] or self._shortened(sample, tools, drafts[0])
            if kept:
                return kept
        hint = ""
        frames = sum(len(e.frame_indices or ()) for e in longest.expansions)
        if frames:
            hint = f"; it holds {frames} {VIDEO_FRAMES}, --fps and --max-frames take fewer"
        raise Reject(RejectReason.OVERLONG, f"{length} tokens, --max-length is {limit}{hint}")

    def _cut(self, draft: Draft, limit: int) -> Draft:
        if len(draft.ids) <= limit:
            return draft
        require_cuttable(self.is_media(draft.ids), limit)
        weights = None if draft.weights is None else draft.weights[:limit]
        notes = (*draft.notes, CUT)
        return replace(draft, ids=draft.ids[:limit], labels=draft.labels[:limit], weights=weights, notes=notes)

    def _shortened(self, sample: Sample, tools: Tools, draft: Draft) -> list[Draft]:
        """Cut whole turns off the end until the row fits; nothing where that leaves nothing to train."""
        limit = self.config.max_length or 0
        for index in cuts(draft.messages, limit, draft.turn_ends):
            kept = draft.messages[: index + 1]
            wanted = trained_messages(kept, self.config.train_on)
            document = self._reader.read(kept, tools, wanted)
            if len(document.turns) < len(wanted):
                continue
            shorter = self._draft(media_of(sample, kept, -1), document)
            if len(shorter.ids) <= limit and np.any(shorter.labels != IGNORE):
                return [shorter]
        return []

    def _finish(self, piece: Piece, payload: Payload, draft: Draft, *, number: int, suffix: str) -> Encoded:
        sample, fitted = piece.drafted.sample, piece.drafted.fitted
        pairs = zip(sample.media, draft.expansions, strict=False)
        media = [noted(self.adapter, item, each.frame_indices) for item, each in pairs]
        conversation = {"messages": draft.messages, **({"tools": fitted.tools} if fitted.tools else {})}
        return Encoded(
            sample_id=sample.sample_id + suffix,
            dataset=sample.dataset,
            input_ids=draft.ids,
            labels=draft.labels,
            loss_weights=draft.weights,
            document=number,
            structural_tokens=draft.structural,
            notes=(
                *sample.notes,
                *fitted.notes,
                *piece.notes,
                *draft.notes,
                *dict.fromkeys(note for each in media for note in each.notes),
            ),
            geometry=self._geometry(draft.expansions),
            media=tuple(
                store_media(item, data, frame_indices=each.frame_indices, fps=each.fps, times=each.times)
                for item, data, each in zip(media, payload, draft.expansions, strict=False)
            ),
            kept=sample.kept,
            rescue=piece.rescue,
            boxes=piece.drafted.boxes,
            # in the row's own key order: templates print tool schemas as they come
            conversation=orjson.dumps(conversation),
        )

    def _geometry(self, expansions: Sequence[Expansion]) -> dict[str, NDArray[Any]]:
        tensors: dict[str, NDArray[Any]] = {}
        for tensor in self.adapter.geometry:
            rows = [each.geometry[tensor.name] for each in expansions if tensor.name in each.geometry]
            tensors[tensor.name] = np.concatenate(rows) if rows else np.empty((0, *tensor.shape), tensor.dtype)
        return tensors
