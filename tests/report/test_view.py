"""A store as a page: in a real browser it opens, shows media, filters, plays, and lets no row script it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from typer.testing import CliRunner

from vlm_prep.builtin import builtin_data
from vlm_prep.cli.main import app
from vlm_prep.core.errors import InputError
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.processors.load import LoadedProcessor
from vlm_prep.report.view.picked_rows import pick
from vlm_prep.report.view.shown_media import shown_media
from vlm_prep.report.view.shown_rows import Reader
from vlm_prep.report.view.viewing import view
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_run import tokenize

Options = Callable[..., RunOptions]
HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def reader(loaded: Callable[[str], LoadedProcessor]) -> Reader:
    tokenizer = loaded("builtin").hf.tokenizer
    ids = [tokenizer.convert_tokens_to_ids(token) for token in ("<|image_pad|>", "<|video_pad|>")]
    return Reader(tokenizer=tokenizer, media_ids=frozenset(ids))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real headless Chromium; skips where there is none."""
    driver = shutil.which("chromedriver")
    if driver is None or shutil.which("chromium") is None:
        pytest.skip("no chromium and chromedriver here (Debian: chromium, chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


def opened(browser: Any, page: str, folder: Path) -> Any:
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    browser.get(path.as_uri())
    return browser


def text_of(browser: Any, element: str) -> str:
    return str(browser.execute_script("return document.getElementById(arguments[0]).innerText", element))


def choose(browser: Any, element: str, value: str) -> None:
    script = (
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event(arguments[2]))"
    )
    for event in ("input", "change"):
        browser.execute_script(script, element, value, event)


def errors(browser: Any) -> list[Any]:
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_a_page_shows_rows_with_pictures_and_what_is_trained(
    browser: Any, tokenized: Path, reader: Reader, tmp_path: Path
) -> None:
    opened(browser, view(tokenized, rows=40, seed=0, reader=reader), tmp_path)
    row = Store(tokenized).row(0)
    assert row["sample_id"] in text_of(browser, "row")
    width = browser.execute_async_script(
        "const done = arguments[0], image = document.querySelector('#row img');"
        "image.decode().then(() => done(image.naturalWidth))"
    )
    assert width > 50
    trained = browser.execute_script(
        "return [...document.querySelectorAll('#row .on')].map(e => e.textContent).join('')"
    )
    assert trained == reader.tokenizer.decode(row["input_ids"][row["labels"] != -100].tolist())
    assert errors(browser) == []


def rows_on(page: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return list(json.loads(found[1])["rows"])


def test_a_store_is_read_by_the_processor_that_it_was_made_with(tokenized: Path, tmp_path: Path) -> None:
    """Else the conversation is shown, and which of the tokens are media is not known and not said to be none."""
    result = CliRunner().invoke(app, ["view", str(tokenized), "--out", str(tmp_path / "page.html"), "--rows", "9"])
    assert result.exit_code == 0, result.output
    rows = rows_on((tmp_path / "page.html").read_text())
    shown = {name: sum(row["parts"][name] for row in rows) for name in ("trained", "media", "other")}
    assert all(row["runs"] for row in rows) and shown["media"] > 0
    for row in rows_on(view(tokenized, rows=9, seed=0)):
        assert row["messages"] and row["parts"].keys() == {"trained", "other"}


def test_rows_are_searched_and_filtered(browser: Any, tokenized: Path, reader: Reader, tmp_path: Path) -> None:
    opened(browser, view(tokenized, rows=40, seed=0, reader=reader), tmp_path)
    choose(browser, "kind", "video")
    kinds = ["+".join(sorted({each["kind"] for each in row["media"]})) or "text" for row in Store(tokenized).rows()]
    assert text_of(browser, "found").startswith(f"{kinds.count('video')} of 40")
    strip = browser.execute_script("return document.querySelectorAll('#row .strip img').length")
    assert strip > 1
    choose(browser, "kind", "")
    choose(browser, "search", "no row says this")
    assert text_of(browser, "found").startswith("0 of 40")
    assert errors(browser) == []


def test_packs_are_shown_as_bars_of_documents(browser: Any, packed: Path, reader: Reader, tmp_path: Path) -> None:
    opened(browser, view(packed, rows=40, seed=0, reader=reader), tmp_path)
    drawn = browser.execute_script("return document.querySelectorAll('#packs rect').length")
    assert drawn == sum(len(row["seq_lens"]) for row in Store(packed).rows())
    assert errors(browser) == []


def test_tokens_per_media_and_cost_across_ranks_are_charts(
    tokenized: Path, packed: Path, packed_index: Path, reader: Reader
) -> None:
    from vlm_prep.report.view.viewing import overview

    page = view(tokenized, rows=len(Store(tokenized)), seed=0, reader=reader)
    media = sum(len(row["media"]) for row in Store(tokenized).rows())
    assert f"Tokens per media of the rows shown</b> {media} in all" in page
    assert "Tokens per media" not in view(tokenized, rows=5, seed=0)  # without a tokenizer nobody knows its runs
    spread = Store(packed).manifest.extra["plan"]["steps"]["cost_spread"]
    for page in (view(packed, rows=5, seed=0, reader=reader), overview(packed)):
        assert "Difference in cost of a step&#x27;s packs" in page
        assert f">{100 * spread['p99']:,.6g} %<" in page
    assert "Tokens per media" in view(packed, rows=5, seed=0, reader=reader)


def test_a_row_cannot_script_the_page(browser: Any, tmp_path: Path, options: Options, reader: Reader) -> None:
    rows = [
        {"conversations": [{"from": "human", "value": HOSTILE}, {"from": "gpt", "value": HOSTILE}]},
        {
            "conversations": [{"from": "human", "value": f"<image>{HOSTILE}"}, {"from": "gpt", "value": "a"}],
            "image": f"{HOSTILE.replace('/', '')}.jpg",
        },
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    out = tmp_path / "out"
    tokenize(
        open_samples(tmp_path / "rows.json"),
        "builtin:qwen2.5-vl-mini",
        TokenizeConfig(),
        options(out, max_reject_rate=1.0),
    )
    opened(browser, view(out, rows=10, seed=0, reader=reader, title=HOSTILE), tmp_path)
    assert HOSTILE in text_of(browser, "row")
    assert browser.execute_script("return [...document.scripts].length") == 2
    assert "missing_file" in browser.execute_script("return document.getElementById('reject-rows').textContent")
    browser.execute_script("document.querySelector('[data-tab=rejects]').click()")
    assert browser.title == HOSTILE
    assert errors(browser) == []


def test_boxes_are_drawn_with_their_names_as_text(
    browser: Any, tmp_path: Path, options: Options, reader: Reader
) -> None:
    Image.linear_gradient("L").resize((400, 300)).convert("RGB").save(tmp_path / "a.png")
    shapes = [
        {"bbox_2d": [100, 0, 200, 150], "label": HOSTILE},
        {"bbox_2d": [300, 150, 400, 300], "label": "a dog"},
        {"point_2d": [200, 150]},
    ]
    said = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": json.dumps(shapes)}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": said, "images": ["a.png"]}) + "\n")
    out = tmp_path / "out"
    config = TokenizeConfig(boxes="absolute")
    tokenize(open_samples(tmp_path / "rows.jsonl"), "builtin:qwen2.5-vl-mini", config, options(out))
    opened(browser, view(out, rows=1, seed=0, reader=reader), tmp_path)
    drawn = browser.execute_async_script(
        "const done = arguments[0], image = document.querySelector('#row img');"
        "image.decode().then(() => {"
        "  const frame = image.getBoundingClientRect(), share = (at, from, whole) => (at - from) / whole;"
        "  done([...document.querySelectorAll('.boxed i')].map((shape) => {"
        "    const at = shape.getBoundingClientRect(), name = shape.querySelector('b');"
        "    const inside = !name || name.getBoundingClientRect().left >= frame.left - 1;"
        "    return [share(at.left, frame.left, frame.width), share(at.top, frame.top, frame.height), inside,"
        "      name && name.textContent]"
        "  }))"
        "})"
    )
    assert [each[2:] for each in drawn] == [[True, HOSTILE], [True, "a dog"], [True, None]]
    for (left, top, *_), expected in zip(drawn, [(0.25, 0), (0.75, 0.5)], strict=False):
        assert (left, top) == pytest.approx(expected, abs=0.01)
    assert browser.title != "taken"
    assert errors(browser) == []


@pytest.mark.parametrize("size", [(1400, 900), (1000, 700), (420, 800)])
def test_nothing_is_wider_than_the_window(
    browser: Any, tokenized: Path, packed: Path, reader: Reader, tmp_path: Path, size: tuple[int, int]
) -> None:
    browser.set_window_size(*size)
    opened(browser, view(packed, rows=5, seed=0, reader=reader), tmp_path)
    browser.execute_script("document.querySelector('[data-tab=packs]').click()")
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    drawn = browser.execute_script("return document.querySelector('#packs svg').getBoundingClientRect().width")
    assert drawn > 700  # smaller letters cannot be read
    opened(browser, view(tokenized, rows=40, seed=0, reader=reader), tmp_path)
    for tab in ("rows", "rejects", "charts", "about"):
        browser.execute_script(f"document.querySelector('[data-tab={tab}]').click()")
        assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth"), tab


@pytest.mark.parametrize("size", [(1400, 900), (1000, 700), (420, 800)])
def test_rejects_are_read_without_scrolling_sideways(
    browser: Any, tmp_path: Path, options: Options, reader: Reader, size: tuple[int, int]
) -> None:
    turns = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "A"}]
    gone = "/".join(["a-folder-with-quite-a-long-name"] * 5) + "/gone.jpg"
    rows = [{"messages": [{"role": "user", "content": "Q"}, turns[1]]}, {"messages": turns, "images": [gone]}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    run = options(tmp_path / "out", max_reject_rate=1.0)
    tokenize(open_samples(tmp_path / "rows.json"), "builtin:qwen2.5-vl-mini", TokenizeConfig(), run)
    browser.set_window_size(*size)
    opened(browser, view(tmp_path / "out", rows=5, seed=0, reader=reader), tmp_path)
    browser.execute_script("document.querySelector('[data-tab=rejects]').click()")
    assert "missing_file" in text_of(browser, "reject-rows") and "gone.jpg" in text_of(browser, "reject-rows")
    wide, widths = "document.querySelector('#rejects .wide')", "[...document.querySelectorAll('#reject-rows td')]"
    assert browser.execute_script(f"return {wide}.scrollWidth <= {wide}.clientWidth")
    assert min(browser.execute_script(f"return {widths}.map(each => each.clientWidth)")) >= 120


def test_a_sound_has_a_waveform_and_plays(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, np.sin(np.arange(32_000) / 10).astype(np.float32), 16_000)
    file = {"uri": str(path), "digest": "", "bytes": path.read_bytes()}
    header = {"samples": 32_000, "sampling_rate": 16_000, "segment": None, "height": None}
    media = shown_media({"kind": "audio", "files": [file], "tensors": None, **header})
    assert media["seconds"] == 2.0
    assert max(media["peaks"]) == 1.0
    browser.get("about:blank")
    seconds = browser.execute_async_script(
        "const done = arguments[1], sound = new Audio(arguments[0]);"
        "sound.onloadedmetadata = () => done(sound.duration);"
        "sound.onerror = () => done(-1)",
        media["audio"],
    )
    assert seconds == pytest.approx(2.0, abs=0.01)


def test_an_ingested_store_shows_its_conversations(ingested: Path) -> None:
    page = view(ingested, rows=5, seed=0)
    assert '"messages":[{"role":' in page
    assert "5 shown here" in page


def test_a_plan_over_another_store_is_refused_with_what_to_do(packed_index: Path) -> None:
    with pytest.raises(InputError, match="no rows that can be shown"):
        view(packed_index, rows=5, seed=0)


def test_the_longest_the_shortest_and_those_near_the_limit_are_picked() -> None:
    lengths = np.arange(1, 1001)
    picked = pick(lengths, 80, limit=900, seed=0)
    assert len(picked) == 80
    assert picked[999] == ["longest"]
    assert picked[0] == ["shortest"]
    assert picked[899] == ["near the limit"]
    assert picked == pick(lengths, 80, limit=900, seed=0)
    assert picked != pick(lengths, 80, limit=900, seed=1)


def test_media_that_are_gone_say_so(tmp_path: Path) -> None:
    file = {"uri": str(tmp_path / "gone.png"), "digest": "", "bytes": None}
    found = shown_media({"kind": "image", "files": [file], "height": 4, "width": 4, "tensors": None})
    assert "missing_file" in found["note"]


def test_numbers_of_a_store_and_of_a_plan_are_pages_of_charts(
    tokenized: Path, packed: Path, packed_index: Path, options: Options, tmp_path: Path, browser: Any
) -> None:
    from vlm_prep.report.plan.planning import Choices, plan
    from vlm_prep.report.view.plan_page import plan_page
    from vlm_prep.report.view.viewing import overview

    samples = open_samples(builtin_data(), datasets=["photo_talk"])
    choices = Choices(lengths=[512, 2048], budgets=())
    found = plan(samples, "builtin:qwen2.5-vl-mini", TokenizeConfig(), options(tmp_path / "x"), choices)
    pages = {
        **{path.name: overview(path) for path in (tokenized, packed, packed_index)},
        "plan": plan_page(found, "plan for photos"),
    }
    for name, html in pages.items():
        page = tmp_path / f"{name}.html"
        page.write_text(html)
        browser.get(page.as_uri())
        assert browser.find_element("id", "charts").is_displayed()
        assert len(browser.find_elements("css selector", "#charts svg")) >= (1 if name == "index" else 3)
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
