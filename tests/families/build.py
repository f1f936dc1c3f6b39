"""Small real processors, built with transformers' own classes around a byte-level BPE that is trained here.

For families whose published files cannot be shipped (Pixtral, Mistral 3), and for processors of no family that vlm-prep
knows (LLaVA-NeXT, Idefics 3), which the generic level must take.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from vlm_prep.processors.torchvision_cpu import ensure_torchvision

TEXT = [
    "What is in this picture? A cup of coffee on a table, seen from above.",
    "Describe the image. It shows a cat that looks into the camera.\n\nIt is brown.",
    "user assistant system: the first row and the second row of the page",
] * 8

INST_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message['role'] == 'user' %}{{ '[INST]' }}
{%- for part in message['content'] %}
{%- if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'image' %}{{ '[IMG]' }}{% endif %}
{%- endfor %}{{ '[/INST]' }}
{%- else %}
{%- for part in message['content'] %}{{ part['text'] }}{% endfor %}{{ eos_token }}
{%- endif %}
{%- endfor %}"""

USER_TEMPLATE = """\
{%- for message in messages %}{{ message['role'] | upper }}:{{ ' ' }}
{%- for part in message['content'] %}
{%- if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'image' %}{{ '<image>' }}{{ '\n' }}{% endif %}
{%- endfor %}{{ '<end>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"""


def tokenizer(special: tuple[str, ...], **named: Any) -> Any:
    """A byte-level BPE with these special tokens."""
    ensure_torchvision()
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **named)


def pixtral(folder: Path, *, patch: int = 16, merge: int = 1) -> None:
    """Pixtral; with patch 14 and merge 2 what Mistral 3 uses."""
    from transformers import PixtralImageProcessor, PixtralProcessor

    special = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]")
    text = tokenizer(special, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>")
    part = PixtralImageProcessor(patch_size={"height": patch, "width": patch}, size={"longest_edge": 512})
    made = PixtralProcessor(part, text, patch_size=patch, spatial_merge_size=merge, chat_template=INST_TEMPLATE)
    made.save_pretrained(folder)


def mistral3(folder: Path) -> None:
    """Mistral 3."""
    pixtral(folder, patch=14, merge=2)


def llava_next(folder: Path) -> None:
    """LLaVA-NeXT: tiles, and as many tokens as its own unpadding leaves."""
    from transformers import LlavaNextImageProcessor, LlavaNextProcessor

    text = tokenizer(("<pad>", "<end>", "<image>"), eos_token="<end>", pad_token="<pad>")
    part = LlavaNextImageProcessor(
        size={"shortest_edge": 112},
        crop_size={"height": 112, "width": 112},
        image_grid_pinpoints=[[112, 224], [224, 112], [224, 224]],
    )
    made = LlavaNextProcessor(
        part,
        text,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=USER_TEMPLATE,
        num_additional_image_tokens=1,
    )
    made.save_pretrained(folder)


def idefics3(folder: Path) -> None:
    """Idefics 3: rows and columns of tiles, each under tokens of its own."""
    from transformers import Idefics3ImageProcessor, Idefics3Processor

    grid = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
    special = ("<pad>", "<end>", "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *grid)
    text = tokenizer(special, eos_token="<end>", pad_token="<pad>")
    part = Idefics3ImageProcessor(size={"longest_edge": 448}, max_image_size={"longest_edge": 112})
    made = Idefics3Processor(part, text, image_seq_len=16, chat_template=USER_TEMPLATE)
    made.save_pretrained(folder)


BUILT = {"pixtral": pixtral, "mistral3": mistral3, "llava_next": llava_next, "idefics3": idefics3}


def build(name: str, folder: Path) -> Path:
    """Build a processor's folder."""
    ensure_torchvision()
    folder.mkdir(parents=True)
    BUILT[name](folder)
    return folder
