"""Texts of rows that are long and almost what is looked for: time grows with their length, not with its square."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from vlm_prep.core.bounds import bounded
from vlm_prep.core.errors import InputError, Reject, RejectReason
from vlm_prep.core.records import Media, Sample
from vlm_prep.core.row_json import RowJsonError, parse_row
from vlm_prep.ingest.json_scan import elements
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.files import split_uri
from vlm_prep.media.library_words import plain_words
from vlm_prep.media.places import ANYWHERE, located
from vlm_prep.tokenize.chat.sentinels import _kept

LONG = 400_000
"""Characters. With the square of it each of these takes from minutes to days of a core."""


def almost(start: str, again: str, end: str = "") -> str:
    return start + again * (LONG // len(again)) + end


@pytest.mark.parametrize(
    "text",
    [
        almost("iVBORw0KGgo" + "A" * 64, "\n", "!"),
        almost("![](a", ".jpg"),
        almost("<img ", " src="),
        almost("<img>a", ".jpg "),
        almost("", "<think>"),
        almost("", "<tool_call>{"),
    ],
    ids=["base64", "markdown", "html", "named", "thought", "call"],
)
def test_a_text_that_is_almost_a_picture_or_a_tag(text: str, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "A."}]
    (tmp_path / "rows.jsonl").write_bytes(orjson.dumps({"messages": turns}) + b"\n")
    with bounded("reading the row"):
        (found,) = open_samples(tmp_path / "rows.jsonl").read(0, 1)
    assert isinstance(found, Sample)
    assert found.messages[0]["content"] in (text, [{"type": "text", "text": text}])


@pytest.mark.parametrize("text", [almost('{"a": "', '\\"'), almost("{", ",/*q"), almost("{ ", "/*q")])
def test_json_whose_texts_and_comments_are_not_closed(text: str, tmp_path: Path) -> None:
    with bounded("parsing the row"), pytest.raises(RowJsonError):
        parse_row(text.encode(), lenient=True)
    (tmp_path / "rows.json").write_text(f"[{text}")
    with bounded("finding the rows"), pytest.raises(InputError):
        list(elements(tmp_path / "rows.json", "array", lenient=True))


@pytest.mark.parametrize(
    "path", ["/x" + "/a" * 1500, "/x" + "/y.." * 1000, almost("/x", "/"), almost("/x", "::a"), almost("/x", "%20/ ")]
)
def test_a_path_with_thousands_of_readings(path: str) -> None:
    with bounded("finding the file"):
        split_uri(path)
        with pytest.raises(Reject) as caught:
            located(Media(kind="image", uris=(path,)), ANYWHERE)
    assert caught.value.reason == RejectReason.MISSING_FILE


@pytest.mark.parametrize("said", [almost("", "a"), almost("", "a.c:"), almost("", " "), almost("", "+")])
def test_what_a_library_says_of_a_long_text(said: str) -> None:
    with bounded("cleaning the message"):
        assert len(plain_words(RuntimeError(said))) <= 300


def test_an_answer_that_begins_as_messages_in_json_almost_do(tmp_path: Path) -> None:
    row = {"prompt": almost("", " ", "Q?"), "completion": almost("", "\n", "A.")}
    (tmp_path / "rows.jsonl").write_bytes(orjson.dumps(row) + b"\n")
    with bounded("reading the row"):
        (found,) = open_samples(tmp_path / "rows.jsonl").read(0, 1)
    assert isinstance(found, Sample)
    assert [each["content"][0]["text"] for each in found.messages] == [row["prompt"], row["completion"]]


def test_blanks_that_a_template_kept() -> None:
    """Which of them are whose: all of a text's end, all of the next one's start, or it cannot be told."""
    blanks = almost("", " ")
    with bounded("placing the texts", seconds=10):
        assert _kept(f"{blanks}<e>", "<e>", blanks, blanks) == (len(blanks), 0)
        assert _kept(f"{blanks}<e>{blanks}", "<e>", blanks, blanks) == (len(blanks), len(blanks))
        assert _kept(blanks, "", blanks, blanks) is None
        assert _kept(blanks[1:] + "x", "x", blanks, "") == (len(blanks) - 1, 0)
        assert _kept(blanks, blanks + "x", blanks, blanks) is None
