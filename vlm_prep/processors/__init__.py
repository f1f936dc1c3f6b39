"""Model families over a Hugging Face processor.

    torchvision_cpu.py  make torchvision import beside CPU torch
    load.py             find and load a processor, name its identity by content
    adapter.py          what tokenizing asks of any family
    qwen_vl.py          Qwen2-VL, Qwen2.5-VL, Qwen3-VL: token counts by formula
    families.py         the table: which family a processor belongs to
    pixels.py           the image and video processors alone, as the runtime uses them
    forms.py            how media become stored tensors: found out with noise
    coding.py           float pixels as uint8 and back, bit by bit
    payload.py          makes the stored tensors; patches.py, its fast way for Qwen's patches
    stored.py           stored tensors → the processor's own

Adding a family is one module with a subclass of `adapter.Adapter` and one row in `families.FAMILIES`.
"""
