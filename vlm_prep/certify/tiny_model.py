"""A tiny random model of a config's own architecture, float32 on the CPU, the same for the same config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from vlm_prep.certify.kernels import reference_kernels
from vlm_prep.certify.tiny_config import tiny_config, token_ids
from vlm_prep.core.errors import ProcessorError
from vlm_prep.processors import internals
from vlm_prep.processors.backbone import attention_of, sources_of
from vlm_prep.processors.fault_words import said
from vlm_prep.processors.model_config import model_class

_SEED = 20


class TinyModel:
    """The model, and the ids that its vocabulary was cut to.

    Args:
        config: transformers' config object of the whole model.
        ids: the token ids of the batches.

    Raises:
        ProcessorError: transformers does not train this model, or it cannot be made small.
    """

    def __init__(self, config: Any, ids: Sequence[int]) -> None:
        import torch

        config = getattr(config, "thinker_config", config)  # Qwen-Omni trains the part that reads
        data = config.to_dict()
        self.ids = sorted({*ids, *token_ids(data)})
        mrope = any("mrope_section" in source for source in sources_of(config.get_text_config(decoder=True)))
        self.config = type(config).from_dict(tiny_config(data, self.ids, mrope=mrope))
        cls = model_class(self.config)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(_SEED)
                self.model = cls._from_config(self.config, dtype=torch.float32).eval()
                for parameter in self.model.parameters():
                    parameter.requires_grad_(False)
                    if not parameter.any():  # a gate at zero would hide what lies behind it
                        parameter.normal_(0, 0.02)
        except Exception as error:  # whatever a model's constructor raises
            raise ProcessorError(
                f"{cls.__name__} cannot be made small: {said(error)}",
                "that is a limit of the certificate; compare a step of your model padded and packed by hand",
            ) from error

    @property
    def attention(self) -> str | None:
        """What its language layers run where nobody chooses."""
        return attention_of(self.model)

    def remap(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return a batch with the ids of the small vocabulary."""
        import torch

        table = torch.tensor(self.ids)
        made = {name: value.float() if _is_half(value) else value for name, value in batch.items()}
        for name in ("input_ids", "labels", "decoder_input_ids"):
            if name in batch:
                ids = batch[name]
                made[name] = torch.where(ids < 0, ids, torch.searchsorted(table, ids.clamp(min=0)))
        return made

    def run(self, batch: Mapping[str, Any], attention: str = "sdpa") -> Any:
        """Return the model's output for a batch as a trainer would give it."""
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums in one order, and small matrices are no work for more
        try:
            with torch.no_grad(), self._running(attention):
                return self.model(**self.remap(batch))
        finally:
            torch.set_num_threads(threads)

    @contextmanager
    def _running(self, attention: str) -> Iterator[None]:
        text = self.model.config.get_text_config(decoder=True)
        before = internals.attention_unchecked.of(text)
        # past transformers' check that the package of the kernel is installed: the reference stands in for it; only
        # where text is attended, as towers of media see no documents
        internals.attention_unchecked.set(before if attention == "sdpa" else attention, text)
        try:
            with reference_kernels(self.model):
                yield
        finally:
            internals.attention_unchecked.set(before, text)


def _is_half(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16, torch.float64)
