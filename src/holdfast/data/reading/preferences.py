"""Preference data of every common shape to `Row`s: pairs, pairs beside a gold answer, ranked answers, labelled ones."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from holdfast.data.reading.beside import is_within, options_of, reference_of
from holdfast.data.reading.converters import (
    ANSWERS,
    CONVERSATIONS,
    PROMPTS,
    convert_messages,
    convert_prompt,
    marked_turns,
    merge_prompts,
    prompt_of,
    side_of,
    with_options,
    with_system,
)
from holdfast.data.reading.messages import is_messages, parse_conversation, unpack_messages
from holdfast.data.reading.values import BadRow, first_key, has_content, number_of, text_of
from holdfast.data.rows import Message, Row

Rejected = Literal["worst", "random"]
"""Which of several ranked answers is rejected: the lowest, or any that is lower than the best."""

SIDES = (
    ("chosen", "rejected"),
    ("chosen_messages", "rejected_messages"),
    ("chosen_response", "rejected_response"),
    ("chosen_conversations", "rejected_conversations"),
    ("preferred_output", "non_preferred_output"),
)
REJECTED_ALONE = ("rejected_response", "rejected_messages")
"""Beside these the chosen answer may end the conversation or stand in a column of answers, as swift has it."""
GOLD = ("gold", "gold_answer", "gold_response", "reference_answer", "reference_response")
SCORE_NAMES = ("score", "rating", "reward")
NAMES = {
    f"score_{side}": tuple(
        name for word in SCORE_NAMES for name in (f"{word}_{side}", f"{side}_{word}", f"{side}-{word}")
    )
    for side in ("chosen", "rejected")
} | {"preference": ("preference",), "margin": ("margin",)}
"""What the numbers of a pair are called here, and elsewhere."""
NUMBERS = frozenset(name for names in NAMES.values() for name in names)

LISTS = ("completions", "responses", "answers", "candidates", "generations", "completion", "response")
"""Columns that may hold several answers to one prompt."""
SCORE_LISTS = (*(f"{word}s" for word in SCORE_NAMES), "labels", *SCORE_NAMES, "label")
RANK_LISTS = ("ranks", "rankings", "ranking", "rank")
TEXTS = ("text", "content", "response", "completion", "answer", "output", "value")
ITEM_SCORES = (*SCORE_NAMES, "overall_score", "label")
ITEM_RANKS = ("rank", "ranking")

COLUMNS = {
    *(name for pair in SIDES for name in pair),
    *(*NUMBERS, *GOLD, *LISTS, *SCORE_LISTS, *RANK_LISTS, "kto_tag"),
}


class Tie(Exception):
    """None of a row's ranked answers is below the best, so there is nothing to prefer; such rows are left out."""


@dataclass(frozen=True, slots=True)
class RankedAnswer:
    """One of several answers to a prompt; the higher the score the better."""

    text: str
    score: float


def ranked_pair(
    answers: Sequence[RankedAnswer], rejected: Rejected = "worst", *, seed: str = "", min_gap: float = 0.0
) -> tuple[int, int] | None:
    """Which of several answers to one prompt are chosen and rejected; `None` if none is below the best.

    Chosen is the highest score. Rejected is the lowest; or, as in Zephyr [Tunstall et al. 2023, 2310.16944], one of the
    others with equal chances, those as good as the best left out. Of equal scores the first is taken.

    Args:
        answers: At least one.
        rejected: "worst" or "random".
        seed: What random choices follow from, such as the row's id.
        min_gap: Least difference of the two scores.
    """
    best = max(range(len(answers)), key=lambda i: answers[i].score)
    gaps = [answers[best].score - answer.score for answer in answers]
    lower = [i for i, gap in enumerate(gaps) if 0 < gap >= min_gap and answers[i].text != answers[best].text]
    if not lower:
        return None
    if rejected == "random":
        return best, random.Random(seed).choice(lower)
    return best, min(lower, key=lambda i: answers[i].score)


def build_group_meta(answers: Sequence[RankedAnswer]) -> dict[str, Any]:
    """What a row carries in `meta` of all its answers, for objectives that compare more than two."""
    return {"answers": [answer.text for answer in answers], "scores": [answer.score for answer in answers]}


# ---- which shape --------------------------------------------------------------------------------------------------


def sides_of(columns: Collection[str]) -> tuple[str, str] | None:
    """The two columns of a pair, by the names used here; one of them may be missing."""
    return next((pair for pair in SIDES if pair[0] in columns or pair[1] in columns), None)


def ranked_column(record: Mapping[str, Any]) -> str | None:
    """The column that holds several answers to one prompt, with a score or a rank each."""
    for key in LISTS:
        value = record.get(key)
        if isinstance(value, list) and value:
            if any(map(_rating_key, value)):
                return key
            ratings = _ratings_column(record, len(value))
            alone = key in ANSWERS and (is_messages(value) or (ratings and len(record[ratings]) != len(value)))
            if ratings and not alone:
                return key
    return None


def _rating_key(item: Any) -> str | None:
    """What an answer's own score or rank is called."""
    names = (*ITEM_SCORES, *ITEM_RANKS) if isinstance(item, dict) else ()
    return next((name for name in names if item.get(name) is not None), None)


def _ratings_column(record: Mapping[str, Any], count: int) -> str | None:
    """The column that holds the scores or ranks of `count` answers, if need be of another number of them."""
    names = [name for name in (*SCORE_LISTS, *RANK_LISTS) if isinstance(record.get(name), list)]
    return next((name for name in names if len(record[name]) == count), names[0] if names else None)


def label_kind(value: Any) -> str:
    """Whether a label is "truth" (true or false), a "bit" (0 or 1), or "other"."""
    if isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in ("true", "false")):
        return "truth"
    return "bit" if value in (0, 1, "0", "1") else "other"


# ---- formats ------------------------------------------------------------------------------------------------------


def convert_preference(record: dict[str, Any], rejected: Rejected = "worst") -> Row:
    """A pair; or several ranked answers, made into one.

    Raises:
        Tie: None of the answers is below the best.
    """
    request = record.get("input")
    if isinstance(request, dict) and "messages" in request:  # as OpenAI has it
        record["messages"] = record.pop("input")["messages"]
    sides = sides_of(record)
    row = _convert_pair(record, *sides) if sides else _convert_ranked(record, rejected)
    if not NUMBERS.isdisjoint(record):
        for name, names in NAMES.items():
            if (key := first_key(record, names)) is not None and name not in row.meta:
                row.meta[name] = _parse_number(record.pop(key))
    return row


def _convert_pair(record: dict[str, Any], good: str, bad: str) -> Row:
    if (
        good not in record
        and bad in REJECTED_ALONE
        and (key := first_key(record, (*CONVERSATIONS, *ANSWERS))) is not None
    ):
        record[good] = record.pop(key)
    for name in (good, bad):
        if record.get(name) is None:
            raise BadRow(f"field {name} is {'empty' if name in record else 'missing'}", "fill {} in")
    chosen, before = side_of(record.pop(good), f"field {good}")
    rejected, before_too = side_of(record.pop(bad), f"field {bad}")
    if before is not None and before_too is not None and before != before_too:
        raise BadRow(f"{good} and {bad} do not answer the same prompt")
    messages, last_answer, start = before or before_too, None, ""
    if messages is not None:
        messages = with_system(record, _with_own_prompt(record, messages, f"{good} or {bad}"))
    elif any(name in record for name in (*CONVERSATIONS, *PROMPTS)):
        messages, last_answer = _take_prompt(record)
    else:
        messages, chosen, rejected, start = _split_shared_prompt(chosen, rejected)
    if messages[-1]["role"] != "user":
        raise BadRow("the prompt does not end with a user turn")
    if chosen == rejected:
        raise BadRow("chosen and rejected are the same")
    gold = _take_gold(record, start)
    if gold is None and (
        last_answer != chosen or _is_own_row(record)
    ):  # a conversation that ends with chosen says nothing more
        gold = last_answer
    return Row(_append_gold(messages, gold), reference=reference_of(record), chosen=chosen, rejected=rejected)


def _with_own_prompt(record: dict[str, Any], messages: list[Message], field: str) -> list[Message]:
    """The prompt that both answers come with, and the row's own, which may have a system message or a history more.

    A text is the prompt once more, as in UltraFeedback, if it stands in the conversation; if not, it is left.
    """
    for name in (*CONVERSATIONS, *PROMPTS):
        value = unpack_messages(record.get(name))
        if is_messages(value):
            own_prompt = parse_conversation(record.pop(name), name)
            own_prompt = (
                own_prompt[:-1] if len(own_prompt) > 1 and own_prompt[-1]["role"] == "assistant" else own_prompt
            )
            messages = merge_prompts(own_prompt, messages, field)
        elif not has_content(value) or (
            isinstance(value, str) and is_within(value, "\n".join(m["content"] for m in messages))
        ):
            record.pop(name, None)
    return messages


def _is_own_row(record: Mapping[str, Any]) -> bool:
    """Whether it was written by us: a gold answer ends its messages, its reference is the judge's."""
    return isinstance(record.get("origin"), str)


def _take_prompt(record: dict[str, Any]) -> tuple[list[Message], str | None]:
    """The prompt, and the gold answer if the conversation goes on to it."""
    key = first_key(record, CONVERSATIONS)
    if key is None:
        messages, options = prompt_of(record), options_of(record)
        return (messages if options is None else with_options(messages, options)), None
    messages = with_system(record, parse_conversation(record.pop(key), key))
    if messages[-1]["role"] == "assistant":
        return messages[:-1], messages[-1]["content"]
    return messages, None


def _take_gold(record: dict[str, Any], start: str) -> str | None:
    """The gold answer in a column of its own, less the prompt that it may begin with; taken out of `record`.

    A `reference` that is text counts as one, as in TPO's data; our own rows have theirs in `messages`.
    """
    key = first_key(record, GOLD)
    if key is not None and record[key] not in (None, ""):
        text = side_of(record.pop(key), f"field {key}")[0]
        if start and not text.startswith(start):
            raise BadRow(f"field {key} does not begin with the prompt that chosen and rejected share")
        return text.removeprefix(start).strip() if start else text
    value = unpack_messages(record.get("reference"))
    is_answer = is_messages(value) or (isinstance(value, str) and value.strip() and value.startswith(start))
    if not is_answer or _is_own_row(record):
        return None
    text = side_of(record.pop("reference"), "field reference")[0]
    return text.removeprefix(start).strip() if start else text


def _append_gold(messages: list[Message], gold: str | None) -> list[Message]:
    return messages if gold is None else [*messages, {"role": "assistant", "content": gold}]


def _parse_number(value: Any) -> Any:
    """A number that CSV holds as text; anything else as it is, to be refused by who needs a number."""
    try:
        return number_of(value, "") if isinstance(value, str) else value
    except BadRow:
        return value


def _convert_ranked(record: dict[str, Any], rejected: Rejected) -> Row:
    key = ranked_column(record)
    if key is None:
        raise BadRow("fields chosen and rejected are missing", "fill {} in")
    answers, what, prompts = _take_answers(record, key)
    messages, gold = _take_prompt(record)
    for before in prompts:
        messages = merge_prompts(messages, before, f"field {key}")
    gold = _take_gold(record, "") or gold
    row = Row(_append_gold(messages, gold), reference=reference_of(record))
    pair = ranked_pair(answers, rejected, seed=row.id)
    if pair is None:
        raise Tie
    best, other = (answers[i] for i in pair)
    sign = -1 if what == "rank" else 1
    meta: dict[str, Any] = {f"{what}_chosen": sign * best.score, f"{what}_rejected": sign * other.score}
    meta |= build_group_meta(answers)
    for name in meta:  # columns of that name that say something else
        record.pop(name, None)
    return Row(row.messages, reference=row.reference, chosen=best.text, rejected=other.text, meta=meta)


def _take_answers(record: dict[str, Any], key: str) -> tuple[list[RankedAnswer], str, list[list[Message]]]:
    """The answers in a column; whether their "score" or their "rank" was given (rank 1 is the best); the prompts that
    came with them."""
    items = record.pop(key)
    if len(items) < 2:
        raise BadRow(f"field {key} has one answer, but a pair needs two", "add another to {}")
    own = next(filter(None, map(_rating_key, items)), None)
    source = own or _ratings_column(record, len(items)) or ""
    ratings = record.pop(source) if own is None else [item.get(own) if _rating_key(item) else None for item in items]
    if len(ratings) != len(items):
        raise BadRow(f"field {source} has {len(ratings)} values for {len(items)} {key}")
    what = "rank" if source in RANK_LISTS else "score"
    out, prompts = [], []
    for i, (item, value) in enumerate(zip(items, ratings, strict=True)):
        if value is None:
            raise BadRow(f"{key}[{i}] has no {source}", "fill {} in")
        score = float(value) if isinstance(value, bool) else number_of(value, f"{source} of {key}[{i}]")
        text, before = _answer_text(item, f"{key}[{i}]")
        prompts += [before] if before else []
        out.append(RankedAnswer(text, -score if what == "rank" else score))
    return out, what, prompts


def _answer_text(item: Any, field: str) -> tuple[str, list[Message] | None]:
    if isinstance(item, dict):
        name = first_key(item, TEXTS)
        if name is None:
            raise BadRow(f"{field} has no text", "fill {} in")
        item = item[name]
    return side_of(item, field)


def _split_shared_prompt(chosen: str, rejected: str) -> tuple[list[Message], str, str, str]:
    """Prompt, answers and prompt as it stood, of two texts that begin alike, "Human: ... Assistant: ..." or plain."""
    differ = (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b)
    prefix = chosen[: next(differ, min(len(chosen), len(rejected)))]
    mark_at = prefix.rfind("\n\nAssistant:")
    if mark_at >= 0 and prefix.lstrip().startswith("Human:"):
        cut = mark_at + len("\n\nAssistant:")
        messages = marked_turns(prefix[:cut]) or []
    else:
        cut = max(prefix.rfind(mark) + 1 for mark in "\n\t ")
        messages = [{"role": "user", "content": prefix[:cut].strip()}]
    if not messages[-1]["content"]:
        raise BadRow("chosen and rejected share no prompt and there is no field prompt", "add a prompt to {}")
    sides = [
        text_of(text[cut:].strip(), f"the answer in {n}") for text, n in ((chosen, "chosen"), (rejected, "rejected"))
    ]
    return messages, sides[0], sides[1], prefix[:cut].rstrip()


def convert_kto(record: dict[str, Any]) -> Row:
    """An answer with a label: desirable or not."""
    value = record.pop("kto_tag", None) if "kto_tag" in record else record.pop("label", None)
    kind = label_kind(value)
    if value is None or kind == "other":
        raise BadRow("field label is missing" if value is None else f"field label ({value!r}) is not true or false")
    row = convert_messages(record) if first_key(record, CONVERSATIONS) else convert_prompt(record)
    row.label = str(value).strip().lower() in ("true", "1")
    return row
