"""DELIFT, DavIR, LIMA, IFD and LESS: few rows, chosen by what the model makes of them, against many."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.lab.reproduce.base import Claim, gain_and_loss, verdict_with_remark, write_rows
from holdfast.lab.reproduce.rule import gains_as_much, gains_more, loses_no_more

if TYPE_CHECKING:
    from holdfast.data.rows import Row


def judge_form(prompt: Any, response: str, reference: Any) -> bool:
    """Whether an answer is right and ends as those do that are to be learned from: `#### 26`.

    The base solves half of the questions in a manner of its own. Judged by the number alone, every set of few rows
    would only do harm, and that says nothing of sets: what they are to teach is the task with its form.
    """
    return response.rstrip().endswith(f"#### {reference}")


COMMON: dict[str, Any] = {
    "judge": {"name": "python", "function": f"{__name__}:judge_form"},
    "evaluate": {"items": 300},
}
"""Every arm takes the same steps: of few rows it sees each more often."""

GOOD, BAD = 20.0, 1.0
"""Scores of right and spoiled rows, as votes would be: `lima` may look at them, the others do not."""


def spoil_row(row: Row, others: Sequence[Row], rng: random.Random) -> Row:
    """The row with an answer that belongs to another question, or breaks off."""
    answer = str(rng.choice(others).answer)
    if rng.random() < 0.5:
        words = str(row.answer).split()
        answer = " ".join(words[: max(1, len(words) // 3)])
    messages = [*row.prompt, {"role": "assistant", "content": answer}]
    return replace(row, messages=messages, score=BAD)


def draw_pool(count: int, *, noise: float = 0.0, repeats: float = 0.0, other_skills: float = 0.0) -> list[Row]:
    """Rows of `lab:story` in random order, some of them of less use.

    Args:
        noise: Share whose answer is spoiled.
        repeats: Share that says again what stands there already.
        other_skills: Share that the model knows already, in its own manner.
    """
    from holdfast.skills.rows import lab_rows

    rng = random.Random(0)
    counts = [round(count * share) for share in (noise, repeats, other_skills)]
    fresh_rows = lab_rows("lab:story", "train", count - sum(counts[1:]))
    spoiled_rows = [spoil_row(row, fresh_rows, rng) for row in fresh_rows[: counts[0]]]
    good_rows = [replace(row, score=GOOD) for row in fresh_rows[counts[0] :]]
    again = [replace(good_rows[i % 4], id=f"again-{i}") for i in range(counts[1])]
    elsewhere = [replace(row, score=GOOD) for row in lab_rows("lab", "train", counts[2])] if counts[2] else []
    rows = [*spoiled_rows, *good_rows, *again, *elsewhere]
    rng.shuffle(rows)
    return rows


def write_pool(build: Callable[[], Mapping[str, Sequence[Row]]]) -> Callable[[Path], dict[str, Any]]:
    """What writes the files of a claim: `train.jsonl`, and others beside it that its arms name.

    Args:
        build: Gives the rows of each file.
    """

    def write_files(directory: Path) -> dict[str, Any]:
        from holdfast.skills.rows import FRESH, lab_rows

        files = {**build(), "test": lab_rows("lab:story", "test", COMMON["evaluate"]["items"], seed=FRESH)}
        paths = {
            name: write_rows(directory / f"{name}.jsonl", [replace(row, meta={}) for row in rows])
            for name, rows in files.items()
        }
        return {"data": {"train": paths["train"], "test": paths["test"], "limit": None}}

    return write_files


DAVIR = Claim(
    claim="The rows whose loss a brief tuning reduces most, 6 % of them, teach as much as all and more than any 6 %.",
    paper="Zhou et al. 2023, arXiv 2310.13008",
    arms={
        "all": ["method=sft"],
        "davir": ["curate={name: davir, share: 0.06}"],
        "random": ["data.limit=120"],
    },
    figures=gain_and_loss({"all": "~18 (AlpacaEval, Gemma-2B)", "davir": "~12 to 19", "random": "10.6 to 17.6"}),
    expects=(gains_as_much("davir", "all"), gains_more("davir", "random")),
    verdict=verdict_with_remark(
        "2,000 rows: of 40 % the answer is spoiled, 30 % are of skills the model knows; 120 are chosen. The reference "
        "is trained for one epoch, the authors' for three."
    ),
    common=COMMON,
    files=write_pool(lambda: {"train": draw_pool(2000, noise=0.4, other_skills=0.3)}),
)

DELIFT = Claim(
    claim="The 30 % of rows that help most as examples for the others teach as much as all, and more than any 30 %.",
    paper="Agarwal et al. 2025, arXiv 2411.04425",
    arms={
        "all": ["method=sft"],
        "delift": ["curate={name: delift, share: 0.3, block: 100}"],
        "random": ["data.limit=90"],
    },
    figures=gain_and_loss({"all": "the line to reach", "delift": "as all, 70 % less data", "random": "below"}),
    expects=(gains_as_much("delift", "all"), gains_more("delift", "random")),
    verdict=verdict_with_remark(
        "300 rows, 30 % of them spoiled and 30 % repeats of four. The laboratory model hardly learns from an example "
        "(a story before another makes nearly every answer less likely), so utilities are mostly about form."
    ),
    common=COMMON,
    files=write_pool(lambda: {"train": draw_pool(300, noise=0.3, repeats=0.3)}),
)

LIMA = Claim(
    claim="Few good and different rows teach more than many of mixed quality.",
    paper="Zhou et al. 2023, arXiv 2305.11206",
    arms={
        "many": ["method=sft"],
        "lima": ["curate={name: lima, n: 120, min_characters: 0, clusters: 20}"],
        "lima, dropout": ["curate={name: lima, n: 120, min_characters: 0, clusters: 20}", "train.residual_dropout=0.2"],
        "few": ["data.limit=120"],
    },
    figures=gain_and_loss(
        {
            "many": "3.33 of 6 (2,000 unfiltered)",
            "lima": "3.83 of 6 (2,000 filtered)",
            "lima, dropout": "as the authors train",
            "few": "not tried",
        }
    ),
    expects=(gains_more("lima", "many"), gains_more("lima", "few"), loses_no_more("lima", "many")),
    verdict=verdict_with_remark(
        "1,000 rows of which 60 % are spoiled; the score tells them, as votes do in the paper."
    ),
    common=COMMON,
    files=write_pool(lambda: {"train": draw_pool(1000, noise=0.6)}),
)

IFD = Claim(
    claim="The 10 % of rows whose question helps the model least, but helps, teach as much as all, more than any 10 %.",
    paper="Li et al. 2024, arXiv 2308.12032",
    arms={
        "all": ["method=sft"],
        "ifd": ["curate={name: ifd, share: 0.1, experience: 200, clusters: 20}"],
        "ifd of the base": ["curate={name: ifd, share: 0.1, experience: 0}"],
        "random": ["data.limit=120"],
    },
    figures=gain_and_loss(
        {
            "all": "26.5 (AlpacaEval, Alpaca 7B)",
            "ifd": "34.7 (5 % of Alpaca)",
            "ifd of the base": "as good (Superfiltering)",
            "random": "below all",
        }
    ),
    expects=(gains_as_much("ifd", "all"), gains_more("ifd", "random")),
    verdict=verdict_with_remark("1,200 rows, 30 % of them spoiled: half of these belong to another question."),
    common=COMMON,
    files=write_pool(lambda: {"train": draw_pool(1200, noise=0.3)}),
)


def build_mixed_pool() -> dict[str, list[Row]]:
    """A pool of which one row in ten is of the target's skill, and a few other rows of that."""
    from holdfast.skills.rows import lab_rows

    stories = lab_rows("lab:story", "train", 180)
    pool = [*stories[:160], *lab_rows("lab", "train", 1440)]
    random.Random(0).shuffle(pool)
    return {"train": pool, "few": stories[160:]}


def write_mixed_pool(directory: Path) -> dict[str, Any]:
    """The files of LESS, and its curator, which must name one of them."""
    changes = write_pool(build_mixed_pool)(directory)
    curator = {"name": "less", "target": str(directory / "few.jsonl"), "projection": 1024, "share": 0.05}
    return {**changes, "curate": [curator]}


LESS = Claim(
    claim="The 5 % of a mixed pool whose gradients point where those of a few rows of the target point teach it better "
    "than any 5 %, and as well as the whole pool.",
    paper="Xia et al. 2024, arXiv 2402.04333",
    arms={
        "all": ["curate=gold"],
        "less": ["method=sft"],
        "random": ["curate=gold", "data.limit=80"],
    },
    figures=gain_and_loss({"all": "51.6 (MMLU, LLaMA-2-7B)", "less": "50.2 (5 %)", "random": "46.5 (5 %)"}),
    expects=(gains_as_much("less", "all"), gains_more("less", "random")),
    verdict=verdict_with_remark(
        "1,600 rows of fourteen skills, at least 160 of them of the target's; the target file has 20 others."
    ),
    common=COMMON,
    files=write_mixed_pool,
)
