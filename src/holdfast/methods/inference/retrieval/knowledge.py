"""The facts of several files as one graph, with the names by which its entities are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.methods.inference.retrieval.graph import EntityLinker, FactPath, find_paths, read_graph

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True, slots=True)
class Knowledge:
    """A graph and its linker."""

    graph: networkx.MultiDiGraph
    linker: EntityLinker

    def find_entities(self, question: str, hypothesis: str) -> dict[str, str]:
        """The entities that are named, those of the question first, each with where: "question" or "hypothesis"."""
        texts = {"hypothesis": hypothesis, "question": question}
        places = {name: place for place, text in texts.items() for name in self.linker.find_entities(text)}
        in_question = [name for name, place in places.items() if place == "question"]
        return {name: places[name] for name in dict.fromkeys([*in_question, *places])}

    def find_paths(self, entities: Sequence[str], hops: int, most: int) -> list[FactPath]:
        """As `graph.find_paths`."""
        return find_paths(self.graph, entities, hops, most)


def open_knowledge(names: Sequence[str], setting: str) -> Knowledge:
    """The facts of all files and folders.

    Raises:
        UserError: As `graph.read_graph`.
    """
    import networkx

    graph = networkx.MultiDiGraph()
    for name in names:
        graph.add_edges_from(read_graph(name, setting).edges(keys=True))
    return Knowledge(graph, EntityLinker(list(graph.nodes)))
