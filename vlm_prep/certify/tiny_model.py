"""A tiny random model of a config's own architecture, float32 on the CPU, the same for the same config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from vlm_prep.certify.kernels import reference_kernels
from vlm_prep.certify.tiny_config import tiny_config, token_ids
from vlm_prep.core.errors import ProcessorError
from vlm_prep.processors.backbone import sources_of

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
                self.model = cls._from_config(self.config, attn_implementation="sdpa", dtype=torch.float32).eval()
                for parameter in self.model.parameters():
                    parameter.requires_grad_(False)
                    if not parameter.any():  # a gate at zero would hide what lies behind it
                        parameter.normal_(0, 0.02)
        except Exception as error:  # whatever a model's constructor raises
            raise ProcessorError(
                f"{cls.__name__} cannot be made small: {type(error).__name__}: {error}",
                "that is a limit of the certificate; compare a step of your model padded and packed by hand",
            ) from error

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
        configs = [module.config for module in self.model.modules() if hasattr(module, "config")]
        # past transformers' check that the package of the kernel is installed: the reference stands in for it
        before = [(config, config._attn_implementation_internal) for config in configs]
        for config in configs:
            config._attn_implementation_internal = attention
        try:
            with reference_kernels(self.model):
                yield
        finally:
            for config, name in before:
                config._attn_implementation_internal = name


def _is_half(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16, torch.float64)


def model_class(config: Any) -> Any:
    """Return the class that trains a config's model, as its checkpoint names it or transformers' tables do.

    Raises:
        ProcessorError: there is none.
    """
    import transformers
    from transformers.models.auto import modeling_auto

    for name in getattr(config, "architectures", None) or ():
        if hasattr(transformers, name) and getattr(transformers, name).config_class is type(config):
            return getattr(transformers, name)
    for table in ("IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ"):
        mapping = getattr(modeling_auto, f"MODEL_FOR_{table}_MAPPING")
        if type(config) in mapping:
            found = mapping[type(config)]
            return found[0] if isinstance(found, tuple) else found
    module = __import__(type(config).__module__.replace("configuration_", "modeling_"), fromlist=["x"])
    for each in vars(module).values():
        named = isinstance(each, type) and each.__name__.endswith(("ForConditionalGeneration", "ForCausalLM"))
        if named and getattr(each, "config_class", None) is type(config):
            return each
    raise ProcessorError(f"transformers has no class that trains {type(config).__name__}")
