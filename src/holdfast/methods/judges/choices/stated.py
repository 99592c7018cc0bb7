"""Which letter an answer to a multiple-choice question states. It is read, never guessed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from holdfast.methods.judges.choices import words
from holdfast.methods.judges.marks import marks
from holdfast.methods.judges.text import LONGEST, PUNCTUATION

MOST = 100
"""Announcements looked at, from the last."""
BESIDE = 25
"""Characters between two marked answers that stand side by side."""


@dataclass(frozen=True, slots=True)
class Stated:
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


def stated_choice(response: str, options: Mapping[str, str]) -> Stated:
    """The letter that a response states as its choice.

    Args:
        response: An answer; of a long one the end is read.
        options: Text by letter; where there are any, other letters do not count.
    """
    response = unicodedata.normalize("NFKC", response[-LONGEST:])
    marked = [(mark, found) for mark in marks(response) if (found := marked_choice(mark.text, options)) is not None]
    if marked:
        (mark, last), *earlier = reversed(marked)
        for other, found in earlier:  # "\boxed{A} or \boxed{B}"
            if found.letter != last.letter and mark.end - len(mark.text) - other.end < BESIDE:
                return Stated(None, f"names {found.letter} and {last.letter}")
        return last
    return Reading(clean(response), options).choice()


def marked_choice(text: str, options: Mapping[str, str]) -> Stated | None:
    """The choice in a box, a tag or after `####`; `None` where what stands there is none."""
    reading = Reading(clean(text), options)
    return reading.alone(reading.said) or reading.labelled() or reading.quoted() or reading.announced()


def clean(text: str) -> str:
    """`text` without markup, in single spaces and line ends."""
    text = words.PICTURES.sub("", words.MARKUP.sub("", text.translate(words.ARROWS)))
    return re.sub(r" ?\n[ \n]*", "\n", re.sub(r"[^\S\n]+", " ", text)).strip()


def plain(text: str) -> str:
    """Lower case, no punctuation, single spaces."""
    return " ".join(text.translate(PUNCTUATION).casefold().split())


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer being read.

    Args:
        said: Its text, cleaned.
        options: As for `stated_choice`.
    """

    said: str
    options: Mapping[str, str]

    def choice(self, corrections: int = 3) -> Stated:
        """The choice, by the first way of stating one that is found.

        Args:
            corrections: How often the answer may take back what it said.
        """
        for way in (self.announced, self.lines, self.labelled, self.sentences, self.bracketed):
            found = way()
            if found is None:
                continue
            back = words.CORRECTION.search(self.said, max(0, found.end - 1))
            if back is None:
                return found if found.letter or found.why else replace(found, why="no choice in the answer")
            if corrections:
                at = back.end()
                while again := words.CORRECTION_GOES_ON.match(self.said, at):  # "wait, no: B"
                    at = again.end()
                after = Reading(self.said[at:].strip(), self.options).choice(corrections - 1)
                if after.letter is not None:
                    return after
            return Stated(None, f"takes back {found.letter}" if found.letter else found.why)
        return self.named()

    def letter_at(self, at: int) -> Stated | None:
        """The letter at a place of the text, or why it states none; `None` where there is no letter."""
        match = words.LETTER.match(self.said, at)
        if match is None:
            return None
        letter, end = (match[1] or match[2] or match[3]).upper(), match.end()
        if self.options and letter not in self.options:
            return None
        bare = match[2] is not None
        following = self.said[end : end + 80]
        article = bare and letter in "AI" and re.match(r" \w", following) and not words.GOES_ON.match(following)
        if article and not self.own_text(letter, following):
            return None
        if re.match(r" ?\?", following):
            return Stated(None, f"asks about {letter}", end + 1)
        other = words.ANOTHER.match(following)
        if other and words.SAYS_OF_IT.match(following, other.end()):
            other = None  # "B, A is a fruit"
        if other and other[1] != letter and (other[1] in self.options or not (self.options or other[1] in "AI")):
            return Stated(None, f"names {letter} and {other[1]}", end + other.end())
        return Stated(letter, "", end, bare)

    def own_text(self, letter: str, following: str) -> bool:
        """Whether what follows a letter is the text of its option."""
        text = plain(self.options.get(letter, ""))
        return bool(text) and f"{plain(following)} ".startswith(f"{text} ")

    def announced(self) -> Stated | None:
        """The last letter (or text of an option) that is announced as the answer."""
        places = [(m.start(), m.end()) for m in words.ANNOUNCED.finditer(self.said) if not words.LISTING.search(m[0])]
        places += [(m.start(), m.end()) for m in words.TERSE.finditer(self.said)]
        for _, at in sorted(places, reverse=True)[:MOST]:
            found = self.letter_at(at) or self.quoted_at(at)
            if found is not None:
                return found
        return None

    def quoted_at(self, at: int) -> Stated | None:
        """The option whose text stands at a place of the text, the longest of several."""
        following = f"{plain(self.said[at : at + 400])} "
        fitting = [a for a, text in self.options.items() if plain(text) and following.startswith(f"{plain(text)} ")]
        longest = max(fitting, key=lambda a: len(plain(self.options[a])), default=None)
        if longest is None or words.ANOTHER.match(self.said, at + len(self.options[longest])):
            return None
        return Stated(longest, "", at)

    def quoted(self) -> Stated | None:
        """The option whose text is the whole answer."""
        same = [letter for letter, text in self.options.items() if plain(text) and plain(text) == plain(self.said)]
        return Stated(same[0], "", len(self.said)) if len(same) == 1 else None

    def alone(self, line: str) -> Stated | None:
        """The letter that a line consists of."""
        begun = words.ALONE.match(line)
        found = Reading(line, self.options).letter_at(begun.end() if begun else 0)
        if found is None or (found.letter and line[found.end :].strip(" .!,:;)]}。")):
            return None
        return found

    def lines(self) -> Stated | None:
        """The letter that stands alone on the first or the last line."""
        if (whole := self.quoted()) is not None:
            return whole
        lines = self.said.split("\n")
        first, last = self.alone(lines[0]), self.alone(lines[-1])
        if first and last and first.letter and last.letter and first.letter != last.letter:
            return Stated(None, f"begins with {first.letter} and ends with {last.letter}", len(self.said))
        if last is not None and last.letter:
            return replace(last, end=len(self.said))
        return first

    def labelled(self) -> Stated | None:
        """The letter that the answer begins with ("B. Paris", "B, because ..."), where it lists no others."""
        labels = {(m[1] or m[2]).upper() for m in words.LABEL.finditer(self.said)}
        labels |= {m[1].upper() for m in words.OPTION_LABEL.finditer(self.said)}
        if len(labels) > 1:
            return None
        if words.LABEL.match(self.said) and (found := self.letter_at(len(self.said) - len(self.said.lstrip("-• ")))):
            return found
        begun = re.match(r"(?:option|choice|letter) (?=[A-Z(])", self.said, re.IGNORECASE)
        found = self.letter_at(begun.end() if begun else 0)
        if found is None or found.letter is None:
            return found
        following = self.said[found.end : found.end + 80]
        if re.match(r",(?! ?[A-Z](?![a-z]))|;| ?[-\u2013\u2014] | (?:because|since|as)\b", following) or self.own_text(
            found.letter, following
        ):
            return None if words.WRONG.match(following) else found
        return None

    def sentences(self) -> Stated | None:
        """The letter of sentences of choice ("I choose B", "so B"): of the last, else the only one called right."""
        praised = list(self.praised())
        concluded = [found for found in self.concluded() if found.letter]
        if concluded:
            last = max(concluded, key=lambda found: found.end)
            later = [found for found in praised if found.end > last.end and found.letter != last.letter]
            return Stated(None, f"names {last.letter} and {later[0].letter}", later[0].end) if later else last
        letters = sorted({found.letter for found in praised if found.letter})
        if len(letters) > 1:
            return Stated(None, f"calls {' and '.join(letters)} right", len(self.said))
        return praised[-1] if praised else None

    def praised(self) -> Iterator[Stated]:
        """Letters that are called right."""
        for match in re.finditer(rf"(?<![A-Za-z0-9])[(\[{{]?[A-Z]{words.END}", self.said):
            found = self.letter_at(match.start())
            if found is None or found.letter is None or not words.CORRECT.match(self.said, found.end):
                continue
            before = self.clause(match.start())
            if not (words.NEGATION.search(before) or re.search(r"(?:\b(?:and|or|which of)|[/,&]) ?$", before)):
                yield found

    def concluded(self) -> Iterator[Stated]:
        """Letters that are chosen."""
        for match in words.CHOSEN.finditer(self.said):
            found = self.letter_at(match.end())
            if found is None or words.NEGATION.search(self.clause(match.start())):
                continue
            following = self.said[found.end : found.end + 80]
            if not words.SAYS_OF_IT.match(following) or words.CORRECT.match(following):
                yield found

    def clause(self, at: int) -> str:
        """What stands before a place in its clause, at most 40 characters."""
        return re.split(r"[.,;:!?\n。\uff0c]", self.said[max(0, at - 40) : at])[-1]

    def bracketed(self) -> Stated | None:
        """The only letter in brackets."""
        letters: dict[str, int] = {}
        for match in re.finditer(r"[(\[]([A-Za-z])[)\]]", self.said):
            if self.options and match[1].upper() not in self.options:
                continue
            letters[match[1].upper()] = match.end()
            if words.WRONG.match(self.said, match.end()) or words.NEGATION.search(self.clause(match.start())):
                return None
        if len(letters) > 1:
            return Stated(None, f"names {', '.join(letters)}", len(self.said))
        return next((Stated(letter, "", end) for letter, end in letters.items()), None)

    def named(self) -> Stated:
        """The one option whose text the answer holds."""
        said = f" {plain(self.said)} "
        texts = {letter: plain(text) for letter, text in self.options.items()}
        held = [letter for letter, text in texts.items() if text and f" {text} " in said]
        longest = [a for a in held if not any(texts[a] in texts[b] for b in held if b != a)]
        if len(longest) > 1:
            return Stated(None, f"names the options {' and '.join(longest)}")
        if not longest:
            return Stated(None)
        before = said[: said.index(f" {texts[longest[0]]} ")].split()[-4:]
        negated = words.NEGATION.search(" ".join(before)) or {"isnt", "cant", "wasnt", "cannot", "doesnt"} & {*before}
        return Stated(None, f"speaks against {longest[0]}") if negated else Stated(longest[0], "")
