"""What was seen of each processor class of transformers that renders media in a chat, with the release named here.

Written by `tests/families/outcomes.py` and held true by `tests/families/test_zoo.py`: a small real processor of each
class is built, and rows of one and several pictures, videos and sounds are compared with it tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TRANSFORMERS = "5.23.0"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One class. Rows that are not rejects are equal to the processor's own."""

    family: str = ""
    levels: Mapping[str, str] = field(default_factory=dict)
    """{kind of media: how token counts are found}; kinds that are not here are `unsupported_media`."""
    rejects: tuple[str, ...] = ()
    """Rows that the real processor cannot take, which are rejects."""
    why: str = ""
    """Why it serves no chats, or not here; nothing else is said of it then."""


def checked() -> dict[str, Checked]:
    """Return {class of transformers: what was seen of it}."""
    return {name.strip(): _read(line) for name, _, line in (each.partition("|") for each in _TABLE.splitlines())}


def _read(line: str) -> Checked:
    cells = [cell.strip() for cell in line.split("|")]
    if len(cells) == 1:
        return Checked(why=cells[0])
    family, levels, rejects = cells
    kinds = dict(each.split(" ", 1) for each in levels.split(", "))
    return Checked(family=family, levels=kinds, rejects=tuple(rejects.split(", ")) if rejects else ())


def write(name: str, found: Checked) -> str:
    """Return a class's line of the table."""
    if found.why:
        return f"{name} | {found.why}"
    levels = ", ".join(f"{kind} {level}" for kind, level in found.levels.items())
    return " | ".join([name, found.family, levels, ", ".join(found.rejects)]).strip()


def markdown(more: Mapping[str, str] | None = None) -> list[str]:
    """Return the table in Markdown, as docs/families.md holds it.

    Args:
        more: {class: what a further column, on packs, says of it}.
    """
    head = ["processor", "family", "media", "rows that it does not take", *(["packs"] if more is not None else [])]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    left = []
    for name, found in sorted(checked().items()):
        if found.why:
            left.append(f"| {name} | {found.why} |")
            continue
        levels = ", ".join(f"{kind} {level}" for kind, level in found.levels.items())
        cells = [name, found.family, levels, ", ".join(found.rejects), *([more[name]] if more is not None else [])]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", "| not taken | why |", "|---|---|", *left]


_TABLE = """\
AriaProcessor | generic | image formula |
AudioFlamingo3Processor | generic | audio by size | sounds
AyaVisionProcessor | generic | image by size |
CanaryProcessor | audio: it returns no input_ids, so its text is no part of a chat
ChameleonProcessor | generic | image formula |
Cohere2VisionProcessor | generic | image by size |
CohereCompassProcessor | generic | image formula, video by size |
ColModernVBertProcessor | generic | image by size |
ColPaliProcessor | it is made for retrieval: it takes texts or pictures, never both
ColQwen2Processor | it is made for retrieval: it takes texts or pictures, never both
Cosmos3EdgeProcessor | generic | image formula, video by size |
CsmProcessor | generic | audio by size |
DeepseekOcr2Processor | generic | image by size |
DeepseekVLProcessor | generic | image by size |
DeepseekVLHybridProcessor | generic | image by size |
Dots3NoteProcessor | generic | image formula, video by size, audio by size |
EmbeddingGemma2Processor | generic | image formula, video by size, audio by size |
Emu3Processor | generic | image by size |
Ernie4_5_VLMoeProcessor | generic | image formula, video by size |
EvollaProcessor | it takes proteins
Exaone4_5_Processor | generic | image formula, video by size |
Florence2Processor | florence2 | image formula | text, pictures
FunAsrNanoProcessor | its feature extractor needs torchaudio; with it: audio by size
FuyuProcessor | it puts its one picture before the text itself: no placeholder stands for it
Gemma3Processor | gemma3 | image by size |
Gemma3nProcessor | generic | image formula, audio by size |
Gemma4Processor | gemma4 | image formula, video formula, audio by size |
Gemma4UnifiedProcessor | generic | image formula, video by size, audio by size |
Glm46VProcessor | generic | image formula, video by size |
Glm4vProcessor | generic | image formula, video by size |
Glm5NextProcessor | generic | image formula, video by size |
GlmImageProcessor | it is made to draw: behind the text it writes the grid of what is drawn
GlmAsrProcessor | generic | audio by size | sounds
GotOcr2Processor | it takes no pictures as chats hand them over, in a list for each row
Granite4VisionProcessor | generic | image formula |
GraniteDoclingProcessor | generic | image by size |
GraniteSpeechProcessor | its feature extractor needs torchaudio; with it: audio by size
HiggsAudioV2Processor | it needs an audio tokenizer, which is a model with weights
HunYuanVLProcessor | generic | image formula |
HyperCLOVAXVisionV2Processor | generic | image formula, video by size |
Idefics2Processor | image: what its placeholder becomes depends on the text beside it
Idefics3Processor | generic | image by size |
InklingProcessor | generic | image by size, audio by size |
Inkling2Processor | generic | image by size |
InternVLProcessor | internvl | image formula, video formula | unequal videos
JanusProcessor | generic | image by size |
Kimi_K25Processor | kimi_k25 | image formula, video formula |
Lfm2VlProcessor | generic | image by size |
Lfm3VlProcessor | generic | image formula, video by size |
LightOnOcrProcessor | generic | image formula |
Llama4Processor | generic | image by size |
LlavaProcessor | generic | image formula |
LlavaNextProcessor | generic | image formula |
LlavaNextVideoProcessor | generic | image formula, video by size | unequal videos
LlavaOnevisionProcessor | llava_onevision | image formula, video formula | unequal videos
MiniCPMOcrProcessor | generic | image by row, video by size |
MiniCPMV4_6Processor | generic | image by row, video by size |
MiniCPMV4_7Processor | generic | image by row, video by size |
MiniMaxM3VLProcessor | generic | image formula, video by size | video, videos, unequal videos, video and pictures
MllamaProcessor | mllama | image formula |
Molmo2Processor | generic | image by size, video by size | videos, unequal videos
MossTranscribeDiarizeProcessor | generic | audio by size |
MuseGlimmerProcessor | generic | image formula, video by size |
MuseSparkProcessor | generic | image formula, video by size, audio by size |
MusicFlamingoProcessor | generic | audio by size | sounds
Nemotron3_5TranscribeProcessor | generic | audio by size | sounds
NemotronH_Omni_Reasoning_V3Processor | built-in family nemotron_omni; its parts come with the model's own files
NeoMMEProcessor | it is made for retrieval: it takes texts or pictures, never both
Ovis2Processor | generic | image by size |
PaddleOCRVLProcessor | generic | image by size |
PaliGemmaProcessor | paligemma | image formula | text
PerceptionLMProcessor | generic | image by row, video by size | unequal videos
Phi4MultimodalProcessor | phi4_multimodal | image by size, audio formula |
PI0Processor | it is made to move robots: it puts its pictures before the text itself
PixtralProcessor | pixtral | image formula |
PocketTTSProcessor | it is made to speak: its prompts hold a voice, its labels are sound
PPChart2TableProcessor | generic | image by size | text
QianfanOCRProcessor | generic | image formula |
Qwen2_5OmniProcessor | qwen2_5_omni | image formula, video formula, audio formula |
Qwen2_5_VLProcessor | qwen2_5_vl | image formula, video formula |
Qwen2AudioProcessor | generic | audio by size |
Qwen2VLProcessor | qwen2_vl | image formula, video formula |
Qwen3ASRProcessor | generic | audio by size | text, sounds
Qwen3OmniMoeProcessor | qwen3_omni_moe | image formula, video formula, audio formula |
Qwen3VLProcessor | qwen3_vl | image formula, video formula |
ShieldGemma2Processor | it classifies pictures with prompts of its own
SmolVLMProcessor | generic | image by size, video by size | video and pictures
Step3p7Processor | generic | image by size |
UnlimitedOcrProcessor | generic | image by size |
VibeVoiceProcessor | generic | audio by size |
VibeVoiceAsrProcessor | generic | audio by size |
VideoLlama3Processor | generic | image formula, video full |
VideoLlavaProcessor | generic | image by size, video by size | unequal videos
VoxtralProcessor | its tokenizer needs mistral-common; with it: audio by size
"""
