"""Processors that come with code of their own, in the shapes of public ones and in shapes that nobody has yet.

Each is written here after the call signature and the tensors of what it stands for, around a part and a tokenizer of
transformers' own, and saved as a folder that loads with --trust-remote-code alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from families.build import tokenizer

from vlm_prep.processors.torchvision_cpu import ensure_torchvision

TEMPLATE = """\
{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}
{%- for part in message['content'] %}
{%- if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'image' %}{{ IMAGE }}{% endif %}
{%- endfor %}{{ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

HEAD = '''
import torch
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin


def flat(images):
    """Pictures in whatever lists they come."""
    return [one for each in images for one in (flat(each) if isinstance(each, (list, tuple)) else [each])]


class Base(ProcessorMixin):
    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def texts(self, text):
        return [text] if isinstance(text, str) else list(text)

    def pixels(self, picture, side):
        size = {"height": side, "width": side}
        return self.image_processor(picture, size=size, crop_size=size, return_tensors="pt")["pixel_values"]

    def ids(self, text):
        return torch.tensor([self.tokenizer(text, add_special_tokens=False)["input_ids"]])
'''

DOTS_OCR = '''
from transformers import Qwen2_5_VLProcessor


class DotsVLProcessor(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's, with another token for pictures, without videos."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.image_token = "<|imgpad|>" if not hasattr(tokenizer, "image_token") else tokenizer.image_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
'''

OVIS_2_5 = (
    HEAD
    + '''

class Ovis2_5Processor(Base):
    """Token by token, lists of patches and grids, no mask."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.image_token = "<image>"

    def __call__(self, images=None, videos=None, text=None, **kwargs):
        output, written = BatchFeature(), []
        if images is not None:
            output["pixel_values"], output["grids"] = [], []
            for picture in flat(images):
                rows, columns = max(1, picture.height // 100) * 2, max(1, picture.width // 100) * 2
                made = self.image_processor(
                    picture, size={"height": rows * 8, "width": columns * 8}, do_center_crop=False, return_tensors="pt"
                )["pixel_values"][0]
                patches = made.reshape(3, rows // 2, 2, 8, columns // 2, 2, 8).permute(1, 4, 2, 5, 0, 3, 6)
                output["pixel_values"].append(patches.reshape(rows * columns, -1))
                output["grids"].append(torch.tensor([[1, rows, columns]]))
                pad = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
                written.append([pad] * (rows * columns // 4 + 2))
        rows = []
        for each in self.texts(text):
            ids = []
            for number, piece in enumerate(each.split(self.image_token)):
                ids += written.pop(0) if number else []
                ids += self.tokenizer(piece, add_special_tokens=False)["input_ids"]
            rows.append(ids)
        output["input_ids"] = torch.tensor(rows)
        return output
'''
)

MINICPM_O = (
    HEAD
    + '''

class MiniCPMOProcessor(Base):
    """Slices of unequal sizes in lists of lists, and where in the text pictures stand."""

    def __call__(self, text, images=None, audios=None, return_tensors="pt", **kwargs):
        pixels, sizes, text = [], [], self.texts(text)
        for picture in flat(images or []):
            slices = 1 + int(picture.width > 250)
            pixels += [self.pixels(picture, 56)[0]] + [self.pixels(picture, 84)[0]] * (slices - 1)
            sizes += [[4, 4]] + [[6, 6]] * (slices - 1)
            written = "<image>" + "<unk>" * 4 + "</image>" + ("<slice>" + "<unk>" * 9 + "</slice>") * (slices - 1)
            text = [text[0].replace("(<image>./</image>)", written, 1)]
        ids = self.ids(text[0]).to(torch.int32)
        starts = torch.where((ids[0] == self.at("<image>")) | (ids[0] == self.at("<slice>")))[0] + 1
        ends = torch.where((ids[0] == self.at("</image>")) | (ids[0] == self.at("</slice>")))[0]
        return BatchFeature({
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids, dtype=torch.bool),
            "pixel_values": [pixels],
            "tgt_sizes": [torch.tensor(sizes, dtype=torch.int32)],
            "image_bound": [torch.stack([starts, ends], 1)],
            "audio_features": [],
        })

    def at(self, token):
        return self.tokenizer.convert_tokens_to_ids(token)
'''
)

TILES = (
    HEAD
    + '''

class TilesProcessor(Base):
    """Tiles of unequal sizes in one list, rows of tiles told in the text."""

    def __call__(self, images=None, text=None, **kwargs):
        tiles, counts, written = [], [], self.texts(text)[0]
        for number, picture in enumerate(flat(images or [])):
            sides = [56] if picture.width < 250 else [56, 84, 112][: 2 + picture.height // 500]
            tiles += [self.pixels(picture, side)[0] for side in sides]
            counts.append(len(sides))
            put = "".join(f"[{side}]" + "<t>" * (side // 28) ** 2 for side in sides)
            written = written.replace("<pic>", f"<<{number}:{put}>>", 1)
        ids = self.ids(written.replace("<<", "<tiles>").replace(">>", "</tiles>"))
        made = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return {**made, "tiles": tiles, "tiles_of": torch.tensor(counts)} if counts else made
'''
)

NESTED = (
    HEAD
    + '''

class NestedProcessor(Base):
    """A list for each row, in it one for each picture, in it a tensor for each scale."""

    def __call__(self, images=None, text=None, **kwargs):
        scales, written = [], self.texts(text)[0]
        for picture in flat(images or []):
            scales.append([self.pixels(picture, side)[0] for side in (28, 56)[: 1 + int(picture.height > 100)]])
            written = written.replace("<pic>", "<s>" * 4 + "<t>" * (len(scales[-1]) * 3), 1)
        ids = self.ids(written)
        made = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return {**made, "scales": [scales]} if scales else made
'''
)

TWO_SIZES = (
    HEAD
    + '''

class TwoSizesProcessor(Base):
    """A small view of each picture, a large one of large pictures alone, and how many of these there are."""

    def __call__(self, images=None, text=None, **kwargs):
        pictures, written = flat(images or []), self.texts(text)[0]
        large = [picture for picture in pictures if picture.width > 250]
        for picture in pictures:
            written = written.replace("<pic>", "<g>" * 4 + ("\\n" + "<l>" * 9 if picture.width > 250 else ""), 1)
        ids = self.ids(written)
        made = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if pictures:
            made["small_views"] = torch.cat([self.pixels(each, 56) for each in pictures])
            made["has_large"] = torch.tensor([each.width > 250 for each in pictures])
        if large:
            made["large_views"] = torch.cat([self.pixels(each, 84) for each in large])
        return made
'''
)

SHAPES: Mapping[str, tuple[str, str, str]] = {
    "DotsVLProcessor": (DOTS_OCR, "<|img|><|imgpad|><|endofimg|>", "Qwen2VLImageProcessor"),
    "Ovis2_5Processor": (OVIS_2_5, "<image>", "CLIPImageProcessor"),
    "MiniCPMOProcessor": (MINICPM_O, "(<image>./</image>)", "CLIPImageProcessor"),
    "TilesProcessor": (TILES, "<pic>", "CLIPImageProcessor"),
    "NestedProcessor": (NESTED, "<pic>", "CLIPImageProcessor"),
    "TwoSizesProcessor": (TWO_SIZES, "<pic>", "CLIPImageProcessor"),
}
"""{class: (its code, what the template writes for a picture, the class of its part)}."""
_TOKENS = {
    "DotsVLProcessor": ("<|img|>", "<|imgpad|>", "<|endofimg|>"),
    "Ovis2_5Processor": ("<image>", "<|image_pad|>"),
    "MiniCPMOProcessor": ("<image>", "</image>", "<slice>", "</slice>", "<unk>"),
    "TilesProcessor": ("<pic>", "<t>", "<tiles>", "</tiles>"),
    "NestedProcessor": ("<pic>", "<s>", "<t>"),
    "TwoSizesProcessor": ("<pic>", "<g>", "<l>"),
}


def build(name: str, folder: Path) -> Path:
    """Save a processor with its code."""
    ensure_torchvision()
    import transformers

    code, written, part = SHAPES[name]
    folder.mkdir(parents=True)
    special = ("<pad>", "<|im_start|>", "<|im_end|>", *_TOKENS[name])
    tokenizer(special, eos_token="<|im_end|>", pad_token="<pad>").save_pretrained(folder)
    getattr(transformers, part)().save_pretrained(folder)
    (folder / "processing_remote.py").write_text(code)
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace("IMAGE", repr(written)))
    named: dict[str, Any] = {"processor_class": name, "auto_map": {"AutoProcessor": f"processing_remote.{name}"}}
    for file in ("processor_config.json", "preprocessor_config.json"):
        path = folder / file
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**known, **named}))
    return folder
