"""Granite Speech: rows are the processor's own, with torchaudio or with a spectrogram in its place."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import zoo
from families.outcomes import outcome

from vlm_prep.processors.backbone import possible_backbone
from vlm_prep.processors.kinds_apart import check_apart

ROWS = (("a", 40), ("also a", 40), ("b", 80))
NAME = "GraniteSpeechProcessor"
MODULE = "transformers.models.granite_speech.feature_extraction_granite_speech"


class Spectrogram(torch.nn.Module):
    """As long as torchaudio's, and of every sample."""

    def __init__(self, n_fft: int, hop_length: int, n_mels: int, **_: Any) -> None:
        super().__init__()
        self.size, self.hop, self.bands = n_fft, hop_length, n_mels

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        window = torch.hann_window(self.size)
        made = torch.stft(wave, self.size, self.hop, window=window, return_complex=True)
        return made[:, : self.bands].abs() ** 2


@pytest.fixture
def torchaudio(monkeypatch: pytest.MonkeyPatch) -> None:
    """The part of it that the extractor takes, where it is not installed."""
    zoo.chat_classes()
    if importlib.util.find_spec("torchaudio") is None:
        module = importlib.import_module(MODULE)
        named = SimpleNamespace(transforms=SimpleNamespace(MelSpectrogram=Spectrogram))
        monkeypatch.setattr(module, "torchaudio", named, raising=False)
        monkeypatch.setattr(module, "requires_backends", lambda *_: None)
    monkeypatch.delitem(zoo.NOT_BUILT, NAME)


@pytest.mark.usefixtures("torchaudio")
def test_rows_are_the_processors(tmp_path: Path) -> None:
    found, wrong = outcome(NAME, tmp_path)
    assert wrong == []
    assert (found.family, found.levels, found.rejects) == ("generic", {"audio": "by size"}, ())


def test_clips_of_unequal_length_are_no_batch_and_no_packs() -> None:
    backbone = possible_backbone(["granite_speech"])
    clips = [{"sample_id": name, "n_audios": 1, "input_features": torch.zeros(1, n, 160)} for name, n in ROWS]
    check_apart(clips[:2], backbone)
    with pytest.raises(ValueError, match=r"b \(80\) and a \(40\) differ in the length of their sound: granite_speech"):
        check_apart(clips, backbone)
    check_apart(clips, possible_backbone(["qwen2_audio"]))
    assert backbone.has_rows_apart
    assert "reads what pads a clip" in str(backbone.unpackable_sound)
