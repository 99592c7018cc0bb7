"""Self-consistency, best of n and reflexion: more answers than one, without training."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

from holdfast.axes.judge import JudgeRequest
from holdfast.data.rows import Row
from holdfast.lab.reproduce.base import Claim, Figure, gain_of, write_rows
from holdfast.lab.reproduce.rule import Expectation, gains_more

SELF_CONSISTENCY = Claim(
    claim="The answer that most of several samples come to is right more often than the greedy one.",
    paper="Wang et al. 2022, arXiv 2203.11171",
    arms={
        "vote of 10": ["method=self_consistency", "train.max_steps=0"],
        "one sample": ["method=self_consistency", "train.max_steps=0", "inference.n=1"],
    },
    figures=(
        Figure("vote of 10 against greedy, change", "+17.9 (GSM8K, PaLM 540B, 40 samples)", gain_of("vote of 10")),
        Figure("one sample against greedy, change", "below greedy", gain_of("one sample")),
    ),
    expects=(gains_more("vote of 10"), gains_more("vote of 10", "one sample")),
    common={"data": {"limit": 200}, "evaluate": {"keep": ["none"]}},
)

_WARM = ["method=best_of_n", "train.max_steps=0", "inference.temperature=1.5"]

BEST_OF_N = Claim(
    claim="The one of several sampled programs that passes the tests is right more often than a single sample.",
    paper="Cobbe et al. 2021, arXiv 2110.14168",
    arms={
        "best of 5, tests": [*_WARM, "inference.by=judge", "inference.n=5"],
        "best of 5, likelihood": [*_WARM, "inference.n=5"],
        "one sample": [*_WARM, "inference.n=1"],
    },
    figures=(
        Figure("best by tests against greedy, change", "not measured (trained verifiers)", gain_of("best of 5, tests")),
        Figure("best by likelihood against greedy, change", "not measured", gain_of("best of 5, likelihood")),
        Figure("one sample against greedy, change", "below greedy", gain_of("one sample")),
    ),
    expects=(gains_more("best of 5, tests", "one sample"), gains_more("best of 5, likelihood", "one sample")),
    common={
        "data": {"train": "lab:program", "limit": 200},
        "evaluate": {"keep": ["none"], "items": 100, "max_tokens": 40},
    },
)  # fmt: skip

FEEDBACK = "That is wrong{reason}."


@cache  # every wrong program is run: minutes, and the same for every arm and seed
def build_second_tries(n: int, seed: int = 0) -> list[Row]:
    """Programs that failed their tests, what the judge said, and the right one: what a second try is learned from."""
    from holdfast.methods.judges.code import Code
    from holdfast.skills.program import Program

    rows = Program().generate_rows(n, "train", seed, form="pair")
    wrong = [str(row.rejected) for row in rows]
    answers = [JudgeRequest(row.prompt, text, row.reference) for row, text in zip(rows, wrong, strict=True)]
    second_tries = []
    for row, text, verdict in zip(rows, wrong, Code().judge_all(answers), strict=True):
        feedback = FEEDBACK.replace("{reason}", f": {verdict.reason.rstrip('.')}")
        messages = [
            *row.prompt,
            {"role": "assistant", "content": text, "weight": 0},
            {"role": "user", "content": f"{feedback}\nTry again."},
            {"role": "assistant", "content": str(row.chosen)},
        ]
        second_tries.append(Row(messages, reference=row.reference, meta={"key": row.meta["key"]}))
    return second_tries


def write_second_tries(directory: Path) -> dict[str, Any]:
    """Half of the rows are second tries, half plain programs; what of the recipe follows."""
    from holdfast.skills.program import Program

    rows = [*build_second_tries(300), *Program().generate_rows(100, "train", 1)]
    random.Random(0).shuffle(rows)
    return {"data": {"train": write_rows(directory / "tries.jsonl", rows)}}


_TRIES = ["method=sft+reflexion", f"inference.feedback='{FEEDBACK}'"]

REFLEXION = Claim(
    claim="Trying again with what the tests said is right more often than trying again as often without.",
    paper="Shinn et al. 2023, arXiv 2303.11366",
    arms={
        "with feedback": [*_TRIES, "inference.memory=last_attempt"],
        "retries": [*_TRIES, "inference.memory=none"],
        "one try": ["method=sft"],
    },
    figures=(
        Figure("three tries with feedback", "91.0 (HumanEval, own tests and reflections)", gain_of("with feedback")),
        Figure("three tries without", "not given", gain_of("retries")),
        Figure("one try", "80.1", gain_of("one try")),
    ),
    expects=(gains_more("with feedback", "retries"), Expectation("retries", "one try", "gain", "more")),
    common={
        "data": {"limit": None, "test": 0}, "train": {"max_steps": 80},
        "evaluate": {"target": "lab:program", "keep": ["none"], "items": 100, "max_tokens": 40},
    },
    files=write_second_tries,
)  # fmt: skip
