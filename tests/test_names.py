"""The law of names, over every function, class, parameter and variable of the package."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "holdfast"

VERBS = {
    "add", "advance", "apply", "attach", "begin", "build", "check", "close", "compare", "connect", "copy",
    "curate", "embed", "emit", "encode", "evaluate", "federate", "find", "fit", "flush", "forward", "backward", "grow",
    "judge", "keep", "load", "loglikelihood", "main", "measure", "merge", "open", "parse", "precompute",
    "reproduce", "render", "run", "sample", "save", "start", "step", "train", "update", "warn", "write",
}  # fmt: skip
"""Verbs that say enough alone: methods of contracts, whose object is their class, and the verbs of the package."""

NOUNS = {
    "losses": "what an objective is", "normalizers": "of an objective", "weights": "of an inference method",
    "prompt": "of an inference method", "logits": "of an inference method", "attempts": "of an inference method",
    "sampling": "of an inference method", "prefix": "of an inference method", "to": "as torch.Tensor.to",
    "lr": "as torch writes it",
    "readable": "of io.RawIOBase", "readinto": "of io.RawIOBase", "writable": "of io.RawIOBase",
    "makefile": "of socket.socket",
}  # fmt: skip
"""One-word methods that are no verbs: words of a contract or of the library that is answered."""

FIELD_WORDS = {"chosen", "rejected", "tuned", "done", "Warned"}
"""Participles that are the field's words for data, models and episodes; and the name of an event in `events.jsonl`."""

NO_PARTICIPLES = {
    "bed", "embed", "exceed", "feed", "hundred", "indeed", "need", "proceed", "read", "red", "seed", "shed",
    "speed", "spread",
}  # fmt: skip
IRREGULAR = {
    "begun", "built", "done", "drawn", "found", "given", "gone", "got", "held", "kept", "known", "left", "lost",
    "made", "met", "said", "seen", "sent", "shown", "taken", "told", "won", "written",
}  # fmt: skip


def is_participle(name: str) -> bool:
    """Whether a name is one word that says only that something was done."""
    word = name.strip("_")
    if "_" in word or word != word[:1] + word[1:].lower() or word in FIELD_WORDS | NO_PARTICIPLES:
        return False  # several words, as RunStarted has too; or a constant
    word = word.lower()
    return word in IRREGULAR or (word.endswith("ed") and len(word) > 3)


def definitions(tree: ast.AST) -> list[tuple[ast.AST, str]]:
    """Every class and function, with the kind of what it stands in."""
    out: list[tuple[ast.AST, str]] = []
    todo = [(tree, "")]
    while todo:
        node, owner = todo.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                out.append((child, owner))
                todo.append((child, type(child).__name__))
            elif not isinstance(child, ast.expr):  # in which none stands
                todo.append((child, owner))
    return out


def names_bound(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every parameter and every variable of a function, with its line.

    Fields are left out: those of records are keys of files ("dropped", "clipped"), which stay as they are.
    """
    for node, owner in definitions(tree):
        if not isinstance(node, ast.ClassDef) and owner != "FunctionDef":
            for inner in ast.walk(node):
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                    yield inner.id, inner.lineno
    yield from ((node.arg, node.lineno) for node in ast.walk(tree) if isinstance(node, ast.arg))


@cache
def parse_package() -> list[tuple[str, ast.Module]]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return [(str(path.relative_to(PACKAGE)), ast.parse(path.read_text(encoding="utf-8"))) for path in paths]


def is_property(function: ast.FunctionDef) -> bool:
    return any("property" in ast.unparse(each) for each in function.decorator_list)


def test_functions_say_what_they_do_to_what() -> None:
    wrong, n_short, n_all = [], 0, 0
    for file, tree in parse_package():
        for node, owner in definitions(tree):
            if isinstance(node, ast.ClassDef) or (node.name.startswith("__") and node.name.endswith("__")):
                continue
            n_all += 1
            words = node.name.strip("_").split("_")
            if len(words) > 1 or is_property(node):
                continue
            n_short += 1
            # A command is called as it is typed.
            allowed = (
                VERBS | set(NOUNS) if owner == "ClassDef" else VERBS if not file.startswith("cli/") else {words[0]}
            )
            if words[0] not in allowed or (owner == "FunctionDef"):
                wrong.append(f"{file}:{node.lineno} {node.name}")
    assert not wrong, "one word does not say it; write verb and object, or a noun phrase: " + ", ".join(wrong)
    assert n_short < 0.15 * n_all


def test_no_name_is_a_bare_participle() -> None:
    wrong = []
    for file, tree in parse_package():
        for node, _ in definitions(tree):
            if is_participle(node.name):
                wrong.append(f"{file}:{node.lineno} {node.name}")
        wrong += [f"{file}:{line} {name}" for name, line in names_bound(tree) if is_participle(name)]
    assert not wrong, "name what it is, not what happened to it: " + ", ".join(wrong)


def test_a_class_name_stands_once() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for file, tree in parse_package():
        for node, owner in definitions(tree):
            if isinstance(node, ast.ClassDef) and not owner:
                places[node.name].append(file)
    assert not {name: files for name, files in places.items() if len(files) > 1}


def test_the_law_can_fail() -> None:
    assert all(map(is_participle, ("told", "_measured", "found")))
    assert not any(map(is_participle, ("seed", "is_measured", "chosen", "RunStarted")))
    assert Counter(node.name for node, _ in definitions(ast.parse("class A:\n def b(self): ...")))["b"] == 1
