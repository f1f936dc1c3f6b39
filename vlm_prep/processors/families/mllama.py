"""Llama 3.2 Vision: one token a picture, which layers of cross attention see, tile by tile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from vlm_prep.core.errors import ProcessorError
from vlm_prep.core.records import MediaKind
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.expansion import Level, Size
from vlm_prep.processors.load import LoadedProcessor


class Mllama(Adapter):
    """Llama 3.2 Vision. `cross_attention_mask` is made of ids and tiles, see `processors.seen_pictures`.

    Raises:
        ProcessorError: its template opens with a picture, before which the processor puts no BOS.
    """

    family: ClassVar[str] = "mllama"
    levels: Mapping[MediaKind, Level] = {"image": "formula"}
    stands_in: ClassVar[bool] = False

    def __init__(self, loaded: LoadedProcessor) -> None:
        super().__init__(loaded)
        bare = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "x"}]}]
        text = str(self.hf.apply_chat_template(bare, chat_template=loaded.chat_template, tokenize=False))
        if text.startswith(self.hf.image_token):
            raise ProcessorError(
                f"{loaded.name}: its chat template opens with a picture, and {type(self.hf).__name__} puts its BOS "
                "behind that",
                "begin the template with {{ bos_token }}, as the model's own does",
            )

    def image_inputs(self, sizes: tuple[Size, ...]) -> Mapping[str, Any]:
        """See `Adapter.image_inputs`: the text says nothing of them."""
        return {}
