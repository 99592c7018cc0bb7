"""Options labelled otherwise than A, B, C: by digits or the letters of another script, read as if they were Latin."""
# ruff: noqa: RUF001 - letters of other scripts are what is meant

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.data.chat.prompts import text_of
from holdfast.data.rows import Message

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
OPTION = re.compile(r"^[ \t]*[(\[]?(\w)[)\].:、][ \t]*(\S[^\n]*)$", re.MULTILINE)
"""An option on a line of its own: "A. text", "(1) text", "ア、text", "А) text"."""
GAP = re.compile(r"^[ \t]*[(\[]?[A-Za-z0-9][)\].:、]\S", re.MULTILINE)
"""What is no option: a Latin letter or a digit without a space behind its point ("A.I.", "3.5 m")."""
DIGITS = "123456789"
ALPHABETS = tuple(
    unicodedata.normalize("NFKC", letters)
    for letters in (
        DIGITS, "АБВГДЕЖЗИК", "ΑΒΓΔΕΖΗΘ", "アイウエオカキクケコ", "あいうえおかきくけこ", "イロハニホヘト",
        "가나다라마바사아자차", "ㄱㄴㄷㄹㅁㅂㅅㅇ", "甲乙丙丁戊己庚辛", "أبجدهوزح", "ابجدهوزح", "אבגדהוזח",
        "กขคงจฉชซ", "कखगघङच", "কখগঘঙচ", "一二三四五六七八九",
    )
)  # fmt: skip
"""Labels in the order in which they are given."""
MOST = 4
"""Lists of a message that are looked at, from the last."""
LIKE_LATIN = {"А": "A", "Α": "A"}
"""Letters of other alphabets that look like the Latin one of the same place, and are written for each other."""

BLOCKS = (
    ("ァ-ヺー", "", ""),  # katakana stand in words of katakana
    ("가-힣", "", "입니다|이다|이고|예요|이에요|번|라고|가 (?:정답|맞)|이 (?:정답|맞)"),
    ("ぁ-ゖ", "はが", "で|が正|が答"),
    ("一-鿿", "是选選为為项項", "是|才|为|為|项|項|が"),
)
"""Scripts without spaces between words: their letters, and those that may stand before a label and behind it."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What the options of a question are called.

    Args:
        names: The label of each, in order; letters of one alphabet of `ALPHABETS`.
        texts: As many.
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def uses_digits(self) -> bool:
        return self.names[0] == DIGITS[0]

    @property
    def options(self) -> dict[str, str]:
        """The options by the Latin letters that stand for their labels."""
        texts = self.texts if self.uses_digits else tuple(self.replace_labels(text) for text in self.texts)
        return dict(zip(LETTERS, texts, strict=False))

    @property
    def is_ambiguous(self) -> bool:
        """Whether an option's text is the label of another, so that a bare "4" may mean either."""
        bare = [text.strip(" .") for text in self.texts]
        return any(text in self.names and self.names.index(text) != i for i, text in enumerate(bare))

    def latin_letter(self, name: str) -> str | None:
        """The Latin letter of a label, which may stand in brackets."""
        bare = unicodedata.normalize("NFKC", name).strip().strip("()[].:、 ").upper()
        return LETTERS[self.names.index(bare)] if bare in self.names else None

    def replace_labels(self, text: str, explicit: bool = False) -> str:
        """A text with a Latin letter in the place of every label in it that stands by itself.

        Args:
            explicit: Only of those that can be nothing else: "option 2", "(2)", "2. ..." at the beginning of a line.

        Latin letters that stand by themselves are no labels here: they are taken out, so that none is taken for one
        (a Latin B may look like the third of А, Б, В, or mean the second).
        """
        text = unicodedata.normalize("NFKC", text).replace("**", "")
        like = {LIKE_LATIN[name] for name in self.names if name in LIKE_LATIN}
        text = re.sub(r"(?<![^\W\d_])[A-Z](?![\w'’])", lambda m: m[0] if m[0] in like else "\ufffd", text)
        letters = dict(zip(self.names, LETTERS, strict=False))
        pattern = self._explicit_pattern() if explicit else self._label_pattern()
        text = pattern.sub(lambda m: m[0][: m.start("label") - m.start()] + letters[m["label"].upper()], text)
        return re.sub(r"^( ?[A-Z])、", r"\1. ", text, flags=re.MULTILINE)

    def _explicit_pattern(self) -> re.Pattern[str]:
        label = f"(?P<label>[{''.join(self.names)}])"
        return re.compile(rf"(?:\b(?:option|choice) [(\[]?|[(\[](?=.[)\]])|^ ?(?=.[.)] )){label}(?!\w)", re.I | re.M)

    def _label_pattern(self) -> re.Pattern[str]:
        """A label that stands by itself."""
        label = f"(?P<label>[{''.join(self.names)}])"
        if self.uses_digits:
            # No digit of a number, no part of a sum or a quantity: "2.5", "1 + 2", "2 apples", "$2", "2 %".
            # fmt: off
            behind = (r"(?= ?[)\]}<.,:;!?\n。]| ?$| (?:because|since|as|is|which|and|or|but|with|if|[-–—])\b|번"
                      r"|(?:です|が正|是|项|項|입니다| is| \w+ is))")
            # fmt: on
            no_number = r"(?<![A-Za-z\d_.,$€£+*/^=<×÷-])(?<![+*/^=<>×÷-] )"
            return re.compile(rf"{no_number}{label}(?![.,:]\d)(?! ?[+*/^=×÷%]| [<>]){behind}")
        for block, before, behind in BLOCKS:
            if re.match(f"[{block}]", self.names[0]):
                ahead = f"(?:(?![{block}])|(?={behind}))" if behind else f"(?![{block}])"
                lookbehind = f"(?:(?<![{block}])|(?<=[{before}]))" if before else f"(?<![{block}])"
                return re.compile(f"{lookbehind}{label}{ahead}")
        return re.compile(rf"(?<!\w){label}(?![\w'’])", re.IGNORECASE)

    def restore_labels(self, text: str) -> str:
        """What is said of Latin letters, said of the labels."""
        names = dict(zip(LETTERS, self.names, strict=False))
        return re.sub(r"(?<!\w)[A-Z](?!\w)", lambda m: names.get(m[0], m[0]), text)


def match_alphabet(options: Mapping[str, str]) -> Labels | None:
    """The labels of options by name; `None` for Latin letters, and for what is no beginning of an alphabet."""
    names = tuple(unicodedata.normalize("NFKC", str(name)).strip().upper() for name in options)
    is_known = any(names == tuple(alphabet[: len(names)]) for alphabet in ALPHABETS)
    return Labels(names, tuple(map(str, options.values()))) if is_known and len(names) > 1 else None


def parse_labels(prompt: Sequence[Message]) -> Labels | None:
    """The labels of the options in the last message that lists some, where they are no Latin letters."""
    for message in reversed(prompt):
        text = unicodedata.normalize("NFKC", text_of(message["content"]))
        entries = [(m[1], m[2]) for m in OPTION.finditer(text) if not GAP.match(m[0])]
        # The last list counts: the question itself may have one before.
        starts = [
            i for i, (name, _) in enumerate(entries) if any(name.upper() == alphabet[0] for alphabet in ALPHABETS)
        ]
        labels = next(filter(None, (match_alphabet(dict(entries[start:])) for start in reversed(starts[-MOST:]))), None)
        if labels is not None:
            return labels
    return None


def names_option(reference: Any, labels: Labels) -> bool:
    """Whether a reference is the label or the text of an option."""
    return isinstance(reference, str) and (
        labels.latin_letter(reference) is not None or reference.strip() in labels.texts
    )
