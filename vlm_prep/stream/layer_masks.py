"""4-D masks of packs for each kind of a model's layers, by the model's own mask function.

The function (`create_masks_for_generate` of the model's class) is asked about one document at a time, with its types of
tokens, and its answers are laid along the diagonal. Asked about a whole pack it would be wrong: transformers 5.23 puts
pictures of a pack's later documents in the wrong place of sliding layers (Gemma 3), and opens the prefixes of all
documents to each other (PaliGemma). A document's masks depend on its types and length alone.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vlm_prep.processors import internals
from vlm_prep.processors.backbone import makes_one_mask, sources_of
from vlm_prep.processors.model_config import config_of, model_class

if TYPE_CHECKING:
    import torch

_IN_FORWARD = 'mask_kwargs["block_sequence_ids"] = block_sequence_ids'
"""In a model whose forward opens pictures in all of its layers, and whose function for generation does not (Gemma 4
Unified of transformers 5.23): what is trained is forward."""


class LayerMasks:
    """Makes the masks of a model.

    Args:
        config: of the model, as JSON.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._json = dict(config)

    def __getstate__(self) -> dict[str, Any]:
        return {"_json": self._json}

    @cached_property
    def _one_for_all(self) -> bool:
        """Of PaliGemma 2: it takes no dict of masks, and its sliding layers see all that the one mask shows."""
        return makes_one_mask(sources_of(self._function[1]))

    @cached_property
    def _function(self) -> tuple[Any, Any]:
        config = config_of(self._json)
        if config is None:
            raise ValueError(f"transformers has no model {self._json.get('model_type')}")
        internals.attention.set("sdpa", config.get_text_config())
        from transformers.masking_utils import create_masks_for_generate

        cls = model_class(config)
        module = sys.modules[cls.__module__]
        if _IN_FORWARD in inspect.getsource(module):
            blocks_of = module.get_block_sequence_ids_for_mask

            def as_forward(*, mm_token_type_ids: Any = None, config: Any, **given: Any) -> Any:
                text = config.get_text_config()
                if text.use_bidirectional_attention == "vision" and mm_token_type_ids is not None:
                    given["block_sequence_ids"] = blocks_of(mm_token_type_ids, device=mm_token_type_ids.device)
                return create_masks_for_generate(config=text, **given)

            return as_forward, config
        return getattr(cls, "create_masks_for_generate", create_masks_for_generate), config

    def of_document(self, types: Mapping[str, torch.Tensor], length: int) -> dict[str, torch.Tensor | None]:
        """Return {kind of layer: bool (length, length), True where query (row) may attend to key (column)}.

        Args:
            types: what the processor says of the document's tokens, (length,) each.
            length: of the document.
        """
        import torch

        function, config = self._function
        taken = inspect.signature(function).parameters
        given = {name: each[None] for name, each in types.items() if name in taken}
        made = function(
            config=config,
            inputs_embeds=torch.empty(1, length, 0),
            attention_mask=None,
            past_key_values=None,
            position_ids=None,
            **given,
        )
        by_kind = made if isinstance(made, dict) else {"": made}
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        return {
            kind: None if kind in ("linear_attention", "conv") else causal if mask is None else mask[0, 0]
            for kind, mask in by_kind.items()
        }

    def of_batch(
        self, types: Mapping[str, torch.Tensor], seq_lens: Sequence[torch.Tensor], length: int
    ) -> dict[str, torch.Tensor | None] | torch.Tensor:
        """Return bool (batch, 1, length, length) masks for each kind of layer, or one where all are of one kind.

        Args:
            types: what the processor says of the batch's tokens, (batch, length) each.
            seq_lens: lengths of each row's documents.
            length: of the rows. A token of padding sees itself alone.
        """
        import torch

        laid: dict[str, torch.Tensor | None] = {}
        for row, lengths in enumerate(seq_lens):
            start = 0
            for count in (int(each) for each in lengths):
                place = slice(start, start + count)
                own = {name: each[row, place] for name, each in types.items()}
                for kind, mask in self.of_document(own, count).items():
                    if mask is None:
                        laid[kind] = None
                        continue
                    if kind not in laid:
                        eye = torch.eye(length, dtype=torch.bool)
                        laid[kind] = eye.repeat(len(seq_lens), 1, 1, 1)
                    laid[kind][row, 0, place, place] = mask  # type: ignore[index]
                start += count
        only = laid.get("full_attention" if self._one_for_all else "", laid.get(""))
        return laid if only is None else only
