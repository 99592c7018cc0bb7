"""Why an answer is wrong, by what can be seen in its text: read by rules, first fit first."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.axes.analysis import MeasuredAnswer

NEVER_STOPS, EMPTY, REFUSES, LANGUAGE = "never stops", "empty", "refuses", "other language"
FORMAT, STEP, OTHER = "form", "wrong step", "other answer"
CAUSES = {
    NEVER_STOPS: ("never stops", "never stop"),
    EMPTY: ("is empty", "are empty"),
    REFUSES: ("refuses", "refuse"),
    LANGUAGE: ("is in another language", "are in another language"),
    FORMAT: ("is right, but not in the form that is asked for", "are right, but not in the form that is asked for"),
    STEP: ("has a wrong step", "have a wrong step"),
    OTHER: ("is just another answer", "are just other answers"),
}
"""In the order in which they are looked for; what each says of one answer and of several."""

REFUSAL = re.compile(
    r"\b(i(?:'|\u2019)?m sorry|i am sorry|i apologi[sz]e|as an ai\b|i (?:can(?:'|\u2019)?t|cannot|can not|am unable to|"
    r"am not able to|won(?:'|\u2019)?t) (?:help|assist|answer|provide|do|comply|fulfil|give|discuss|create|write)|"
    r"i do(?:n(?:'|\u2019)t| not) (?:know|have (?:enough|access|information))|unable to (?:help|answer|assist|comply))",
    re.IGNORECASE,
)
"""What refusals begin with, after Zou et al. 2023 (arXiv 2307.15043), and saying that one does not know."""

FUNCTION_WORDS: dict[str, str] = {
    "English": "the of and to in is that it was for are with his they this have from you not be at",
    "German": "der die das und ist nicht ein eine zu den mit von sich auf für dem auch wird sind",
    "French": "le la les et des est une que pour dans qui pas sur avec sont du au ce il elle",
    "Spanish": "el los las y es una que por con para del se su como más pero son está lo al",
    "Italian": "il lo gli e è una che per con non di della sono del nel si più come anche ma",
    "Portuguese": "o os as e é uma que por com para do da não se mais como mas são em ao",
    "Dutch": "de het een en is van dat niet op te zijn met voor er aan ook wordt bij naar uit",
}
"""Words that nearly every sentence of a language has, where letters do not tell it."""
FEW_WORDS, FEW_LETTERS = 6, 6
"""Below these a text is too short to have a language of its own."""

EQUATION = re.compile(r"(-?\d+(?:\.\d+)?)\s*([-+*/x\u00d7\u00f7])\s*(-?\d+(?:\.\d+)?)\s*=\s*(-?\d+(?:\.\d+)?)")
OPERATIONS = {"+": "+", "-": "-", "*": "*", "x": "*", "\u00d7": "*", "/": "/", "\u00f7": "/"}
STEP_END = re.compile(r"\n+|(?<=[.!?;])\s+")
FINAL_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def find_cause(answer: MeasuredAnswer, other: MeasuredAnswer) -> tuple[str, str]:
    """Why an answer that was judged wrong is wrong, and what was seen.

    Args:
        answer: The wrong one.
        other: The right one of the other model, to the same question.
    """
    text = answer.response.strip()
    if not answer.stopped:
        loop = find_loop(text)
        return NEVER_STOPS, f"it repeats {loop!r}" if loop else f"cut at {answer.tokens} tokens"
    if not text:
        return EMPTY, "an empty answer"
    if (refusal := REFUSAL.search(text)) and not REFUSAL.search(other.response):
        return REFUSES, f"{refusal[0]!r}"
    here, there = find_language(text), find_language(f"{other.response} {answer.reference}")
    if here and there and here != there:
        return LANGUAGE, f"{here} instead of {there}"
    if note := find_lost_form(answer, other):
        return FORMAT, note
    return find_wrong_step(text, other.response.strip())


def find_loop(text: str, times: int = 3) -> str:
    """What a text repeats at its end, so many times at least, or ""; of 1 to 60 characters."""
    for size in range(1, min(60, len(text) // times) + 1):
        unit = text[-size:]
        if unit.strip() and text.endswith(unit * times) and (size > 2 or text.endswith(unit * 4 * times)):
            return unit.strip()
    return ""


def find_language(text: str) -> str:
    """The script of a text's letters if that is not Latin, else its language by its function words; "" if unclear."""
    letters = Counter(unicodedata.name(c, "?").split()[0] for c in text if c.isalpha())
    script, count = letters.most_common(1)[0] if letters else ("", 0)
    if count < FEW_LETTERS or count < 0.6 * sum(letters.values()):
        return ""
    if script != "LATIN":
        return script.capitalize()
    words = re.findall(r"[^\W\d_]+", text.lower())
    hits = {
        language: sum(word in common_words.split() for word in words)
        for language, common_words in FUNCTION_WORDS.items()
    }
    (first, most), (_, second) = Counter(hits).most_common(2)
    return first if len(words) >= FEW_WORDS and most >= 3 and most >= 2 * second else ""


def find_lost_form(answer: MeasuredAnswer, other: MeasuredAnswer) -> str:
    """What shows that an answer is right in substance, or could not be read; "" where nothing does."""
    if answer.unreadable:
        return "the judge could not read it"
    reference, text = answer.reference.strip(), answer.response
    key = _last_number(reference) if "####" in reference or "boxed" in reference else reference
    if not key or len(key) > 80:
        return ""
    at_end = _last_number(text) == key.replace(",", "") if FINAL_NUMBER.fullmatch(key) else False
    whole = re.search(rf"(?<![\w.]){re.escape(key)}(?![\w])", text, re.IGNORECASE) is not None
    if at_end or (whole and not FINAL_NUMBER.fullmatch(key)):
        return f"it holds {key!r}, but not as the judge reads it"
    return ""


def _last_number(text: str) -> str:
    numbers = FINAL_NUMBER.findall(text)
    return numbers[-1].replace(",", "").rstrip(".") if numbers else ""


def find_wrong_step(text: str, other: str) -> tuple[str, str]:
    """The first equation of a text that does not hold, or the first step in which it leaves another text; else none."""
    for match in EQUATION.finditer(text):
        if not _equation_holds(match):
            return STEP, f"{match[0]} does not hold"
    steps, others = ([part.strip() for part in STEP_END.split(one) if part.strip()] for one in (text, other))
    if len(steps) > 1 and len(others) > 1:
        at = next(
            (i for i, (a, b) in enumerate(zip(steps, others, strict=False)) if a != b), min(len(steps), len(others))
        )
        here = steps[at] if at < len(steps) else "the end"
        return STEP, f"step {at + 1} of {len(steps)} is {_shorten_text(here)!r}"
    return OTHER, ""


def _equation_holds(match: re.Match[str]) -> bool:
    """Whether a op b = c holds, to the digits that c has."""
    a, sign, b, c = match[1], OPERATIONS[match[2]], match[3], match[4]
    first, right = float(a), float(b)
    if sign == "/" and right == 0:
        return False
    value = {"+": first + right, "-": first - right, "*": first * right, "/": first / right if right else 0.0}[sign]
    digits = len(c.partition(".")[2])
    return abs(value - float(c)) <= 0.5 * 10**-digits + 1e-9 if sign == "/" else abs(value - float(c)) < 1e-6


def _shorten_text(text: str, most: int = 80) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}\u2026"
