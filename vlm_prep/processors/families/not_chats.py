"""Processor classes of transformers that serve no chat, or none that is one row, and why, in words.

They are tried like any other, so a release that serves them is taken; what they raise when tried says less.
"""

from __future__ import annotations

from collections.abc import Mapping

_RETRIEVAL = "it is made for retrieval: it takes texts or pictures, never both"
NOT_CHATS: Mapping[str, str] = {
    "ColPaliProcessor": _RETRIEVAL,
    "ColQwen2Processor": _RETRIEVAL,
    "FuyuProcessor": "it puts its one picture before the text itself: no placeholder stands for it",
    "GlmImageProcessor": "it is made to draw: behind the text it writes the grid of what is drawn",
    "GotOcr2Processor": "it takes no pictures as chats hand them over, in a list for each row",
    "InstructBlipProcessor": "its Q-Former reads the question once more: two texts",
    "InstructBlipVideoProcessor": "its Q-Former reads the question once more: two texts",
    "NeoMMEProcessor": _RETRIEVAL,
    "PI0Processor": "it is made to move robots: it puts its pictures before the text itself",
    "PocketTTSProcessor": "it is made to speak: its prompts hold a voice, its labels are sound",
    "ShieldGemma2Processor": "it classifies pictures with prompts of its own",
}
