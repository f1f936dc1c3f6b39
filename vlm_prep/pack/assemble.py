"""Documents → one pack: concatenated ids, labels, positions and media.

Documents keep their boundaries (`seq_lens`), positions restart in each, labels stay unshifted. Used when shards are
materialized and, for an index store, when a pack is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.pack.model_rule import ModelRule, Rule
from vlm_prep.pack.omni import omni_positions
from vlm_prep.pack.positions import OMNI, mrope_positions, plain_positions
from vlm_prep.shards.schema import BESIDE, LOSS_WEIGHTS

Document = Mapping[str, Any]


def document_positions(document: Document, rule: Rule | None) -> NDArray[Any]:
    """Return (3, length) mRoPE positions of a document, or (length,) plain ones without a rule.

    int32; float32 for qwen3_omni_moe, as in the model; other models may have other numbers of axes.

    Raises:
        ValueError: media tokens and grids of the document do not agree.
    """
    ids = document["input_ids"]
    if rule is None:
        return plain_positions(len(ids))
    if isinstance(rule, ModelRule):
        return rule.positions(document)
    if rule.scheme in OMNI:
        return omni_positions(
            ids,
            document.get("image_grid_thw"),
            document.get("video_grid_thw"),
            document.get("video_second_per_grid"),
            rule,
        )
    return mrope_positions(
        ids,
        document.get("image_grid_thw"),
        document.get("video_grid_thw"),
        document.get("second_per_grid_ts"),
        rule,
    )


def assemble_pack(
    documents: Sequence[Document], pack_id: int, rule: Rule | None, tensors: Sequence[str]
) -> dict[str, Any]:
    """Return the columns of `shards.schema.packed_schema` for one pack.

    Args:
        documents: rows of a tokenized store, in the order they are laid out.
        pack_id: number of the pack in the plan.
        rule: how mRoPE positions are computed, or None.
        tensors: names of the stored tensors.
    """
    pack: dict[str, Any] = {
        "pack_id": pack_id,
        "sample_ids": [document["sample_id"] for document in documents],
        "input_ids": np.concatenate([document["input_ids"] for document in documents]),
        "labels": np.concatenate([document["labels"] for document in documents]),
        "position_ids": np.concatenate([document_positions(document, rule) for document in documents], axis=-1),
        "seq_lens": np.asarray([len(document["input_ids"]) for document in documents], np.int32),
        "media": [item for document in documents for item in document["media"]],
        "media_counts": np.asarray([len(document["media"]) for document in documents], np.int32),
    }
    for name in BESIDE:
        if name in documents[0]:
            pack[name] = [document[name] for document in documents]
    for name in (LOSS_WEIGHTS, *tensors):
        if name in documents[0]:
            pack[name] = np.concatenate([document[name] for document in documents])
    return pack
