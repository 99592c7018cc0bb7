"""A graph of facts from files, the entities that a text names, and the paths between them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import ParseError

from holdfast.data.overlap.words import split_words
from holdfast.data.reading.file_records import file_lines, jsonl_records, kind_of
from holdfast.errors import UserError
from holdfast.methods.inference.retrieval.documents import list_files

if TYPE_CHECKING:
    import networkx

ENDINGS = (".jsonl", ".csv", ".tsv", ".txt", ".graphml")
RECORD_KEYS = (("s", "p", "o"), ("subject", "relation", "object"), ("subject", "predicate", "object"),
               ("head", "relation", "tail"))  # fmt: skip
"""Under which keys a record has its fact; the first line of a table may be any of them too."""

LAB_GRAPH, LAB_FACTS = "lab:graph", "holdfast.skills.graph"
"""The laboratory's own graph, and the module that lists its facts: by name, as methods are, since it stands above."""


@dataclass(frozen=True, slots=True)
class Fact:
    """An edge: a relation from a subject to an object."""

    subject: str
    relation: str
    object: str


@dataclass(frozen=True, slots=True)
class FactPath:
    """Facts in a row, each sharing an entity with the next.

    Args:
        nodes: The entities along it, one more than facts.
        facts: Each leads between two neighbours, in either direction.
    """

    nodes: tuple[str, ...]
    facts: tuple[Fact, ...]

    @property
    def key(self) -> tuple[tuple[str, ...], tuple[Fact, ...]]:
        """The same for a path and its way back."""
        back = (self.nodes[::-1], self.facts[::-1])
        return min((self.nodes, self.facts), back, key=lambda way: (way[0], [str(fact) for fact in way[1]]))

    def render_text(self, phrases: Mapping[str, str]) -> str:
        """The path in a line: `fox -> eats -> nuts <- eats <- owl`, or sentences where all its relations have one.

        Args:
            phrases: By relation a sentence with {s} and {o}.
        """
        if all(fact.relation in phrases for fact in self.facts):
            return " ".join(
                phrases[fact.relation].replace("{s}", fact.subject).replace("{o}", fact.object) for fact in self.facts
            )
        text = self.nodes[0]
        for node, fact in zip(self.nodes[1:], self.facts, strict=True):
            forth = fact.object == node and fact.subject != node
            text += f" -> {fact.relation} -> {node}" if forth else f" <- {fact.relation} <- {node}"
        return text


def find_portable_name(name: str) -> str:
    """A name under which a graph is found from another working directory too."""
    return name if name.startswith("lab:") else str(Path(name).expanduser().resolve())


def read_graph(name: str, setting: str) -> networkx.MultiDiGraph:
    """The graph of a file, or of all files of a folder: edge lists (JSON lines, CSV, TSV) or GraphML; or `lab:graph`.

    Facts that stand there twice count once; several relations between two entities are all kept.

    Raises:
        UserError: If there is no file, one is broken (with the line), or there is no fact in all of them.
    """
    import networkx

    graph = networkx.MultiDiGraph()
    for fact in _list_lab_facts(name, setting) if name.startswith("lab:") else _read_files(name, setting):
        graph.add_edge(fact.subject, fact.object, key=fact.relation)
    if not graph.number_of_edges():
        raise UserError(f"{setting}: {name}: there is no fact in it; give lines of subject, relation, object")
    return graph


def _list_lab_facts(name: str, setting: str) -> list[Fact]:
    if name != LAB_GRAPH:
        raise UserError(f"{setting}: {name}: the laboratory has one graph, {LAB_GRAPH}; name that, or a file of facts")
    return [Fact(*triple) for triple in import_module(LAB_FACTS).list_graph_facts()]


def _read_files(name: str, setting: str) -> Iterator[Fact]:
    for file in list_files(name, setting, ENDINGS):
        yield from _read_facts(file, setting)


def _read_facts(file: Path, setting: str) -> Iterator[Fact]:
    kind = kind_of(file)
    if kind == ".graphml":
        yield from _read_graphml(file, setting)
    elif kind == ".jsonl":
        for number, record in jsonl_records(str(file), file):
            keys = next((keys for keys in RECORD_KEYS if set(keys) <= record.keys()), None)
            if keys is None:
                raise UserError(f'{setting}: {file}:{number}: is no fact; write it as {{"s": ..., "p": ..., "o": ...}}')
            yield _build_fact([record[key] for key in keys], f"{setting}: {file}:{number}")
    else:
        yield from _read_table(file, setting)


def _read_table(file: Path, setting: str) -> Iterator[Fact]:
    """Lines of three fields, with tabs between them where the first line has one."""
    lines = file_lines(str(file), file)
    for number, line in lines:
        if not line.strip():
            continue
        delimiter = "\t" if "\t" in line or kind_of(file) == ".tsv" else ","
        (cells,) = csv.reader([line.rstrip("\r\n")], delimiter=delimiter, skipinitialspace=True)
        if number == 1 and tuple(cell.strip().lower() for cell in cells) in RECORD_KEYS:
            continue
        if len(cells) != 3:
            raise UserError(
                f"{setting}: {file}:{number}: has {len(cells)} field{'' if len(cells) == 1 else 's'}, where a fact has "
                "three: subject, relation, object; quote fields with commas"
            )
        yield _build_fact(cells, f"{setting}: {file}:{number}")


def _build_fact(cells: Sequence[Any], place: str) -> Fact:
    texts = [str(cell).strip() if isinstance(cell, (str, int, float)) else "" for cell in cells]
    if not all(texts):
        raise UserError(
            f"{place}: one of subject, relation and object is empty or no text; fill it in or remove the line"
        )
    return Fact(*texts)


def _read_graphml(file: Path, setting: str) -> Iterator[Fact]:
    """Edges by the names of their nodes (attribute `name` or `label`, else the id) and their `relation` or `label`."""
    import networkx

    try:
        graph = networkx.read_graphml(file)
    except (ParseError, networkx.NetworkXError, KeyError, ValueError) as error:
        raise UserError(f"{setting}: {file}: is no GraphML ({error}); save it as GraphML or as an edge list") from error
    names = {node: data.get("name") or data.get("label") or node for node, data in graph.nodes(data=True)}
    for number, (start, end, data) in enumerate(graph.edges(data=True), 1):
        relation = data.get("relation") or data.get("label") or data.get("name")
        yield _build_fact([names[start], relation, names[end]], f"{setting}: {file}: edge {number}")


class EntityLinker:
    """Finds the entities of a graph that a text names: the longest names first, whole words only, whatever the case.

    Args:
        names: Of the entities.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._by_words: dict[tuple[str, ...], str] = {}
        for name in sorted(names):
            if words := tuple(split_words(name)):
                self._by_words.setdefault(words, name)
        self._longest = max(map(len, self._by_words), default=0)

    def find_entities(self, text: str) -> list[str]:
        """The entities in the order in which the text first names them: "vitamin A", and then not "vitamin"."""
        words, start = split_words(text), 0
        entities: dict[str, None] = {}
        while start < len(words):
            for length in range(min(self._longest, len(words) - start), 0, -1):
                if name := self._by_words.get(tuple(words[start : start + length])):
                    entities[name] = None
                    start += length - 1
                    break
            start += 1
        return list(entities)


def find_paths(graph: networkx.MultiDiGraph, entities: Sequence[str], hops: int, most: int) -> list[FactPath]:
    """Paths of at most `hops` facts between two of the entities, through none of the others, and every fact of each.

    Edges are walked in both directions, no entity is met twice, every relation of two entities is a path of its own,
    and a path and its way back are one. Shorter ones come first, and of these at most `most` are given.

    The reference (Artessay/HyKGE 488bb44) keeps one relation of two entities, finds every pair twice, raises an error
    for an entity without edges, and looks two facts far whatever `max_hop` says.
    """
    ends = [entity for entity in dict.fromkeys(entities) if entity in graph]
    paths: dict[Any, FactPath] = {}
    for start in ends:
        for nodes in _walk_nodes(graph, start, set(ends), hops):
            between = [_list_facts(graph, one, other) for one, other in pairwise(nodes)]
            for facts in product(*between):
                path = FactPath(nodes, facts)
                paths.setdefault(path.key, path)
    return sorted(paths.values(), key=lambda path: len(path.facts))[:most]


def _walk_nodes(graph: networkx.MultiDiGraph, start: str, ends: set[str], hops: int) -> Iterator[tuple[str, ...]]:
    """Node by node, the shorter first: all neighbours of `start`, and what ends at another linked entity."""
    frontier: list[tuple[str, ...]] = [(start,)]
    for length in range(1, hops + 1):
        next_frontier = []
        for nodes in frontier:
            for neighbour in list_neighbours(graph, nodes[-1]):
                if neighbour in nodes:
                    continue
                if length == 1 or neighbour in ends:
                    yield (*nodes, neighbour)
                if neighbour not in ends:
                    next_frontier.append((*nodes, neighbour))
        frontier = next_frontier


def list_neighbours(graph: networkx.MultiDiGraph, node: str) -> list[str]:
    """Entities joined with one by a fact in either direction."""
    return list(dict.fromkeys([*graph.successors(node), *graph.predecessors(node)]))


def _list_facts(graph: networkx.MultiDiGraph, one: str, other: str) -> list[Fact]:
    """The facts between two entities, in both directions."""
    pairs = ((one, other), (other, one))
    return [Fact(s, relation, o) for s, o in pairs if graph.has_edge(s, o) for relation in graph[s][o]]
