"""Which letter an answer to a multiple-choice question states. It is read, never guessed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from holdfast.methods.judges.choices import words
from holdfast.methods.judges.marks import find_marks
from holdfast.methods.judges.text import LONGEST, PUNCTUATION

MOST = 100
"""Announcements looked at, from the last."""
BESIDE = 25
"""Characters between two marked answers that stand side by side."""


@dataclass(frozen=True, slots=True)
class StatedChoice:
    """A stated choice.

    Args:
        letter: The letter, `None` where none is stated.
        why: Why there is none.
        end: Where the statement ends in the text.
        bare: Whether the letter is a capital without brackets.
    """

    letter: str | None
    why: str = "no choice in the answer"
    end: int = 0
    bare: bool = False


def parse_choice(response: str, options: Mapping[str, str]) -> StatedChoice:
    """The letter that a response states as its choice.

    Args:
        response: An answer; of a long one the end is read.
        options: Text by letter; where there are any, other letters do not count.
    """
    response = unicodedata.normalize("NFKC", response[-LONGEST:])
    mark_choices = [
        (mark, choice)
        for mark in find_marks(response)
        if (choice := parse_marked_choice(mark.text, options)) is not None
    ]
    if mark_choices:
        (mark, last), *earlier = reversed(mark_choices)
        for other, choice in earlier:  # "\boxed{A} or \boxed{B}"
            if choice.letter != last.letter and mark.end - len(mark.text) - other.end < BESIDE:
                return StatedChoice(None, f"names {choice.letter} and {last.letter}")
        return last
    return ChoiceReader(strip_markup(response), options).find_choice()


def parse_marked_choice(text: str, options: Mapping[str, str]) -> StatedChoice | None:
    """The choice in a box, a tag or after `####`; `None` where what stands there is none."""
    reading = ChoiceReader(strip_markup(text), options)
    return (
        reading.find_lone_letter(reading.text)
        or reading.find_leading_label()
        or reading.find_quoted()
        or reading.find_announced()
    )


def strip_markup(text: str) -> str:
    """`text` without markup, in single spaces and line ends."""
    text = words.PICTURES.sub("", words.MARKUP.sub("", text.translate(words.ARROWS)))
    return re.sub(r" ?\n[ \n]*", "\n", re.sub(r"[^\S\n]+", " ", text)).strip()


def normalise_text(text: str) -> str:
    """Lower case, no punctuation, single spaces."""
    return " ".join(text.translate(PUNCTUATION).casefold().split())


@dataclass(frozen=True, slots=True)
class ChoiceReader:
    """An answer being read.

    Args:
        text: Its text, cleaned.
        options: As for `parse_choice`.
    """

    text: str
    options: Mapping[str, str]

    def find_choice(self, corrections: int = 3) -> StatedChoice:
        """The choice, by the first way of stating one that is found.

        Args:
            corrections: How often the answer may take back what it said.
        """
        for way in (
            self.find_announced,
            self.find_on_edge_lines,
            self.find_leading_label,
            self.find_in_sentences,
            self.find_bracketed,
        ):
            choice = way()
            if choice is None:
                continue
            back = words.CORRECTION.search(self.text, max(0, choice.end - 1))
            if back is None:
                return choice if choice.letter or choice.why else replace(choice, why="no choice in the answer")
            if corrections:
                at = back.end()
                while again := words.CORRECTION_GOES_ON.match(self.text, at):  # "wait, no: B"
                    at = again.end()
                after = ChoiceReader(self.text[at:].strip(), self.options).find_choice(corrections - 1)
                if after.letter is not None:
                    return after
            return StatedChoice(None, f"takes back {choice.letter}" if choice.letter else choice.why)
        return self.find_by_option_text()

    def letter_at(self, at: int) -> StatedChoice | None:
        """The letter at a place of the text, or why it states none; `None` where there is no letter."""
        match = words.LETTER.match(self.text, at)
        if match is None:
            return None
        letter, end = (match[1] or match[2] or match[3]).upper(), match.end()
        if self.options and letter not in self.options:
            return None
        bare = match[2] is not None
        following = self.text[end : end + 80]
        article = bare and letter in "AI" and re.match(r" \w", following) and not words.GOES_ON.match(following)
        if article and not self.is_own_text(letter, following):
            return None
        if re.match(r" ?\?", following):
            return StatedChoice(None, f"asks about {letter}", end + 1)
        other = words.ANOTHER.match(following)
        if other and words.SAYS_OF_IT.match(following, other.end()):
            other = None  # "B, A is a fruit"
        if other and other[1] != letter and (other[1] in self.options or not (self.options or other[1] in "AI")):
            return StatedChoice(None, f"names {letter} and {other[1]}", end + other.end())
        return StatedChoice(letter, "", end, bare)

    def is_own_text(self, letter: str, following: str) -> bool:
        """Whether what follows a letter is the text of its option."""
        text = normalise_text(self.options.get(letter, ""))
        return bool(text) and f"{normalise_text(following)} ".startswith(f"{text} ")

    def find_announced(self) -> StatedChoice | None:
        """The last letter (or text of an option) that is announced as the answer."""
        places = [
            (m.start(), m.end()) for m in words.ANNOUNCEMENT.finditer(self.text) if not words.LISTING.search(m[0])
        ]
        places += [(m.start(), m.end()) for m in words.TERSE.finditer(self.text)]
        for _, at in sorted(places, reverse=True)[:MOST]:
            choice = self.letter_at(at) or self.option_at(at)
            if choice is not None:
                return choice
        return None

    def option_at(self, at: int) -> StatedChoice | None:
        """The option whose text stands at a place of the text, the longest of several."""
        following = f"{normalise_text(self.text[at : at + 400])} "
        fitting = [
            a
            for a, text in self.options.items()
            if normalise_text(text) and following.startswith(f"{normalise_text(text)} ")
        ]
        longest = max(fitting, key=lambda a: len(normalise_text(self.options[a])), default=None)
        if longest is None or words.ANOTHER.match(self.text, at + len(self.options[longest])):
            return None
        return StatedChoice(longest, "", at)

    def find_quoted(self) -> StatedChoice | None:
        """The option whose text is the whole answer."""
        same = [
            letter
            for letter, text in self.options.items()
            if normalise_text(text) and normalise_text(text) == normalise_text(self.text)
        ]
        return StatedChoice(same[0], "", len(self.text)) if len(same) == 1 else None

    def find_lone_letter(self, line: str) -> StatedChoice | None:
        """The letter that a line consists of."""
        opening = words.ALONE.match(line)
        choice = ChoiceReader(line, self.options).letter_at(opening.end() if opening else 0)
        if choice is None or (choice.letter and line[choice.end :].strip(" .!,:;)]}。")):
            return None
        return choice

    def find_on_edge_lines(self) -> StatedChoice | None:
        """The letter that stands alone on the first or the last line."""
        if (whole := self.find_quoted()) is not None:
            return whole
        lines = self.text.split("\n")
        first, last = self.find_lone_letter(lines[0]), self.find_lone_letter(lines[-1])
        if first and last and first.letter and last.letter and first.letter != last.letter:
            return StatedChoice(None, f"begins with {first.letter} and ends with {last.letter}", len(self.text))
        if last is not None and last.letter:
            return replace(last, end=len(self.text))
        return first

    def find_leading_label(self) -> StatedChoice | None:
        """The letter that the answer begins with ("B. Paris", "B, because ..."), where it lists no others."""
        labels = {(m[1] or m[2]).upper() for m in words.LABEL.finditer(self.text)}
        labels |= {m[1].upper() for m in words.OPTION_LABEL.finditer(self.text)}
        if len(labels) > 1:
            return None
        if words.LABEL.match(self.text) and (choice := self.letter_at(len(self.text) - len(self.text.lstrip("-• ")))):
            return choice
        opening = re.match(r"(?:option|choice|letter) (?=[A-Z(])", self.text, re.IGNORECASE)
        choice = self.letter_at(opening.end() if opening else 0)
        if choice is None or choice.letter is None:
            return choice
        following = self.text[choice.end : choice.end + 80]
        if re.match(
            r",(?! ?[A-Z](?![a-z]))|;| ?[-\u2013\u2014] | (?:because|since|as)\b", following
        ) or self.is_own_text(choice.letter, following):
            return None if words.WRONG.match(following) else choice
        return None

    def find_in_sentences(self) -> StatedChoice | None:
        """The letter of sentences of choice ("I choose B", "so B"): of the last, else the only one called right."""
        affirmations = list(self.iter_affirmed_letters())
        conclusions = [choice for choice in self.iter_chosen_letters() if choice.letter]
        if conclusions:
            last = max(conclusions, key=lambda choice: choice.end)
            later = [choice for choice in affirmations if choice.end > last.end and choice.letter != last.letter]
            return StatedChoice(None, f"names {last.letter} and {later[0].letter}", later[0].end) if later else last
        letters = sorted({choice.letter for choice in affirmations if choice.letter})
        if len(letters) > 1:
            return StatedChoice(None, f"calls {' and '.join(letters)} right", len(self.text))
        return affirmations[-1] if affirmations else None

    def iter_affirmed_letters(self) -> Iterator[StatedChoice]:
        """Letters that are called right."""
        for match in re.finditer(rf"(?<![A-Za-z0-9])[(\[{{]?[A-Z]{words.END}", self.text):
            choice = self.letter_at(match.start())
            if choice is None or choice.letter is None or not words.CORRECT.match(self.text, choice.end):
                continue
            before = self.clause_before(match.start())
            if not (words.NEGATION.search(before) or re.search(r"(?:\b(?:and|or|which of)|[/,&]) ?$", before)):
                yield choice

    def iter_chosen_letters(self) -> Iterator[StatedChoice]:
        """Letters that are chosen."""
        for match in words.CHOICE_WORDS.finditer(self.text):
            choice = self.letter_at(match.end())
            if choice is None or words.NEGATION.search(self.clause_before(match.start())):
                continue
            following = self.text[choice.end : choice.end + 80]
            if not words.SAYS_OF_IT.match(following) or words.CORRECT.match(following):
                yield choice

    def clause_before(self, at: int) -> str:
        """What stands before a place in its clause, at most 40 characters."""
        return re.split(r"[.,;:!?\n。\uff0c]", self.text[max(0, at - 40) : at])[-1]

    def find_bracketed(self) -> StatedChoice | None:
        """The only letter in brackets."""
        letters: dict[str, int] = {}
        for match in re.finditer(r"[(\[]([A-Za-z])[)\]]", self.text):
            if self.options and match[1].upper() not in self.options:
                continue
            letters[match[1].upper()] = match.end()
            if words.WRONG.match(self.text, match.end()) or words.NEGATION.search(self.clause_before(match.start())):
                return None
        if len(letters) > 1:
            return StatedChoice(None, f"names {', '.join(letters)}", len(self.text))
        return next((StatedChoice(letter, "", end) for letter, end in letters.items()), None)

    def find_by_option_text(self) -> StatedChoice:
        """The one option whose text the answer holds."""
        answer_text = f" {normalise_text(self.text)} "
        texts = {letter: normalise_text(text) for letter, text in self.options.items()}
        matches = [letter for letter, text in texts.items() if text and f" {text} " in answer_text]
        longest = [a for a in matches if not any(texts[a] in texts[b] for b in matches if b != a)]
        if len(longest) > 1:
            return StatedChoice(None, f"names the options {' and '.join(longest)}")
        if not longest:
            return StatedChoice(None)
        before = answer_text[: answer_text.index(f" {texts[longest[0]]} ")].split()[-4:]
        is_negated = words.NEGATION.search(" ".join(before)) or {"isnt", "cant", "wasnt", "cannot", "doesnt"} & {
            *before
        }
        return StatedChoice(None, f"speaks against {longest[0]}") if is_negated else StatedChoice(longest[0], "")
