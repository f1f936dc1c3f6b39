"""Chats of text alone in English, Chinese and Japanese: characters and tokens for a CPU second, beside the processor.

    python scripts/bench_text.py --processor PATH

Text is drawn by chains over the pairs of words (English) or signs (Chinese, Japanese) of small samples, so that its
words and runs are as frequent as in the samples and hardly a clause comes twice: a tokenizer's memory of words gains
what it gains on real text. Ours is the whole of `tokenize` in one process, rows read, rendered, labelled and written,
with the time of a run over a quarter of the rows taken off; the plain way is `apply_chat_template(..., tokenize=True)`
of the same rows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import vlm_prep as vp
from vlm_prep.processors.load import load_processor
from vlm_prep.shards.reader import Store

SAMPLES = Path(__file__).parent / "builtin_text"
OUT = Path("out/bench/text")
JAPANESE = """
朝の市場には、まだ日が昇る前から人が集まっている。魚を並べる人、野菜を洗う人、大きな声で値段を言う人がいて、通りはすぐに
いっぱいになる。写真の中央には木の橋があり、その下を小さな川が流れている。橋の上には赤い傘を持った女の子が立っていて、右側
には古い自転車が一台置いてある。空は曇っているが、遠くの山の上だけが明るい。この画像には何人の人が写っていますか。三人です。
左の人は帽子をかぶり、真ん中の人は新聞を読み、右の人は犬を連れています。電車の窓から見える景色は、季節によってまったく違う。
春には桜が咲き、夏には田んぼの緑が続き、秋には山が赤くなり、冬には屋根の上に雪が積もる。グラフを見ると、四月の売り上げは
三月より二十パーセント増えたことが分かります。ただし、五月にはまた少し減りました。台所では母がスープを作り、父は皿を洗って
いる。子どもたちは床に座って、今日学校で描いた絵を見せ合っている。この看板にはどんな文字が書かれていますか。「本日休業」と
書かれています。駅の前には新しい図書館が建てられた。ガラスの壁を通して、静かに本を読んでいる人たちの姿が見える。
"""


def english() -> list[str]:
    """Return the words of the English samples, in order."""
    names = ("everyday", "looking", "making", "places", "questions", "stories", "world")
    return " ".join((SAMPLES / f"{name}.txt").read_text() for name in names).split()


def signs(text: str) -> list[str]:
    """Return the signs of a text without blanks and line breaks."""
    return [each for each in text if not each.isspace()]


def drawn(units: list[str], between: str, seed: int) -> Iterator[str]:
    """Yield texts of 200 to 800 characters without end."""
    follows: dict[str, list[str]] = defaultdict(list)
    for one, other in pairwise(units):
        follows[one].append(other)
    chance = random.Random(seed)
    here = units[0]
    while True:
        length, parts, size = chance.randint(200, 800), list[str](), 0
        while size < length:
            here = chance.choice(follows[here]) if follows[here] else chance.choice(units)
            parts.append(here)
            size += len(here) + len(between)
        yield between.join(parts)


def main() -> None:
    """Draw, measure in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processor", required=True)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    languages = {
        "English": drawn(english(), " ", 0),
        "Chinese": drawn(signs((SAMPLES / "chinese.txt").read_text()), "", 0),
        "Japanese": drawn(signs(JAPANESE), "", 0),
    }
    plain_way = load_processor(arguments.processor).hf
    print(f"{arguments.rows} rows of two turns, one process; load {os.getloadavg()[0]:.1f}")
    tokenized(arguments.processor, [["warm", "up"]] * 400)
    rates: dict[str, list[float]] = defaultdict(list)
    for turn in range(arguments.repeat):
        for language, texts in languages.items():
            chats = [[next(texts), next(texts)] for _ in range(arguments.rows)]  # new ones in each turn
            characters = sum(len(text) for chat in chats[arguments.rows // 4 :] for text in chat)
            seconds, tokens = tokenized(arguments.processor, chats)
            start = time.process_time()
            for chat in chats[-(arguments.rows * 3 // 40) :]:
                plain_way.apply_chat_template(messages(chat), tokenize=True, return_dict=True)
            plain = (time.process_time() - start) * 10
            rates[language].append(characters / seconds)
            print(
                f"{turn} {language:9} {characters / seconds / 1e6:6.2f} M characters/s  "
                f"{tokens / seconds / 1e6:6.2f} M tokens/s  {characters / tokens:5.2f} characters a token  "
                f"{plain / seconds:5.1f} times the plain way"
            )
    medians = {language: statistics.median(found) for language, found in rates.items()}
    for language, rate in medians.items():
        print(f"{language:9} {rate / medians['English']:.2f} of English by characters")


def messages(chat: list[str]) -> list[dict[str, object]]:
    """Return a chat of a question and its answer."""
    return [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in zip(("user", "assistant"), chat, strict=True)
    ]


def tokenized(processor: str, chats: list[list[str]]) -> tuple[float, int]:
    """Return the CPU seconds of all rows but the first quarter, and their tokens."""
    seconds, tokens = [], []
    for count in (len(chats) // 4, len(chats)):
        OUT.mkdir(parents=True, exist_ok=True)
        rows, store = OUT / "rows.jsonl", OUT / "tok"
        rows.write_text("".join(json.dumps({"messages": messages(chat)}) + "\n" for chat in chats[:count]))
        shutil.rmtree(store, ignore_errors=True)
        samples = vp.open_samples(rows)
        start = time.process_time()
        vp.tokenize(samples, processor, vp.TokenizeConfig(), vp.RunOptions(out=store, workers=0))
        seconds.append(time.process_time() - start)
        tokens.append(sum(len(row["input_ids"]) for row in Store(store).rows()))
    return seconds[1] - seconds[0], tokens[1] - tokens[0]


if __name__ == "__main__":
    main()
