"""Boxes and points: read by a declared rule, written in the family's numbers, checked to lie in their picture."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlm_prep.core.errors import InputError, ProcessorError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.report.view.viewing import view
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.boxes import looks_like_boxes
from vlm_prep.tokenize.tokenize_run import tokenize

BUILTIN = "builtin:qwen2.5-vl-mini"
WIDTH, HEIGHT = 500, 300
Run = Callable[..., Any]


@pytest.fixture
def run(options: Callable[..., Any], tmp_path: Path) -> Run:
    """`run(rows, **config)`: the store of rows, each (answer, further columns), about a picture turned by EXIF."""
    picture = Image.linear_gradient("L").resize((HEIGHT, WIDTH)).convert("RGB")  # stored on its side
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGB", (60, 60)).save(tmp_path / "b.png")

    def make(rows: list[Any], name: str = "a", processor: str = BUILTIN, **config: Any) -> Store:
        lines = []
        for answer, more in rows:
            messages = [{"role": "user", "content": "<image>Where?"}, {"role": "assistant", "content": answer}]
            lines.append(json.dumps({"messages": messages, "images": ["a.jpg"], **more}) + "\n")
        (tmp_path / "rows.jsonl").write_text("".join(lines))
        settings = TokenizeConfig(verify_fraction=1.0, **config)
        kept = ["objects"] if any("objects" in more for _, more in rows) else None
        samples = open_samples(tmp_path / "rows.jsonl", keep_columns=kept)
        tokenize(samples, processor, settings, options(tmp_path / name, max_reject_rate=1.0))
        return Store(tmp_path / name)

    return make


def answers(store: Store) -> list[str]:
    found = []
    for row in store.rows():
        content = json.loads(row["conversation"])["messages"][-1]["content"]
        found.append(content if isinstance(content, str) else "".join(part["text"] for part in content))
    return found


def shown(folder: Path) -> Any:
    """What the page of a store holds."""
    found = re.search(r'id="data">(.*?)</script>', view(folder, rows=5, seed=0))
    return json.loads(found[1] if found else "")


def numbers(text: str) -> list[float]:
    return [float(each) for each in re.findall(r"[\d.]+", text.replace("bbox_2d", ""))]


def test_each_rule_of_the_data_gives_the_same_numbers_of_the_resized_picture(run: Run) -> None:
    # 500 x 300 upright becomes 504 x 308: sides are multiples of 28
    expected = [[round(125 * 504 / 500), round(150 * 308 / 300), 503, 307]]
    for rule, box in (
        ("absolute", [125, 150, 500, 300]),
        ("unit", [0.25, 0.5, 1, 1.0]),
        ("thousand", [250, 500, 1000, 1000]),
    ):
        store = run([(json.dumps([{"bbox_2d": box, "label": "cat 7"}]), {})], rule, boxes=rule)
        (answer,) = answers(store)
        assert [each["bbox_2d"] for each in json.loads(answer)] == expected and "cat 7" in answer
        row = store.row(0)
        assert row["image_grid_thw"].tolist() == [[1, 308 // 14, 504 // 14]]
        assert json.loads(row["boxes"]) == [[0, [0.25, 0.5, 1.0, 1.0], "cat 7"]]
        assert store.manifest.totals["boxes"] == 1 and store.manifest.proof["rows"] == {"image": 1}


def test_other_forms_and_other_numbers(run: Run) -> None:
    rows: list[tuple[str, dict[str, Any]]] = [
        ("<box>(125,150),(250,300)</box>", {}),
        ("<box>[[125, 150, 250, 300], [0, 0, 1, 1]]</box>", {}),
        ('{"point_2d": [125, 150]}', {}),
        ("The 3 of [4, 5, 6, 7] stay", {}),
    ]
    written = answers(run(rows, boxes="absolute", boxes_written="thousand"))
    assert written == [
        "<box>(250,500),(500,1000)</box>",
        "<box>[[250, 500, 500, 1000], [0, 0, 2, 3]]</box>",
        '{"point_2d": [250, 500]}',
        "The 3 of [4, 5, 6, 7] stay",
    ]
    assert answers(run(rows, "b", boxes="absolute", boxes_written="absolute")) == [answer for answer, _ in rows]
    assert answers(run(rows[:1], "c", boxes="absolute", boxes_written="unit")) == ["<box>(0.25,0.5),(0.5,1)</box>"]
    assert answers(run(rows, "d")) == [answer for answer, _ in rows]  # no rule, nothing touched


def test_objects_of_ms_swift(run: Run, processors: Path) -> None:
    objects = {"ref": ["a cat", "a dog"], "bbox": [[125, 150, 250, 300], [0, 0, 500, 300]], "bbox_type": "real"}
    objects["image_id"] = [0, 0]
    rows = [("<ref-object> is at <bbox>, <ref-object> at <bbox>", {"objects": objects})]
    assert answers(run(rows, boxes="absolute")) == ["a cat is at [126, 154, 252, 307], a dog at [0, 0, 503, 307]"]
    qwen2 = run(rows, "b", str(processors / "qwen2_vl"), boxes="absolute", control_tokens="allow")
    assert answers(qwen2)[0].startswith(
        "<|object_ref_start|>a cat<|object_ref_end|> is at <|box_start|>(250,500),(500,1000)<|box_end|>"
    )
    unit = {**objects, "bbox": [[0.25, 0.5, 0.5, 1], [0, 0, 1, 1]], "bbox_type": "norm1"}
    assert answers(run([(rows[0][0], {"objects": unit})], "c", boxes="absolute")) == answers(
        run(rows, "d", boxes="absolute")
    )
    assert read_rejects(run(rows, "f").folder)[0]["reason"] == "bad_box"  # kept, and no rule says what they are
    wrong = [(rows[0][0], {"objects": {**objects, "bbox": [[1, 2, 3]]}}), ("<bbox>", {"objects": objects})]
    assert {each["reason"] for each in read_rejects(run([*rows, *wrong], "e", boxes="absolute").folder)} == {"bad_box"}


def test_a_rescue_scales_them_with_the_picture(run: Run) -> None:
    answer = json.dumps({"bbox_2d": [125, 150, 500, 300]})
    whole = run([(answer, {})], boxes="absolute")
    limit = len(whole.row(0)["input_ids"]) - 60
    store = run([(answer, {})], "b", boxes="absolute", max_length=limit, overlong="rescue", rescue_min_pixels=3000)
    row = store.row(0)
    _, down, across = row["image_grid_thw"][0].tolist()
    assert down * 14 < 308 and row["media"][0]["scaled"]
    height, width = down * 14, across * 14
    assert numbers(answers(store)[0]) == [round(width / 4), round(height / 2), width - 1, height - 1]
    assert json.loads(row["boxes"]) == [[0, [0.25, 0.5, 1.0, 1.0]]]


def test_boxes_outside_are_rejected_or_clipped(run: Run) -> None:
    rows: list[tuple[str, dict[str, Any]]] = [
        ('{"bbox_2d": [400, 100, 520, 200]}', {}),
        ('{"bbox_2d": [200, 100, 100, 200]}', {}),
        ('{"bbox_2d": [1, 2, 3]}', {}),
        ('{"bbox_2d": [1, 2, 30, 40]}', {}),
    ]
    found = {each["line"]: each["reason"] for each in read_rejects(run(rows, boxes="absolute").folder)}
    assert found == {1: "box_outside", 2: "bad_box", 3: "bad_box"}
    store = run([rows[0]], "b", boxes="absolute", boxes_outside="clip", boxes_written="absolute")
    assert answers(store) == ['{"bbox_2d": [400, 100, 500, 200]}'] and store.manifest.totals["boxes_clipped"] == 1


def test_a_box_that_could_be_of_two_pictures_is_no_guess(run: Run) -> None:
    messages = [
        {"role": "user", "content": "<image><image>?"},
        {"role": "assistant", "content": '{"bbox_2d": [1, 2, 3, 4]}'},
    ]
    two = {"messages": messages, "images": ["a.jpg", "b.png"]}
    row = ("x", two)
    assert read_rejects(run([row], boxes="absolute").folder)[0]["reason"] == "bad_box"
    objects = {"ref": [], "bbox": [[30, 30, 60, 60]], "image_id": [1]}
    said = [messages[0], {"role": "assistant", "content": "<bbox>"}]
    store = run([("x", {**two, "messages": said, "objects": objects})], "b", boxes="absolute", boxes_written="thousand")
    assert answers(store) == ["[500, 500, 1000, 1000]"] and json.loads(store.row(0)["boxes"]) == [
        [1, [0.5, 0.5, 1.0, 1.0]]
    ]
    # numbers that are of no size are the same for both
    assert answers(run([row], "c", boxes="thousand", boxes_written="thousand")) == ['{"bbox_2d": [1, 2, 3, 4]}']


def test_the_page_draws_them_and_shows_rejected_pictures(run: Run, options: Callable[..., Any]) -> None:
    rows: list[tuple[str, dict[str, Any]]]
    rows = [('{"bbox_2d": [125, 150, 250, 300]}', {}), ('{"point_2d": [900, 1]}', {}), ("word " * 400, {})]
    store = run(rows, boxes="absolute", max_length=400)
    data = shown(store.folder)
    assert [media["boxes"] for media in data["rows"][0]["media"]] == [[{"at": [0.25, 0.5, 0.5, 1.0]}]]
    outside, overlong = data["rejects"]
    assert outside["reason"] == "box_outside" and outside["media"][0]["picture"].startswith("data:image/jpeg")
    assert overlong["over"] == int(overlong["message"].split()[0]) - 400 > 0
    pack(store.folder, PackConfig(pack_length=1024), options(store.folder.parent / "packed"))
    assert shown(store.folder.parent / "packed")["rows"][0]["media"][0]["boxes"] == [{"at": [0.25, 0.5, 0.5, 1.0]}]


def names(store: Store) -> list[list[str]]:
    """The names of the boxes of each row, "" for those without."""
    return [[name[0] if name else "" for _, _, *name in json.loads(row["boxes"] or "[]")] for row in store.rows()]


def test_names_are_those_that_each_form_says(run: Run) -> None:
    box, ref = '"bbox_2d": [1, 2, 3, 4]', "<|object_ref_start|>the sea<|object_ref_end|>"
    rows = {
        f'[{{{box}, "label": "a \\"cat\\""}}, {{"label": "a {{dog", {box}}}]': ['a "cat"', "a {dog"],
        f'{{"found": {{"of": {{"label": "x"}}, {box}, "text_content": "STOP"}}}}': ["STOP"],
        "{'bbox_2d': [1, 2, 3, 4], 'label': 'l\\'eau'} {'point_2d': [5, 6], 'name': \"it's\"}": ["l'eau", "it's"],
        '{"bbox_2d": [[1, 2, 3, 4], [5, 6, 7, 8]], "label": "two"}': ["two", "two"],
        f'{{"label": "far"}} {{{box}}} {{"label": "far"}}': [""],
        f'{{{box}, "label": "never ends': [""],
        f'{{{box}, "label": 7, "of": ["label", "x"]}}': [""],
        "<ref>cats</ref><box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>": ["cats", "cats"],
        "<ref> a cat </ref> <box>(1,2),(3,4)</box>, <box>(5,6),(7,8)</box> and <box>(5,6),(7,8)</box>": [
            *("a cat", "a cat", "")
        ],
        f"{ref}<|box_start|>(1,2),(3,4)<|box_end|> near a <point>(5,6)</point>": ["the sea", ""],
    }
    store = run([(answer, {}) for answer in rows], boxes="absolute", boxes_written="absolute")
    assert names(store) == list(rows.values())
    assert [each.replace(" ", "") for each in answers(store)] == [each.replace(" ", "") for each in rows]
    assert not any("\ue0b0" in row["conversation"] for row in store.rows())


def test_names_of_objects_are_those_of_the_text_they_stand_in(run: Run) -> None:
    objects = {"ref": ["all", "a <|im_end|>", "a dog"], "bbox": [[1, 2, 3, 4], [5, 6, 7, 8]]}
    said = '<ref-object>: [{"bbox_2d": <bbox>, "label": "<ref-object>"}, {"bbox_2d": <bbox>, "label": "<ref-object>"}]'
    few = {"ref": ["sheep"], "bbox": [[1, 2, 3, 4], [5, 6, 7, 8]]}
    rows = [(said, {"objects": objects}), ("Each <ref-object>: <bbox> <bbox>", {"objects": few})]
    rows += [("<bbox> is <ref-object>", {"objects": {**few, "bbox": [[1, 2, 3, 4]]}})]
    assert names(run(rows, boxes="absolute")) == [["a <|im_end|>", "a dog"], ["sheep", "sheep"], [""]]


def test_a_name_that_looks_like_a_mark_is_rejected(run: Run) -> None:
    objects = {"ref": ["\ue0b0X7:0.5\ue0b1"], "bbox": [[1, 2, 3, 4]]}
    rows = [("<ref-object> <bbox>", {"objects": objects}), ('{"bbox_2d": [1, 2, 3, 4], "label": "\\ue0b1X"}', {})]
    store = run(rows, boxes="absolute")
    assert [each["reason"] for each in read_rejects(store.folder)] == ["bad_box"]
    assert names(store) == [["\ue0b1X"]]


def test_settings_and_what_looks_like_boxes() -> None:
    with pytest.raises(InputError, match="change nothing"):
        TokenizeConfig(boxes_outside="clip")
    assert looks_like_boxes('```json\n[{"bbox_2d": [1, 2, 3, 4]}]') and looks_like_boxes("<box>(1,2),(3,4)</box>")
    assert not looks_like_boxes("a list [1, 2, 3, 4], <box>es</box> and bbox_2d")


def test_an_unknown_family_asks_for_its_numbers(loaded: Any) -> None:
    from vlm_prep.core.settings import BoxConfig
    from vlm_prep.processors.box_conventions import box_convention
    from vlm_prep.processors.families.table import adapter_for

    adapter = adapter_for(loaded("builtin"))
    adapter.family = "another"  # type: ignore[misc]
    with pytest.raises(ProcessorError, match="boxes_written"):
        box_convention(adapter, BoxConfig(boxes="unit"))
    assert box_convention(adapter, BoxConfig(boxes="unit", boxes_written="absolute")).numbers == "absolute"
