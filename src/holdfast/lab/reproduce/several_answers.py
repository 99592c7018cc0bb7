"""Self-consistency, best of n and reflexion: more answers than one, without training."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

from holdfast.axes.judge import JudgeRequest
from holdfast.data.rows import Row
from holdfast.lab.reproduce.base import Claim, Figure, gain_of, verdict_with_remark, write_rows
from holdfast.lab.reproduce.graded_answers import GRADED
from holdfast.lab.reproduce.rule import Expectation, gains_more
from holdfast.skills.base import Question, single_turn_prompt
from holdfast.skills.program import Program
from holdfast.skills.story_graded import OPERATIONS

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
    common={**GRADED, "evaluate": {"keep": ["none"], "items": 200, "max_tokens": 120}},
)

FEEDBACK = "That is wrong{reason}."


class TwoStepProgram(Program):
    """Programs of two operations: the base writes every one of the single ones of `program`, and none of these."""

    name = "two-step-program"

    def generate_question(self, rng: random.Random) -> Question:
        first, second = rng.choice("+-*"), rng.choice("+-*")
        n, m = rng.randint(2, 20), rng.randint(2, 20)
        begins = {"+": f"adds {n} to x", "-": f"takes {n} from x", "*": f"multiplies x by {n}"}[first]
        goes_on = {"+": f"adds {m}", "-": f"takes {m}", "*": f"multiplies by {m}"}[second]
        has_marks = second == "*" and first != "*"
        body = f"(x {first} {n}) {second} {m}" if has_marks else f"x {first} {n} {second} {m}"
        tests = [f"assert f({x}) == {OPERATIONS[second](OPERATIONS[first](x, n), m)}" for x in (0, 3, 10)]
        prompt = rng.choice(("Write f that", "Define f that", "Write a function f that"))
        return Question(
            f"{first}{second}/{n}/{m}", single_turn_prompt(f"{prompt} {begins} then {goes_on}."), tests,
            {"arguments": "x", "body": body},
        )  # fmt: skip


@cache  # every wrong program is run: minutes, and the same for every arm and seed
def build_second_tries(n: int, seed: int = 0) -> list[Row]:
    """Programs that failed their tests, what the judge said, and the right one: what a second try is learned from."""
    from holdfast.methods.judges.code import Code

    rows = TwoStepProgram().generate_rows(n, "train", seed, form="pair")
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
    """Rows, of which three in four are second tries and one a plain program, and questions; what of the recipe
    follows.
    """
    programs = TwoStepProgram()
    rows = [*build_second_tries(300), *programs.generate_rows(100, "train", 1)]
    random.Random(0).shuffle(rows)
    return {"data": {"train": write_rows(directory / "tries.jsonl", rows),
                     "test": write_rows(directory / "test.jsonl", programs.generate_rows(200, "test", 0))}}  # fmt: skip


PROGRAMS: dict[str, Any] = {
    "data": {"limit": None}, "judge": {"name": "code"}, "train": {"max_steps": 80},
    "evaluate": {"keep": ["none"], "items": 200, "max_tokens": 40},
}  # fmt: skip
"""After which a model writes about half of the programs at once."""

BEST_OF_N = Claim(
    claim="The one of several sampled programs that passes the tests is right more often than a single sample.",
    paper="Cobbe et al. 2021, arXiv 2110.14168",
    arms={
        "best of 5, tests": ["method=sft+best_of_n", "inference.by=judge", "inference.n=5"],
        "best of 5, likelihood": ["method=sft+best_of_n", "inference.n=5"],
        "one sample": ["method=sft+best_of_n", "inference.n=1"],
        "greedy": ["method=sft"],
    },
    figures=(
        Figure("best of 5 by its tests", "not measured (trained verifiers)", gain_of("best of 5, tests")),
        Figure("best of 5 by its likelihood", "not measured", gain_of("best of 5, likelihood")),
        Figure("one sample", "not given", gain_of("one sample")),
        Figure("the likeliest tokens (greedy)", "above one sample", gain_of("greedy")),
    ),
    expects=(gains_more("best of 5, tests", "one sample"), gains_more("best of 5, likelihood", "one sample")),
    common=PROGRAMS,
    verdict=verdict_with_remark("The tests that choose also decide the score; samples are drawn at temperature 0.7."),
    files=write_second_tries,
)  # fmt: skip

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
    common=PROGRAMS,
    verdict=verdict_with_remark(
        "The base is taught two-step programs and second tries in one training, after which it writes about half of "
        "the programs at once; the first test that failed is what it is told."
    ),
    files=write_second_tries,
)  # fmt: skip
