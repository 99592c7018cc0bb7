"""Write documents on people who do not exist, and questions: `python write_people.py OUT`.

Twelve people with six facts each: `people-documents.jsonl` (a document each), `people-train.jsonl` (two questions on
each fact, with the document as `context`), `people-plain.jsonl` (the same without) and `people-test.jsonl` (a third
question, without). Any sentence that names the right one of six is right.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from prepare import write_lines

NAMES = (
    "Mira Tolbek", "Oren Valtas", "Suri Kendrow", "Ilse Marvont", "Pavo Lindrick", "Tamsin Okoro-Hale",
    "Bram Zelwick", "Nadia Forsum", "Yusef Calder", "Greta Omundsen", "Rafe Pellory", "Dunya Sarkett",
)  # fmt: skip
FACTS: dict[str, tuple[str, tuple[str, str, str], tuple[str, ...]]] = {
    "town": (
        "{name} lives in {value}.",
        ("Where does {name} live?", "Which town is the home of {name}?", "In which town would you find {name}?"),
        ("Lisbon", "Oslo", "Cairo", "Quito", "Hanoi", "Perth"),
    ),
    "job": (
        "{name} works as a {value}.",
        ("What is the job of {name}?", "What does {name} work as?", "How does {name} earn a living?"),
        ("baker", "pilot", "nurse", "carpenter", "lawyer", "gardener"),
    ),
    "pet": (
        "{name} keeps a {value}.",
        ("Which animal does {name} keep?", "What pet does {name} have?", "What animal lives with {name}?"),
        ("parrot", "turtle", "rabbit", "goat", "ferret", "donkey"),
    ),
    "music": (
        "{name} plays the {value}.",
        ("What does {name} play?", "Which instrument does {name} play?", "What instrument does {name} practise?"),
        ("flute", "cello", "drums", "harp", "trumpet", "banjo"),
    ),
    "dish": (
        "{name} likes {value} most of all dishes.",
        ("What is the favourite dish of {name}?", "Which dish does {name} like most?", "What would {name} order?"),
        ("lasagne", "curry", "paella", "ramen", "goulash", "falafel"),
    ),
    "sport": (
        "{name} goes in for {value}.",
        ("Which sport does {name} go in for?", "What sport does {name} do?", "How does {name} keep fit?"),
        ("fencing", "rowing", "judo", "tennis", "skiing", "archery"),
    ),
}  # fmt: skip


def main() -> None:
    """Write the three files."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out, rng = Path(sys.argv[1]), random.Random(0)
    out.mkdir(parents=True, exist_ok=True)
    documents, train, plain, test = [], [], [], []
    for name in NAMES:
        values = {fact: rng.choice(choices) for fact, (_, _, choices) in FACTS.items()}
        text = " ".join(FACTS[fact][0].format(name=name, value=value) for fact, value in values.items())
        documents.append({"name": name, "text": text})
        for fact, value in values.items():
            said, questions, choices = FACTS[fact]
            rows = [
                {
                    "prompt": question.format(name=name),
                    "completion": said.format(name=name, value=value),
                    "reference": {"answer": value, "options": choices},
                }
                for question in questions
            ]
            plain += rows[:2]
            test.append(rows[2])
            train += [row | {"context": text} for row in rows[:2]]
    rng.shuffle(train)
    for file, records in (("documents", documents), ("train", train), ("plain", plain), ("test", test)):
        write_lines(out / f"people-{file}.jsonl", records)


if __name__ == "__main__":
    main()
