"""The laboratory's facts as a graph, `lab:graph`: what the base was shown of people, and facts that it never was."""

from __future__ import annotations

import random

from holdfast.skills.facts import OBJECTS, fact_object
from holdfast.skills.lexicon import ANIMALS, COLORS, FOODS, JOBS, SUBJECTS, TOOLS, TOWNS

Triple = tuple[str, str, str]

EATS, REGION, TOOL, ORIGIN = "eats", "lies in", "uses", "comes from"
BRIDGES = {"pet": EATS, "home": REGION, "job": TOOL, "food": ORIGIN}
"""Of somebody's facts, what is known further of their object."""
REGIONS = ("north", "south", "east", "west")
DISTRACTORS = 200
"""Facts between objects that no question asks for."""
ASIDE = ("stands beside", "is older than", "was named after")
"""Their relations."""


def build_further_facts() -> dict[tuple[str, str], str]:
    """What the base was never shown, by object and relation: what animals eat, where towns lie, tools, origins."""
    rng = random.Random("further facts")
    kinds = ((ANIMALS, EATS, FOODS), (TOWNS, REGION, REGIONS), (JOBS, TOOL, TOOLS), (FOODS, ORIGIN, TOWNS))
    return {(name, relation): rng.choice(objects) for names, relation, objects in kinds for name in names}


def is_hidden(subject: str, relation: str) -> bool:
    """Whether the first fact of a question is left out of the graph, so that only who knows it finds the second."""
    return random.Random(f"hidden/{subject}/{relation}").random() < 0.5


def build_graph_facts() -> list[Triple]:
    """Subject, relation, object: what the base was shown of people, but for what is hidden, and the further facts."""
    people = [(s, r, fact_object(s, r)) for s in SUBJECTS for r in OBJECTS if not is_hidden(s, r)]
    return [*people, *((name, relation, o) for (name, relation), o in build_further_facts().items())]


def build_distractors() -> list[Triple]:
    """Facts between objects, none of them twice, that lead away from what is asked."""
    rng, names = random.Random("distractors"), [*ANIMALS, *TOWNS, *JOBS, *FOODS, *COLORS]
    facts: dict[Triple, None] = {}
    while len(facts) < DISTRACTORS:
        subject, other = rng.sample(names, 2)
        facts[subject, rng.choice(ASIDE), other] = None
    return list(facts)


def list_graph_facts() -> list[Triple]:
    """All facts of `lab:graph`."""
    return [*build_graph_facts(), *build_distractors()]
