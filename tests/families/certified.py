"""What the certificate says of a class of the zoo, in words that do not change from run to run.

`PYTHONPATH=tests python -m families.certified` writes the table of docs/families.md anew.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from families.small_models import model_of
from families.zoo import build

from vlm_prep.certify.certificate import Certificate, certify_processor
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.processors.families.checked import checked
from vlm_prep.processors.families.table import adapter_for
from vlm_prep.processors.load import load_processor
from vlm_prep.tokenize.encoder import SampleEncoder

FORMS = ("padded", "stand-in", "sdpa", "positions", "varlen")
PAGE = Path(__file__).parents[2] / "docs" / "families.md"
NOT_SMALL = "transformers' default config of its model is not made small yet"
LEFT = "Not certified here; `vlm-prep doctor --model FOLDER --certify` does it with the model's own config:"
START, END = "<!-- certificates -->", "<!-- certificates end -->"
UNTRIED = {
    "ChameleonProcessor": "its default config has no vocabulary map",
    "ColModernVBertProcessor": "a model for retrieval",
    "CsmProcessor": "a model that speaks; its codec cannot be made small",
    "EmbeddingGemma2Processor": "a model for embeddings",
    "Emu3Processor": "its default config has no vocabulary map",
    "PPChart2TableProcessor": "its pictures' token is not the one that the default config names",
    "PixtralProcessor": "no model beside it; as LLaVA's and Mistral 3's in `test_certificates.py`",
    "VibeVoiceAsrProcessor": "its encoder draws at random",
    "VibeVoiceProcessor": "its encoder draws at random",
}
"""Classes of which no model is built here, and why."""


def certificate(name: str, folder: Path) -> Certificate:
    """The certificate of a class's small processor and its model."""
    adapter = adapter_for(load_processor(str(build(name, folder / name))))
    return certify_processor(SampleEncoder(adapter, TokenizeConfig()), model_of(name, adapter))


def line(name: str, found: Certificate) -> str:
    """A class's line of the table."""
    verdicts = {each.form: each.verdict for each in found.findings}
    cells = [verdicts.get(form) or verdicts.get("packs", "-") for form in FORMS]
    return f"| {name} | {found.model} | {' | '.join(cells)} | {', '.join(found.not_compared) or '-'} |"


def stated() -> dict[str, str]:
    """{class: its line in the documentation}."""
    table = PAGE.read_text(encoding="utf-8").partition(START)[2].partition(END)[0]
    rows = [each for each in table.splitlines() if each.startswith("| ") and "Processor |" in each]
    return {each.split("|")[1].strip(): each for each in rows}


def main() -> None:
    """Write the table."""
    lines = [
        f"| processor | model | {' | '.join(FORMS)} | not compared |",
        "|" + "---|" * (len(FORMS) + 3),
    ]
    left = []
    for name in sorted(name for name, found in checked().items() if not found.why):
        if name in UNTRIED:
            left.append(f"- {name}: {UNTRIED[name]}")
            continue
        try:
            with TemporaryDirectory() as folder:
                lines.append(line(name, certificate(name, Path(folder))))
        except Exception as error:  # models raise whatever they raise while they are made small
            print(name, error, flush=True)
            left.append(f"- {name}: {NOT_SMALL}")
            continue
        if "failed" in lines[-1].replace("|", " ").split():  # what differs stands in the table, and a test finds it
            print(lines.pop(), flush=True)
            left.append(f"- {name}: {NOT_SMALL}")
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    tail = rest.partition(END)[2]
    PAGE.write_text("\n".join([head + START, "", *lines, "", LEFT, "", *left, "", END]) + tail, encoding="utf-8")


if __name__ == "__main__":
    main()
