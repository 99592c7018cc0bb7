"""DFT, the anchors and prompt distillation: what becomes of the rest of the distribution while answers are learned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from holdfast.axes.curator import CurationContext, Curator
from holdfast.axes.engine import Request
from holdfast.data.row_shapes import build_conversations
from holdfast.data.rows import Row, Rows
from holdfast.lab.reproduce.base import (
    HIGH_RATES,
    RATES,
    REHEARSAL,
    Claim,
    Figure,
    gain_of,
    loss_of,
    task_change_of,
    verdict_with_remark,
    write_records,
)
from holdfast.lab.reproduce.rule import Expectation, gains_as_much, gains_more, loses_less, loses_no_more
from holdfast.skills.base import Split

DFT = Claim(
    claim="Counting each token by the model's probability of it gains more on the target than SFT, and costs less.",
    paper="Wu et al. 2025, arXiv 2508.05629",
    arms={"sft": ["method=sft"], "dft": ["method=dft"]},
    figures=(
        Figure("target, SFT", "+2.09 (Qwen2.5-Math-1.5B, mean of five maths sets)", gain_of("sft")),
        Figure("target, DFT", "+15.66", gain_of("dft")),
        Figure("lost elsewhere, SFT", "not measured", loss_of("sft")),
        Figure("lost elsewhere, DFT", "not measured", loss_of("dft")),
    ),
    expects=(gains_more("dft", "sft", at="best"), loses_no_more("dft", "sft", at="best")),
    rates=HIGH_RATES,
)

_ANCHORS = {"kl": "kl", "l2sp": "l2sp, strength: 0.1", "ewc": "ewc"}

ANCHOR = Claim(
    claim="A penalty for leaving the base, in answers (KL) or weights (L2-SP, EWC), loses less elsewhere than SFT at a "
    "like gain.",
    paper="Kirkpatrick et al. 2017, arXiv 1612.00796; Li et al. 2018, arXiv 1802.01483; Li and Hoiem 2016, "
    "arXiv 1606.09282",
    arms={
        "sft": ["method=sft"],
        **{name: [f"objective={{name: anchor, penalty: {knobs}}}"] for name, knobs in _ANCHORS.items()},
        "replay": ["method=sft", REHEARSAL],
        "kl on replay": ["objective={name: anchor, on: replay}", REHEARSAL],
    },
    figures=(
        Figure("target, SFT", "reference", gain_of("sft")),
        Figure("target, KL", "about SFT's (Li and Hoiem)", gain_of("kl")),
        Figure("target, L2-SP", "above SFT's (Li et al., images)", gain_of("l2sp")),
        Figure("target, EWC", "about SFT's (Kirkpatrick et al.)", gain_of("ewc")),
        Figure("lost elsewhere, SFT", "catastrophic", loss_of("sft")),
        Figure("lost elsewhere, KL", "much less", loss_of("kl")),
        Figure("lost elsewhere, L2-SP", "not measured", loss_of("l2sp")),
        Figure("lost elsewhere, EWC", "next to nothing", loss_of("ewc")),
        Figure("lost elsewhere, 10 % replay", "not compared", loss_of("replay")),
        Figure("lost elsewhere, 10 % replay, held by KL", "not compared", loss_of("kl on replay")),
    ),
    expects=tuple(
        part
        for name in ("kl", "ewc")
        for part in (gains_as_much(name, "sft", at="best"), loses_less(name, "sft", at="gain"))
    ),
    rates=RATES,
    verdict=verdict_with_remark("No strength was chosen by its result."),
)

DOCUMENT_FACTS = (("home", "pet"), ("food", "job"))
"""Which facts about someone stand in one document."""


def closed_book_rows(split: Split) -> Iterator[Row]:
    """Questions on facts the model was never shown, in the phrasings of a split, with the document that tells them."""
    from holdfast.skills.facts import PHRASINGS, Facts, exposure_level, fact_object
    from holdfast.skills.lexicon import SUBJECTS
    from holdfast.skills.reading import KINDS

    facts = Facts()
    for subject in (s for s in SUBJECTS if exposure_level(s) == 0):
        for document in DOCUMENT_FACTS:
            facts_text = " ".join(KINDS[r][0].format(p=subject, o=fact_object(subject, r)) for r in document)
            questions = [facts.phrase_question(subject, r, i) for r in document for i in range(len(PHRASINGS[r]))]
            for question in (q for q in questions if q.split == split):
                messages = [*question.messages, {"role": "assistant", "content": question.reference}]
                yield Row(messages, reference=question.reference, meta={"context": f"Text: {facts_text}"})


def write_question_files(directory: Path) -> dict[str, Any]:
    """Write the documents' questions as train and test file; what of the recipe follows."""
    splits: tuple[Split, ...] = ("train", "test")
    rows = {split: (row.to_json() for row in closed_book_rows(split)) for split in splits}
    return {"data": {split: write_records(directory / f"{split}.jsonl", some) for split, some in rows.items()}}


class Read(Curator):
    """The model's own answer to each question, sampled with its `context` before it. [Kujanpaa et al. 2024, 2412.14964]

    Answers cut off at the length limit are dropped.
    """

    paper: ClassVar[str] = "Kujanpaa et al. 2024, arXiv 2412.14964"
    samples: ClassVar[bool] = True

    temperature: float = Field(1.5, ge=0, description="Of the sampled answers; high, to cover what may be said.")

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        taught = [both[1][:-1] for both in build_conversations(rows, 0, "taught")]
        requests = [Request(row.id, prompt) for row, prompt in zip(rows, taught, strict=True)]
        params = context.sampling.model_copy(update={"temperature": self.temperature, "n": 1, "seed": context.seed})
        samples_by_row = context.sample(requests, params)
        pairs = [(row, samples_by_row[row.id][0]) for row in rows]
        return [row.with_answer(one.text, "model") for row, one in pairs if one.finish == "stop" and one.text.strip()]


_READ = "curate={name: 'holdfast.lab.reproduce.distribution:Read'}"

PROMPT_DISTILLATION = Claim(
    claim="Facts from documents are known without them after prompt distillation, better than after SFT on the same "
    "answers, and old facts are kept better.",
    paper="Kujanpaa et al. 2024, arXiv 2412.14964",
    arms={
        "sft gold": ["method=sft"],
        "sft": ["method=sft", _READ],
        "prompt distillation": ["method=prompt_distillation", _READ],
    },
    figures=(
        Figure("new facts, SFT on the right answers", "not tried", gain_of("sft gold")),
        Figure("new facts, SFT on the model's answers", "far below prompt distillation", gain_of("sft")),
        Figure("new facts, prompt distillation", "as good as retrieval", gain_of("prompt distillation")),
        Figure("old facts, SFT on the model's answers", "not measured", task_change_of("sft", "facts")),
        Figure("old facts, prompt distillation", "not measured", task_change_of("prompt distillation", "facts")),
        Figure("lost elsewhere, SFT on the model's answers", "not measured", loss_of("sft")),
        Figure("lost elsewhere, prompt distillation", "not measured", loss_of("prompt distillation")),
    ),
    expects=(
        gains_more("prompt distillation", "sft"),
        Expectation("prompt distillation", "sft", "facts", "more"),
        loses_no_more("prompt distillation", "sft"),
    ),
    verdict=verdict_with_remark(
        "Old facts are one skill of those kept; what is lost over all of them stands in the table above."
    ),
    common={"data": {"limit": None}, "judge": {"name": "lab", "skill": "reading"}},
    files=write_question_files,
)
