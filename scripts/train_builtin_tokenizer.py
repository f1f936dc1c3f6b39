"""Make the built-in processor ``qwen2.5-vl-mini``: train its tokenizer and write its settings.

The built-in processor must be a real one (a byte-level BPE behind Qwen2's text pipeline, the control tokens
and the image settings of Qwen2.5-VL), yet small enough to ship inside the package. So the vocabulary is
trained here, on text written for this purpose (``scripts/builtin_text/*.txt``) and on the demo conversations.

Run ``python scripts/train_builtin_tokenizer.py``; the same text and the same version of ``tokenizers`` give
the same bytes. ``chat_template.jinja`` is written by hand and left alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

ROOT = Path(__file__).resolve().parent.parent
TEXT = ROOT / "scripts" / "builtin_text"
DATA = ROOT / "vlm_prep" / "builtin" / "data"
TARGET = ROOT / "vlm_prep" / "builtin" / "processors" / "qwen2.5-vl-mini"

BPE_SIZE = 4074  # at most; training stops earlier when no pair of pieces occurs twice
# Qwen2's way of cutting text into words: contractions, words with one leading sign, single digits, other
# signs, line ends, other white space.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# In the order of their ids. The first are "special": decoding can skip them. The others are kept as text.
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
NOT_SPECIAL = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
PREPROCESSOR: dict[str, Any] = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
}


def strings_in(value: Any) -> Iterator[str]:
    """Every string inside a parsed JSON value, without the names of the fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from strings_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings_in(item)


def training_text() -> list[str]:
    """The text in a fixed order: the files by name, then the demo conversations."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(TEXT.glob("*.txt"))]
    for path in sorted(DATA.glob("*_talk.json*")):
        content = path.read_text(encoding="utf-8")
        by_line = path.suffix == ".jsonl"
        rows = [json.loads(line) for line in content.splitlines()] if by_line else json.loads(content)
        texts.extend(strings_in(rows))
    return texts


def byte_level_pipeline(tokenizer: Tokenizer) -> None:
    """Qwen2's pipeline around the BPE; ``use_regex=False`` because the words are already cut before it."""
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()


def train() -> Tokenizer:
    """Train the BPE and append the control tokens right after it."""
    tokenizer = Tokenizer(models.BPE())
    byte_level_pipeline(tokenizer)
    trainer = trainers.BpeTrainer(
        vocab_size=BPE_SIZE,
        min_frequency=2,
        special_tokens=[],
        # All 256 bytes, so that any text can be encoded although there is no unknown token.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in NOT_SPECIAL])
    return tokenizer


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of ``tokenizer.json``, spelled as in Qwen2's where the library writes another spelling."""
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    # Neither changes a result: a decoder ignores its flags, and "" means no prefix or suffix, as null does.
    content["decoder"] = dict(content["post_processor"])
    content["model"].update(continuing_subword_prefix="", end_of_word_suffix="")
    return content


def tokenizer_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """The settings that make ``AutoTokenizer`` build a ``Qwen2Tokenizer``."""
    flags = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    decoder = {
        str(number): {flag: getattr(token, flag) for flag in flags}
        for number, token in sorted(tokenizer.get_added_tokens_decoder().items())
    }
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": [token for token in SPECIAL if token != "<|endoftext|>"],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "processor_class": "Qwen2_5_VLProcessor",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def write_json(name: str, value: Any) -> None:
    """Write one file of the processor, readable and ending in a line end."""
    text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
    (TARGET / name).write_text(text, encoding="utf-8")


def main() -> None:
    """Train, write and report."""
    TARGET.mkdir(parents=True, exist_ok=True)
    tokenizer = train()
    write_json("tokenizer.json", tokenizer_json(tokenizer))
    write_json("tokenizer_config.json", tokenizer_config(tokenizer))
    write_json("preprocessor_config.json", PREPROCESSOR)
    words = tokenizer.get_vocab_size(with_added_tokens=False)
    characters = sum(len(text) for text in training_text())
    control = tokenizer.get_vocab_size() - words
    print(f"{words} BPE tokens and {control} control tokens from {characters} characters")


if __name__ == "__main__":
    main()
