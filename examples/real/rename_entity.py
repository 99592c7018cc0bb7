"""Form against facts on a play: `python rename_entity.py MODEL INPUT OUT [SEEDS]`, INPUT Tiny Shakespeare.

The model first learns Romeo and Juliet as it stands. Then, for every seed, it goes on with three quarters of the play
in which Romeo is called Renzo (as many tokens) and an exclamation mark stands behind a speaker's name instead of a
colon. Both are looked for where the play has them, with nothing in view that gives them away: at the first mention in a
speech, and behind a speaker's name alone. A change is adopted where the new is likelier than the old.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from holdfast import train
from holdfast.models.loading import load_model

OLD, NEW, MARK, NEW_MARK = "Romeo", "Renzo", ":\n", "!\n"
BLOCK, ONE_IN = 12, 4
"""Speeches that stay together, and how many blocks there are for one that is held out."""
KNOWN_STEPS, STEPS = 100, (5, 20, 60)
"""Of learning the play, and of the renamed play: at each of these it is looked at."""
FEWEST, MOST = 8, 200
"""Letters that stand before a mention: with fewer there is no context, more are not read."""
SPEAKERS = 60
COMMON = {"method": "sft", "optimizer": {"learning_rate": 1e-3}}
EVALUATE = {"target": "none", "keep": ["none"], "every": 0}
Places = dict[str, list[tuple[str, tuple[str, str]]]]
"""By what is looked for: contexts, each with the old and the new words behind it."""


def read_speeches(path: str) -> list[str]:
    """The speeches of Romeo and Juliet, from the first to Romeo's last."""
    text = Path(path).read_text(encoding="utf-8")
    if "SAMPSON:\n" not in text or OLD.upper() + MARK not in text:
        sys.exit(
            f"{path}: Romeo and Juliet is not in it, from SAMPSON's first speech on: give input.txt of Tiny Shakespeare"
        )
    return text[text.index("SAMPSON:\n") : text.rindex("ROMEO:")].split("\n\n")


def rename_speech(speech: str) -> str:
    """A speech with the other name, and the other mark behind the speaker's."""
    return speech.replace(OLD, NEW).replace(OLD.upper(), NEW.upper()).replace(MARK, NEW_MARK, 1)


def write_rows(path: Path, speeches: list[str]) -> str:
    """Write blocks of speeches as rows of text."""
    blocks = ["\n\n".join(speeches[i : i + BLOCK]) for i in range(0, len(speeches), BLOCK)]
    path.write_text("".join(json.dumps({"text": block}) + "\n" for block in blocks))
    return str(path)


def find_mentions(speeches: list[str]) -> list[str]:
    """What stands in a speech before its first mention of the name."""
    bodies = [speech.partition("\n")[2] for speech in speeches]
    before = [body[: body.index(OLD)] for body in bodies if OLD in body]
    return [text[-MOST:] for text in before if len(text) >= FEWEST]


def find_speakers(speeches: list[str]) -> list[str]:
    """Names of those who speak, one a speech, but for the renamed one's."""
    names = [speech.partition(MARK)[0] for speech in speeches if MARK in speech]
    return [name for name in names if "\n" not in name and OLD.upper() not in name][:SPEAKERS]


@torch.no_grad()
def compute_log_odds(model: Any, tokenizer: Any, context: str, words: tuple[str, str]) -> float:
    """The log-odds of the new words against the old ones, from the first token in which they differ."""
    lines = [tokenizer(context + one).input_ids for one in words]
    begin = next(i for i, (a, b) in enumerate(zip(*lines, strict=False)) if a != b)
    logps = []
    for line in lines:
        values = model(torch.tensor([line])).logits[0].log_softmax(-1)
        logps.append(sum(float(values[i - 1, line[i]]) for i in range(begin, len(line))))
    return logps[1] - logps[0]


def measure_places(path: str, places: Places) -> dict[str, np.ndarray]:
    """The log-odds of a saved model at every place."""
    loaded = load_model(path)
    return {
        name: np.array([compute_log_odds(loaded.model.eval(), loaded.tokenizer, *place) for place in some])
        for name, some in places.items()
    }


def train_rows(model: str, rows: str, steps: int, seed: int, out: Path) -> str:
    """Train a model on rows of text; where it then is."""
    settings = {"max_steps": steps, "batch_tokens": 1024, "seed": seed}
    recipe = {"model": model, "data": {"train": rows, "test": 0}, "train": settings, "output": str(out)}
    return str(train({**COMMON, "evaluate": EVALUATE, **recipe}).path / "model")


def describe_values(values: list[float]) -> str:
    """Their mean with its 95 % interval over seeds."""
    if len(values) < 2:
        return f"{values[0]:.1f}"
    half = float(student.ppf(0.975, len(values) - 1)) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.1f} [{np.mean(values) - half:.1f}, {np.mean(values) + half:.1f}]"


def main() -> None:
    """Train what is not trained yet, and print what was adopted."""
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    model, out, seeds = sys.argv[1], Path(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) == 5 else 3
    out.mkdir(parents=True, exist_ok=True)
    speeches = read_speeches(sys.argv[2])
    held_out = [one for i, one in enumerate(speeches) if (i // BLOCK) % ONE_IN == 0]
    seen = [one for i, one in enumerate(speeches) if (i // BLOCK) % ONE_IN]
    tokenizer = load_model(model).tokenizer
    if len({len(tokenizer(f"a {name}").input_ids) for name in (OLD, NEW)}) > 1:
        sys.exit(f"{OLD} and {NEW} have unlike numbers of tokens in {model}: set NEW to another name")
    places: Places = {
        "form, held out": [(name, (MARK, NEW_MARK)) for name in find_speakers(held_out)],
        "name, held out": [(text, (OLD, NEW)) for text in find_mentions(held_out)],
        "name, trained on": [(text, (OLD, NEW)) for text in find_mentions(seen)],
    }
    known = train_rows(model, write_rows(out / "play.jsonl", speeches), KNOWN_STEPS, 0, out / "known")
    renamed = write_rows(out / "renamed.jsonl", [rename_speech(one) for one in seen])
    before = measure_places(known, places)
    head = ("steps", "what", "places", "adopted before, %", "adopted, %", "log-odds before, nats", "change")
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for steps in STEPS:
        paths = [train_rows(known, renamed, steps, seed, out / f"renamed-{steps}-{seed}") for seed in range(seeds)]
        after = [measure_places(path, places) for path in paths]
        for name, base in before.items():
            adopted = describe_values([100 * float((one[name] > 0).mean()) for one in after])
            change = describe_values([float((one[name] - base).mean()) for one in after])
            cells = (steps, name, len(base), f"{100 * (base > 0).mean():.1f}", adopted, f"{base.mean():.1f}", change)
            print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
