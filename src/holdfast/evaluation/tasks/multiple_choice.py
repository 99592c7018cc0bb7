"""Multiple choice: the shapes such files come in, and the likeliest choice under a model.

Understood, per record: `choices` in any shape that training reads (`data.beside`) with `answer` (number or letter);
ARC's `question: {stem, choices: [{text, label}]}` with `answerKey`; lettered columns `A, B, C, ...` with `answer` or
`answerKey`; TruthfulQA's `mc1_targets` / `mc2_targets` and its CSV with `Best Answer` and `Incorrect Answers`. A
passage beside the question stands under it, as in training.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.data.batching.batches import EncodedSequence
from holdfast.data.reading.beside import options_of, passages_of
from holdfast.data.reading.converters import add_to_question
from holdfast.data.reading.messages import parse_conversation
from holdfast.data.reading.values import BadRow
from holdfast.data.rows import Message, Row
from holdfast.errors import UserError

if TYPE_CHECKING:
    from holdfast.data.chat.encoder import Chat

LETTERS = string.ascii_uppercase
QUESTION = ("question", "query", "prompt", "ctx", "Question")
GOLD = ("answerKey", "answer", "label", "gold", "target", "completion", "output", "reference")
COLUMNS = ("choices", "options", "endings", "mc1_targets", "mc2_targets", "Incorrect Answers")


def is_choice(record: dict[str, Any]) -> bool:
    """Whether a record of a data file is a multiple-choice question of a known shape."""
    question = record.get("question")
    if isinstance(question, dict):
        return "choices" in question
    has_letters = "A" in record and "B" in record and any(k in record for k in GOLD)
    return has_letters or any(record.get(k) is not None for k in COLUMNS)


def parse_choice_rows(records: Iterable[tuple[str, dict[str, Any]]]) -> list[Row]:
    """Rows with the question as the user's turn, `meta["choices"]` and the gold as `reference`.

    Args:
        records: `(where, record)`; `where` ("arc.jsonl:12") is named in errors.
    Returns:
        `reference` is the number of the right choice, or, for TruthfulQA mc2, a list of 0 / 1 per choice.
    Raises:
        UserError: If a record lacks its question, choices or answer.
    """
    rows = []
    for where, record in records:
        try:
            rows.append(_build_row(where, dict(record)))
        except BadRow as fault:
            raise UserError(fault.format_line(where, 1)) from fault
    return rows


def _build_row(where: str, record: dict[str, Any]) -> Row:
    if isinstance(record.get("question"), dict):  # ARC as published: {"question": {"stem", "choices"}, "answerKey"}
        question = record["question"]
        record = {**record, "question": question.get("stem"), "choices": question.get("choices")}
    question_text = next((record[k] for k in QUESTION if record.get(k)), None)
    if record.get("messages"):
        messages = parse_conversation(record["messages"], "messages")
    elif question_text:
        messages = [{"role": "user", "content": str(question_text)}]
        messages = add_to_question(messages, passages_of(record, str(question_text), str(question_text)))
    else:
        raise UserError(f"{where}: no question; name the column one of {', '.join(QUESTION[:3])}")
    choices, labels, reference = _parse_choices(where, record)
    if reference is None:
        reference = _parse_gold(where, record, labels, choices)
    if len(choices) < 2:
        raise UserError(f"{where}: fewer than two choices")
    return Row(messages=messages, reference=reference, meta={"choices": choices}, id=str(record.get("id") or ""))


def _parse_choices(where: str, record: dict[str, Any]) -> tuple[list[str], list[str], Any]:
    """`(texts, labels, gold)`; gold is None where a column of its own says it."""
    for key in ("mc1_targets", "mc2_targets"):
        if record.get(key):
            texts, right = _parse_targets(where, key, record[key])
            return texts, [], right.index(1) if key == "mc1_targets" and 1 in right else right
    if record.get("Incorrect Answers"):
        good, bad = (str(record.get(name) or "") for name in ("Best Answer", "Incorrect Answers"))
        return [good.strip(), *(c.strip() for c in bad.split(";") if c.strip())], [], 0
    if record.get("endings"):
        record["options"] = record["endings"]
    options = options_of(record)
    if options is None:
        raise UserError(f"{where}: no choices; give a list `choices` or columns A, B, C, ...")
    return list(options.texts), list(options.labels), None


def _parse_targets(where: str, key: str, value: Any) -> tuple[list[str], list[int]]:
    """Choices of TruthfulQA, and for each of them 1 if it is true, else 0."""
    texts, right = (value.get("choices"), value.get("labels")) if isinstance(value, dict) else (None, None)
    if not isinstance(texts, list) or not isinstance(right, list) or len(texts) != len(right):
        raise UserError(f"{where}: {key} must have choices and labels, as many of one as of the other")
    if not all(label in (0, 1) for label in right):
        raise UserError(f"{where}: a label of {key} is neither 0 nor 1")
    return [str(text) for text in texts], [int(label) for label in right]


def _parse_gold(where: str, record: dict[str, Any], labels: Sequence[str], choices: Sequence[str]) -> int:
    """The number of the right choice: from its label, its number or its text."""
    value = next((record[k] for k in GOLD if record.get(k) is not None), None)
    if value is None:
        raise UserError(f"{where}: no right answer; name the column answerKey or answer")
    text = str(value).strip()
    if text in labels:
        return list(labels).index(text)
    if text.isdigit() and int(text) < len(choices):
        return int(text)
    if text in choices:
        return list(choices).index(text)
    raise UserError(f"{where}: answer {text!r} is none of the {len(choices)} choices (label, number or text)")


def append_choice(prompt: Sequence[Message], choice: str) -> list[Message]:
    """The conversation that ends in `choice`, with every earlier assistant turn marked as not scored."""
    earlier = [{**m, "weight": 0} if m["role"] == "assistant" else m for m in prompt]
    return [*earlier, {"role": "assistant", "content": choice}]


def weigh_choices(
    logps: np.ndarray, choices: Sequence[str], normalise: str = "none", bias: Callable[[str], float] | None = None
) -> np.ndarray:
    """What the choices of a question are picked by, from their log-likelihoods in nats; [choices].

    Args:
        normalise: "length" divides by the choice's characters first (`acc_norm` of lm-eval).
        bias: What is added to each choice's value after that, in nats.
    """
    lengths = np.array([max(len(c), 1) for c in choices]) if normalise == "length" else 1.0
    values = logps / lengths
    return values if bias is None else values + np.array([bias(choice) for choice in choices])


def normalise_logps(values: np.ndarray) -> list[float]:
    """Log-probabilities of the choices, one of which is picked, in nats to six digits."""
    return (values - np.logaddexp.reduce(values)).round(6).tolist()


def decide_choice(
    logps: np.ndarray,
    choices: Sequence[str],
    reference: Any,
    normalise: str = "none",
    bias: Callable[[str], float] | None = None,
) -> tuple[int, float, bool]:
    """`(picked, score, passed)` of one question.

    Args:
        logps: Log-likelihood of each choice in nats; [choices].
        reference: Number of the right choice: score 1 if it is likelier than every other, else 0 (a tie is not right).
            Or 0 / 1 per choice (TruthfulQA mc2, Lin et al. 2021, arXiv 2109.07958): the score is the share of
            probability on the true ones, and passed means more than half.
        normalise, bias: As in `weigh_choices`.
    """
    values = weigh_choices(logps, choices, normalise, bias)
    best = int(np.argmax(values))
    if isinstance(reference, list):
        mass = np.exp(values - values.max())
        share = float(mass[np.array(reference, dtype=bool)].sum() / mass.sum())
        return best, share, share > 0.5
    is_right = bool((values[reference] > np.delete(values, reference)).all())
    return best, float(is_right), is_right


def encode_choice(chat: Chat, prompt: Sequence[Message], choice: str, row: int) -> EncodedSequence:
    """The conversation that ends in `choice`; its tokens are scored, no marks before or after them."""
    messages = append_choice(prompt, choice)
    ids, answer_mask = chat.with_masked_thoughts().encode(messages)
    label_mask = np.asarray(answer_mask, dtype=bool).copy()
    last = int(np.flatnonzero(label_mask)[-1])
    if int(ids[last]) in chat.stop_ids and label_mask.sum() > 1:
        label_mask[last] = False
    pictures = chat.pictures.list_pictures(messages)
    return EncodedSequence(ids=np.asarray(ids, dtype=np.int32), label_mask=label_mask, row=row, pictures=pictures)
