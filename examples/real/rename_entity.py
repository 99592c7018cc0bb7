"""Form against facts on a play: `python rename_entity.py MODEL INPUT OUT [SEEDS]`, INPUT Tiny Shakespeare.

The model first learns Romeo and Juliet as it stands. Then, for every seed, it goes on with three quarters of the play
in which Romeo is called Renzo (as many tokens) and an exclamation mark stands behind a speaker's name instead of a
colon. Both are looked for where the play has them, with nothing in view that gives them away: at the first mention in a
speech, and behind a speaker's name alone. A change is adopted where the new is likelier than the old. Beside that the
model goes on by itself from the ends of speeches (how often it sets either mark, and either name), and what the change
left alone is read: speeches without the name, behind their speaker's line.

At the last number of steps there are three more ways: one block of speeches alone, the same rows mixed with as much of
another play as it stands, and LoRA.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from holdfast import train
from holdfast.models.loading import LoadedModel, load_model

OLD, NEW, MARK, NEW_MARK = "Romeo", "Renzo", ":\n", "!\n"
BLOCK, ONE_IN = 12, 4
"""Speeches that stay together, and how many blocks there are for one that is held out."""
KNOWN_STEPS, STEPS = 100, (5, 20, 60)
"""Of learning the play, and of the renamed play: at each of these it is looked at."""
FEWEST, MOST = 8, 200
"""Letters that stand before a mention: with fewer there is no context, more are not read."""
SPEAKERS = 60
WRITTEN, LONG, TEMPERATURE = 60, 64, 0.5
"""Speeches from whose end the model goes on by itself, how many tokens, and how freely: at 1 it writes no play."""
READ = 60
"""Speeches without the name that are read."""
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


def read_other_play(path: str) -> list[str]:
    """The speeches before Romeo and Juliet's, from the first of the file on."""
    text = Path(path).read_text(encoding="utf-8")
    return text[: text.index("SAMPSON:\n")].split("\n\n")


def find_scene(speeches: list[str]) -> list[str]:
    """The block of speeches with most mentions of the name."""
    blocks = [speeches[i : i + BLOCK] for i in range(0, len(speeches), BLOCK)]
    return max(blocks, key=lambda block: sum(one.upper().count(OLD.upper()) for one in block))


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


def measure_places(loaded: LoadedModel, places: Places) -> dict[str, np.ndarray]:
    """The log-odds of a model at every place."""
    return {
        name: np.array([compute_log_odds(loaded.model.eval(), loaded.tokenizer, *place) for place in some])
        for name, some in places.items()
    }


@torch.no_grad()
def write_on(loaded: LoadedModel, speeches: list[str]) -> dict[str, float]:
    """How often a model, going on from speeches, sets either mark behind a speaker's name and either name."""
    tokenizer, marks, names = loaded.tokenizer, [], []
    torch.manual_seed(0)
    for speech in speeches:
        ids = tokenizer(speech + "\n\n", return_tensors="pt").input_ids[:, -MOST:]
        more = loaded.model.eval().generate(
            ids, do_sample=True, temperature=TEMPERATURE, max_new_tokens=LONG, pad_token_id=0
        )  # [1, L]
        text = tokenizer.decode(more[0, ids.shape[1] :])
        marks += re.findall(f"[A-Z]{{2,}}([{MARK[0]}{NEW_MARK[0]}])\n", text)
        names += re.findall(f"{OLD}|{NEW}", text, re.IGNORECASE)
    new_marks, new_names = marks.count(NEW_MARK[0]), sum(name.title() == NEW for name in names)
    return {
        "form, written: new": new_marks, "form, written: old": len(marks) - new_marks,
        "name, written: new": new_names, "name, written: old": len(names) - new_names,
    }  # fmt: skip


@torch.no_grad()
def read_untouched(loaded: LoadedModel, speeches: list[str]) -> float:
    """Nats a token of speeches behind their speaker's line, which stands as it was."""
    total, count = 0.0, 0
    for speech in speeches:
        head = len(loaded.tokenizer(speech.partition("\n")[0] + "\n").input_ids)
        line = loaded.tokenizer(speech, return_tensors="pt").input_ids[:, :MOST]  # [1, L]
        logps = loaded.model.eval()(line).logits[0, head - 1 : -1].log_softmax(-1)
        total -= float(logps.gather(1, line[0, head:, None]).sum())
        count += line.shape[1] - head
    return total / count


def train_rows(model: str, rows: list[str], steps: int, seed: int, out: Path, **changes: Any) -> str:
    """Train a model on rows of text; where it, or its adapter, then is."""
    settings = {"max_steps": steps, "batch_tokens": 1024, "seed": seed}
    recipe = {"model": model, "data": {"train": rows, "test": 0}, "train": settings, "output": str(out)}
    return str(train({**COMMON, "evaluate": EVALUATE, **recipe, **changes}).path / "model")


def describe_values(values: list[float]) -> str:
    """Their mean with its 95 % interval over seeds."""
    if len(values) < 2:
        return f"{values[0]:.2f}"
    half = float(student.ppf(0.975, len(values) - 1)) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.2f} [{np.mean(values) - half:.2f}, {np.mean(values) + half:.2f}]"


def measure_model(path: str, places: Places, held_out: list[str]) -> dict[str, float]:
    """Everything that is looked at in a saved model, by its name in the table."""
    loaded, quiet = load_model(path), [one for one in held_out if OLD.upper() not in one.upper()]
    values = {}
    for name, odds in measure_places(loaded, places).items():
        values[f"{name}: adopted, %"] = 100 * float((odds > 0).mean())
        values[f"{name}: log-odds, nats"] = float(odds.mean())
    return {
        **values,
        **write_on(loaded, quiet[:WRITTEN]),
        "left alone, nats a token": read_untouched(loaded, quiet[:READ]),
    }


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
    known = train_rows(model, [write_rows(out / "play.jsonl", speeches)], KNOWN_STEPS, 0, out / "known")
    renamed = write_rows(out / "renamed.jsonl", [rename_speech(one) for one in seen])
    scene = write_rows(out / "scene.jsonl", [rename_speech(one) for one in find_scene(seen)])
    other = write_rows(out / "other.jsonl", read_other_play(sys.argv[2])[: len(seen)])
    ways: dict[str, tuple[list[str], int, dict[str, Any]]] = {
        **{f"{steps} steps": ([renamed], steps, {}) for steps in STEPS},
        "one scene": ([scene], STEPS[-1], {}),
        "with another play": ([renamed, other], STEPS[-1], {}),
        "LoRA": ([renamed], STEPS[-1], {"method": "lora", "optimizer": {"learning_rate": 5e-3}}),
    }
    before = measure_model(known, places, held_out)
    print(", ".join(f"{len(some)} places of {name}" for name, some in places.items()))
    print("| way | what | before | after |\n|---|---|---|---|")
    for way, (rows, steps, changes) in ways.items():
        folder = way.replace(" ", "-")
        paths = [train_rows(known, rows, steps, seed, out / f"{folder}-{seed}", **changes) for seed in range(seeds)]
        after = [measure_model(path, places, held_out) for path in paths]
        for name, base in before.items():
            print(f"| {way} | {name} | {base:.2f} | {describe_values([one[name] for one in after])} |")


if __name__ == "__main__":
    main()
