"""Other forms of two skills, for pre-training only: several questions about one prompt, so that looking up is learned.

With one asked word per prompt the laboratory model stayed at chance on `examples` and matched only half of a `reading`
question for 15 million tokens: too few of the trained tokens depend on finding the right line.
"""

from __future__ import annotations

import random

from holdfast.lab.lexicon import CATEGORIES, LABELS
from holdfast.lab.skills.base import Question, ask
from holdfast.lab.skills.examples import Examples, write
from holdfast.lab.skills.reading import KINDS, REFUSAL, Reading


class EarlyExamples(Examples):
    """An earlier way of writing the examples, on which the first cycle of the shipped models was trained in vain.

    Args:
        lookup: Share of the questions whose word stands among the examples.
    """

    def __init__(self, lookup: float = 0.0) -> None:
        self.lookup = lookup

    def question(self, rng: random.Random) -> Question:
        kinds, labels = rng.sample(list(CATEGORIES), 2), rng.sample(LABELS, 2)
        words = [rng.sample(CATEGORIES[kind], 3) for kind in kinds]
        asked = rng.randrange(2)
        shown = [(word, labels[i]) for i in range(2) for word in words[i][: rng.randint(1, 2)]]
        rng.shuffle(shown)
        word = words[asked][0] if self.lookup and rng.random() < self.lookup else words[asked][2]
        text = "".join(f"{word}: {label}\n" for word, label in shown) + f"{word}:"
        return Question(text, ask(text), labels[asked])


class ManyExamples(Examples):
    """Label several words at once: some stand among the examples, some are only of the same kind.

    Args:
        share: How many of the questions have this form; the others are those of the skill.
    """

    def __init__(self, share: float) -> None:
        self.share = share

    def question(self, rng: random.Random) -> Question:
        if rng.random() >= self.share:
            return super().question(rng)
        labelled, new = self._looked_up(rng) if rng.random() < 0.4 else self._by_kind(rng)
        asked = rng.sample(list(labelled), min(3, len(labelled))) + list(new)
        rng.shuffle(asked)
        text = write(list(labelled.items()), asked)
        return Question(text, ask(text), "\n".join((labelled | new)[word] for word in asked))

    def _looked_up(self, rng: random.Random) -> tuple[dict[str, str], dict[str, str]]:
        """Any words with any labels: nothing helps but finding the word."""
        words = rng.sample([word for kind in CATEGORIES.values() for word in kind], rng.randint(3, 6))
        return {word: rng.choice(LABELS) for word in words}, {}

    def _by_kind(self, rng: random.Random) -> tuple[dict[str, str], dict[str, str]]:
        """Two kinds of words with a label each, and two new words of either kind."""
        kinds, labels = rng.sample(list(CATEGORIES), 2), rng.sample(LABELS, 2)
        words = [rng.sample(CATEGORIES[kind], 5) for kind in kinds]
        shown = [(word, labels[i]) for i in range(2) for word in words[i][: rng.randint(1, 3)]]
        rng.shuffle(shown)
        return dict(shown), {word: labels[i] for i in range(2) for word in words[i][3:]}


class ManyReading(Reading):
    """Three questions about one passage, answered a line each.

    Args:
        share: How many of the questions have this form; the others are those of the skill.
    """

    def __init__(self, share: float) -> None:
        self.share = share

    def question(self, rng: random.Random) -> Question:
        if rng.random() >= self.share:
            return super().question(rng)
        passage, known, missing = self.passage(rng)
        asked = rng.sample(list(known), 2) + rng.sample(missing, 1)
        rng.shuffle(asked)
        text = f"Text: {passage}\n" + "\n".join(KINDS[kind][1].format(p=person) for person, kind in asked)
        return Question(text, ask(text), "\n".join(known.get(pair, REFUSAL) for pair in asked), {"lines": True})

    def answer(self, question: Question, style: str, rng: random.Random) -> str:
        return question.reference if "lines" in question.facts else super().answer(question, style, rng)
