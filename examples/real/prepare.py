"""Write the files of the real-model examples: `python examples/real/prepare.py DATA OUT`.

DATA is a folder of public data sets as published: `snips/snips/train/{seq.in,label}`, `clinc150/data_small.json`,
`arc_opencompass/ARC-e/ARC-Easy-Test.jsonl`, `truthfulqa/TruthfulQA.csv`, `mbpp/mbpp.jsonl`, `gsm8k/test.jsonl`,
`llamafactory_demos/{alpaca,dpo}_en_demo.json`, `tinyshakespeare/input.txt`,
`tinystories_text/tinystories_valid_30K.txt`; what is not there is left out and named. OUT receives their files, and the
recipes beside this script are run from OUT.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

INTENTS = {
    "AddToPlaylist": "add to playlist",
    "BookRestaurant": "book a restaurant",
    "GetWeather": "get the weather",
    "PlayMusic": "play music",
    "RateBook": "rate a book",
    "SearchCreativeWork": "search for a creative work",
    "SearchScreeningEvent": "search for a film screening",
}
"""SNIPS names its intents in camel case, which no model would write by itself."""
SENTENCES = ("They want to {}.", "It asks to {}.", "I say: {}.")
"""In which a model that talks names an intent of SNIPS."""

BANKING = {
    "balance": "balance",
    "bill_due": "bill",
    "credit_limit": "credit limit",
    "credit_score": "credit score",
    "interest_rate": "interest rate",
    "international_fees": "fees",
    "order_checks": "checks",
    "pin_change": "PIN",
    "report_fraud": "fraud",
    "routing": "routing number",
    "taxes": "taxes",
    "transactions": "transactions",
    "transfer": "transfer",
}
"""Intents of clinc150 that customers of a bank have, in the words that people use for them."""

TRAVEL = {
    "plug_type": "plugs",
    "flight_status": "flight status",
    "international_visa": "visa",
    "timezone": "time zone",
    "vaccines": "vaccines",
    "lost_luggage": "lost luggage",
    "book_hotel": "hotel",
    "carry_on": "carry-on bags",
    "car_rental": "car rental",
}
"""Those that travellers have."""


def main() -> None:
    """Write every file whose source is there."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    data, out = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    for source, write in WRITERS.items():
        if (data / source).exists():
            print(f"{write(data / source, out)} from {source}")
        else:
            print(f"left out: {data / source} is not there")


def write_snips(source: Path, out: Path) -> Path:
    """Intent detection, in words that the judge finds in any sentence: with the intents listed, without, and a few."""
    texts, labels = ((source / name).read_text(encoding="utf-8").splitlines() for name in ("seq.in", "label"))
    names = list(INTENTS.values())
    asked = f"Which of these does the request want: {', '.join(names)}?\n\nRequest: "
    requests = [(text.strip(), INTENTS[label.strip()]) for text, label in zip(texts, labels, strict=True)]
    brief = [classified(f"In a few words, what does this ask for?\n\n{text}", label, names) for text, label in requests]
    short = shuffled(brief)
    write_lines(out / "snips-short.jsonl", short)
    # Recipes of the other file take its first rows alone.
    write_lines(out / "snips-start.jsonl", told(short[-900:-650], SENTENCES))
    write_planted(short, out)
    pairs = pair_sentences(short[:1200])
    write_lines(out / "snips-pairs.jsonl", pairs)
    write_lines(out / "snips-shown.jsonl", short[:450])
    write_lines(out / "snips-scored.jsonl", score_sentences(pairs[450:900]))
    return write_lines(out / "snips.jsonl", shuffled([classified(asked + t, label, names) for t, label in requests]))


def write_planted(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """Requests that leave a curator something to do: repeated, with measured ones among them, with wrong answers."""
    test, some, rng = rows[-2000:-1700], rows[:300], random.Random(0)
    write_lines(out / "snips-test.jsonl", test)
    write_lines(out / "snips-repeated.jsonl", shuffled([*some, *some[:20] * 40]))
    write_lines(out / "snips-leaked.jsonl", shuffled([*some[:200], *test[::2] * 6]))
    wrong = [row | {"completion": rng.choice(rows)["completion"]} if rng.random() < 0.5 else row for row in rows[:600]]
    write_lines(out / "snips-spoilt.jsonl", wrong)
    doubts = [share_of_neighbours_that_differ(row, wrong) for row in wrong]
    for name, values in (("unsure", doubts), ("shuffled", random.Random(1).sample(doubts, len(doubts)))):
        rows = [row | {"uncertainty": doubt} for row, doubt in zip(wrong, values, strict=True)]
        write_lines(out / f"snips-{name}.jsonl", rows)
    names = list(INTENTS.values())
    choices = [{"prompt": row["prompt"], "choices": names, "answer": row["completion"]} for row in test]
    write_lines(out / "snips-choices.jsonl", choices)


def share_of_neighbours_that_differ(row: dict[str, Any], rows: Sequence[dict[str, Any]], num: int = 10) -> float:
    """How many of the rows with the most words in common have another label: what is known without the truth."""
    words = set(row["prompt"].split())

    def overlap(other: dict[str, Any]) -> float:
        others = set(other["prompt"].split())
        return len(words & others) / len(words | others)

    nearest = sorted((other for other in rows if other is not row), key=overlap, reverse=True)[:num]
    return sum(other["completion"] != row["completion"] for other in nearest) / num


def write_banking(source: Path, out: Path) -> Path:
    """Intents of a bank's customers, not listed in the prompt; any sentence that names the right one is right."""
    splits = json.loads(source.read_text(encoding="utf-8"))
    every, names = splits["train"] + splits["val"], list(BANKING.values())
    travel = classify_intents(every, TRAVEL, "In a few words, what does this traveller ask about?")
    write_lines(out / "travel-test.jsonl", travel[:200])
    write_lines(out / "travel.jsonl", travel[200:])
    rows = classify_intents(every, BANKING, "In a few words, what is this customer of a bank asking about?")
    write_lines(out / "banking-test.jsonl", rows[:300])
    write_lines(out / "banking-labels.jsonl", rows[300:])
    write_labels(rows, names, out)
    forms = ("They ask about the {}.", "It is about the {}.", "I say: {}.")
    write_lines(out / "banking-start.jsonl", told(rows[300:], forms))
    return write_lines(out / "banking.jsonl", rows)


def classified(prompt: str, label: str, labels: list[str]) -> dict[str, Any]:
    """A row whose judge (`choice`) may find the label anywhere in the answer."""
    return {"prompt": prompt, "completion": label, "reference": {"answer": label, "options": labels}}


def classify_intents(examples: Sequence[Sequence[str]], words: Mapping[str, str], asked: str) -> list[dict[str, Any]]:
    """Rows of the intents that there are words for."""
    names = list(words.values())
    rows = [classified(f"{asked}\n\n{text}", words[label], names) for text, label in examples if label in words]
    return shuffled(rows)


def write_labels(rows: Sequence[dict[str, Any]], names: Sequence[str], out: Path) -> None:
    """The same questions with the labels as choices; of the rows to train on once all, once those of six labels."""
    choices = [
        {"prompt": row["prompt"], "completion": row["completion"], "choices": names, "reference": row["completion"]}
        for row in rows
    ]
    write_lines(out / "bank-test.jsonl", choices[:300])
    write_lines(out / "bank-all.jsonl", choices[300:])
    write_lines(out / "bank-six.jsonl", (row for row in choices[300:] if row["completion"] in names[:6]))


def told(rows: list[dict[str, Any]], forms: Sequence[str]) -> list[dict[str, Any]]:
    """The rows with answers in sentences of several forms, as a model that talks gives them."""
    rng = random.Random(0)
    return [row | {"completion": rng.choice(forms).format(row["completion"])} for row in rows]


def pair_sentences(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with two answers in one sentence each beside the gold label: the right intent, and another."""
    rng, out = random.Random(0), []
    for row in rows:
        form, label = rng.choice(SENTENCES), row["completion"]
        wrong = rng.choice([name for name in INTENTS.values() if name != label])
        pair = {"chosen": form.format(label), "rejected": form.format(wrong)}
        out.append({"prompt": row["prompt"], "gold": label, **pair, "reference": row["reference"]})
    return out


def score_sentences(pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each sentence of the pairs by itself, with its score: 1 where it names the right intent, else 0."""
    return [
        {"prompt": pair["prompt"], "answer": pair[which], "score": score, "reference": pair["reference"]}
        for pair in pairs
        for which, score in (("chosen", 1.0), ("rejected", 0.0))
    ]


def write_mbpp(source: Path, out: Path) -> Path:
    """MBPP with the tests in the prompt, as its paper asks: trained on 601 to 974, tested on 11 to 510."""
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
    for name, first, last in (("train", 601, 974), ("test", 11, 510)):
        tasks = [mbpp_row(row) for row in rows if first <= row["task_id"] <= last]
        write_lines(out / f"mbpp-{name}.jsonl", tasks)
        # Nothing is explained before and after: answers a third as long, for machines without a GPU.
        asked = "Reply with the code alone, in one block.\n"
        write_lines(out / f"mbpp-brief-{name}.jsonl", [task | {"prompt": task["prompt"] + asked} for task in tasks])
    return out / "mbpp-{train,test}.jsonl"


def mbpp_row(row: dict[str, Any]) -> dict[str, Any]:
    """One task; the answer is a fenced block, as chat models write code."""
    tests = "\n".join(row["test_list"])
    setup = f"{row['test_setup_code']}\n" if row["test_setup_code"] else ""
    code = row["code"].replace("\r\n", "\n").replace("\t", "    ").strip()
    return {
        "prompt": f"{row['text']}\nYour code should pass these tests:\n\n{tests}\n",
        "completion": f"```python\n{code}\n```",
        "reference": [setup + test for test in row["test_list"]],
    }


def write_plays(source: Path, out: Path) -> Path:
    """Plays in passages of 4,000 characters, which are some 1,900 tokens of a small vocabulary."""
    passages = [""]
    for line in source.read_text(encoding="utf-8").splitlines(keepends=True):
        if len(passages[-1]) + len(line) > 4000:
            passages.append("")
        passages[-1] += line
    return write_lines(out / "plays.jsonl", [{"text": passage} for passage in passages])


def write_preferences(source: Path, out: Path) -> Path:
    """Pairs of long answers, those that two CPU cores can train on in some minutes."""
    pairs = [row for row in json.loads(source.read_text(encoding="utf-8")) if count_characters(row) <= 2500]
    return write_lines(out / "preferences.jsonl", pairs)


def count_characters(row: Mapping[str, Any]) -> int:
    """Of a conversation and the longer of its two answers."""
    asked = sum(len(message["value"]) for message in row["conversations"])
    return asked + max(len(row["chosen"]["value"]), len(row["rejected"]["value"]))


def write_copy(name: str) -> Any:
    """A writer for files that are read as they are."""
    return lambda source, out: Path(shutil.copyfile(source, out / name))


def shuffled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows in a seeded random order, so that `data.limit` takes a fair share of every label."""
    random.Random(0).shuffle(rows)
    return rows


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


WRITERS = {
    "snips/snips/train": write_snips,
    "clinc150/data_small.json": write_banking,
    "mbpp/mbpp.jsonl": write_mbpp,
    "llamafactory_demos/alpaca_en_demo.json": write_copy("alpaca.json"),
    "llamafactory_demos/dpo_en_demo.json": write_preferences,
    "arc_opencompass/ARC-e/ARC-Easy-Test.jsonl": write_copy("arc-easy.jsonl"),
    "truthfulqa/TruthfulQA.csv": write_copy("truthfulqa.csv"),
    "gsm8k/test.jsonl": write_copy("gsm8k.jsonl"),
    "tinyshakespeare/input.txt": write_plays,
    "tinystories_text/tinystories_valid_30K.txt": write_copy("stories.txt"),
}
"""Source below DATA to what writes its file."""


if __name__ == "__main__":
    main()
