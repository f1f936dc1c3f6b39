"""Tables of other people's making: read by a mapping's flags alone, and what `vlm-prep init` proposes for them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlm_prep.core.errors import InputError
from vlm_prep.core.records import Rejected, Sample
from vlm_prep.ingest.look import look
from vlm_prep.ingest.source import open_samples


def picture() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 6)).save(data, "PNG")
    return data.getvalue()


def cell() -> dict[str, Any]:
    return {"bytes": picture(), "path": "a.png"}


def table(path: Path, *rows: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def read(source: Path, **how: Any) -> list[tuple[list[Any], int]]:
    found = open_samples(source, **how)
    rows: list[Any] = list(found.read(0, len(found)))
    assert all(isinstance(row, Sample) for row in rows), rows
    return [
        ([[part.get("text", "#") for part in each["content"]] for each in row.messages], len(row.media)) for row in rows
    ]


def rejected(source: Path, **how: Any) -> str:
    (row,) = open_samples(source, **how).read(0, 1)
    assert isinstance(row, Rejected)
    return row.message


def proposal(source: Path) -> Any:
    """What `init` proposes, which reads the rows."""
    mapping = look(str(source)).mapping
    assert mapping is not None and read(source, mapping=mapping)
    return mapping


def test_objects_in_objects(tmp_path: Path) -> None:
    row = {"sample": {"media": {"shot": cell(), "width": 8}, "qa": {"ask": "What?", "reply": "A cup."}}}
    source = table(tmp_path / "a.parquet", row)
    turns = ["user=<image>{sample.qa.ask}", "assistant={sample.qa.reply}"]
    assert read(source, columns={"images": "sample.media.shot"}, turns=turns) == [([["#", "What?"], ["A cup."]], 1)]
    assert proposal(source) == {
        "images": "sample.media.shot",
        "turns": [{"user": ["image", "{sample.qa.ask}"]}, {"assistant": "{sample.qa.reply}"}],
    }


def test_prompts_in_several_columns_of_which_some_are_empty(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"en": "A?", "de": "B?", "fr": "C?"},
        {"en": None, "de": "B?", "fr": ""},
        {"en": None, "de": "", "fr": "C?"},
    ]
    source = table(tmp_path / "a.parquet", *({**row, "img": picture(), "caption": "A cup."} for row in rows))
    choice = {"choice": ["{en}", "{de}", "{fr}"]}
    mapping = {"images": "img", "turns": [{"user": ["image", choice]}, {"assistant": "{caption}"}]}
    first, *others = [turns[0][1] for turns, _ in read(source, mapping=mapping)]
    assert first in ("A?", "B?", "C?") and others == ["B?", "C?"]
    nothing = table(tmp_path / "b.parquet", {"en": "", "de": "", "fr": "", "img": picture(), "caption": "A cup."})
    assert read(nothing, mapping=mapping) == [([["#"], ["A cup."]], 1)]


def test_media_in_a_list_of_objects(tmp_path: Path) -> None:
    files = [{"kind": "image", "file": cell()}, {"kind": "image", "file": cell()}]
    source = table(tmp_path / "a.parquet", {"uid": 1, "files": files, "instruction_text": "Both?", "target": "Yes."})
    expected = [([["#", "#", "Both?"], ["Yes."]], 2)]
    columns = {"images": "files.*.file"}
    assert (
        read(source, columns=columns, turns=["user=<image><image>{instruction_text}", "assistant={target}"]) == expected
    )
    turns = ["user={instruction_text}", "assistant={target}"]
    assert read(source, columns=columns, turns=turns, missing_tags="first") == expected
    assert proposal(source)["images"] == "files.*.file"


def test_a_conversation_as_text_with_single_quotes(tmp_path: Path) -> None:
    chat = "[{'speaker': 'user', 'utterance': \"What's this?\"}, {'speaker': 'bot', 'utterance': 'A cup.'}]"
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps({"dialog": chat}) + "\n")
    keys = {"columns": {"messages": "dialog"}, "tags": {"role_tag": "speaker", "content_tag": "utterance"}}
    expected = [([["What's this?"], ["A cup."]], 0)]
    assert read(source, lenient_json=True, **keys) == expected
    turn = {"conversation": "dialog", "role": "speaker", "content": "utterance"}
    mapping = {"turns": [{**turn, "roles": {"user": "user", "bot": "assistant"}}]}
    assert read(source, lenient_json=True, mapping=mapping) == expected
    assert "`lenient_json=true` reads it" in rejected(source, **keys)
    doubled = chat.replace("'A cup.'", "'It''s a cup.'")  # Python joins the two to "Its a cup."
    source.write_text(json.dumps({"dialog": doubled}) + "\n")
    assert "no JSON" in rejected(source, lenient_json=True, **keys)


def test_a_conversation_under_keys_of_its_own_is_proposed(tmp_path: Path) -> None:
    chat = [{"speaker": "User", "utterance": "What?"}, {"speaker": "bot", "utterance": "A cup."}]
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps({"dialog": json.dumps(chat)}) + "\n")
    roles = {"User": "user", "bot": "assistant"}
    turn = {"conversation": "dialog", "role": "speaker", "content": "utterance", "roles": roles}
    assert proposal(source) == {"shared": True, "turns": [turn]}


def test_captions_in_a_list(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    source = tmp_path / "a.jsonl"
    notes = [{"raw": "A cup.", "id": 1}, {"raw": "It is red.", "id": 2}]
    source.write_text(json.dumps({"filename": "a.png", "notes": notes, "tags": ["cup", "red"]}) + "\n")
    columns = {"images": "filename"}
    first = ["user=<image>Describe.", "assistant={notes.0.raw}"]
    assert read(source, columns=columns, turns=first) == [([["#", "Describe."], ["A cup."]], 1)]
    asked = {"user": ["image", "Describe."]}
    picked = {"images": "filename", "turns": [asked, {"assistant": {"pick": "notes.*.raw"}}]}
    assert read(source, mapping=picked)[0][0][1][0] in ("A cup.", "It is red.")
    lines = {"join": [{"lines": "notes", "say": "{raw}"}, {"lines": "tags", "say": "- {text}"}], "with": "\n"}
    said = read(source, mapping={"images": "filename", "turns": [asked, {"assistant": lines}]})[0][0][1]
    assert "".join(said) == "A cup.\nIt is red.\n- cup\n- red"
    assert proposal(source)["images"] == "filename"


@pytest.mark.parametrize("form", ["parquet", "file", "stream"])
def test_two_columns_of_one_name_are_refused_and_none_is_dropped(form: str, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    columns = [pa.array([[*talk, *talk]]), pa.array([talk])]
    twice = pa.Table.from_arrays(columns, names=["messages", "messages"])
    path = tmp_path / ("rows.parquet" if form == "parquet" else "rows.arrow")
    if form == "parquet":
        pq.write_table(twice, path)
    else:
        with (pa.ipc.new_file if form == "file" else pa.ipc.new_stream)(str(path), twice.schema) as writer:
            writer.write_table(twice)
    with pytest.raises(InputError, match="two columns are named 'messages'"):
        open_samples(path)
