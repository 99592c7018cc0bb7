"""Formulas of + - * / over numbers that are used once each, in exact fractions: all that reach a target, and faults."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from itertools import combinations
from typing import Literal

TOKEN = re.compile(r"[0-9]+|[-+*/()]")
RANKS = {"+": 0, "-": 0, "*": 1, "/": 1}
"""Which operators bind tighter than others."""
NUMBER = 2
"""Rank of what needs no parentheses."""
Numbers = tuple[int, ...]
FaultKind = Literal["illegal_formula", "incorrect_number", "no_solution", "partial_solution"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a formula."""

    kind: FaultKind
    message: str


def _list_splits(numbers: Numbers) -> set[tuple[Numbers, Numbers]]:
    """Each way to part them in two, the smaller part first: what stands left and right of the operator done last."""
    everyone = range(len(numbers))
    parts = (part for size in range(1, len(numbers) // 2 + 1) for part in combinations(everyone, size))
    return {
        (tuple(numbers[i] for i in part), tuple(numbers[i] for i in everyone if i not in part)) for part in parts
    }  # fmt: skip


@cache
def reach_values(numbers: Numbers) -> frozenset[Fraction]:
    """All that a formula of these numbers, in ascending order, can make."""
    if len(numbers) == 1:
        return frozenset({Fraction(numbers[0])})
    results: set[Fraction] = set()
    for one, other in _list_splits(numbers):
        for a in reach_values(one):
            for b in reach_values(other):
                results |= {a + b, a - b, b - a, a * b}
                results |= ({a / b} if b else set()) | ({b / a} if a else set())
    return frozenset(results)


def _list_partners(a: Fraction, target: Fraction, values: frozenset[Fraction]) -> Iterator[tuple[str, bool, Fraction]]:
    """Operators, whether `a` stands on the left, and the values on the other side with which it makes the target.

    Of sums and products, which are the same either way, the one with `a` on the left.
    """
    if (b := target - a) in values:
        yield "+", True, b
    if (b := a - target) in values:
        yield "-", True, b
    if (b := target + a) in values:
        yield "-", False, b
    if a and (b := target / a) in values:
        yield "*", True, b
    if a and (b := target * a) in values:
        yield "/", False, b
    if a and target and (b := a / target) in values:
        yield "/", True, b
    if not a and not target:  # 0 times anything, and 0 by anything but 0
        yield from (("*", True, b) for b in values)
        yield from (("/", True, b) for b in values if b)


@lru_cache(maxsize=8192)
def _can_reach(numbers: Numbers, target: int) -> bool:
    if len(numbers) == 1:
        return numbers[0] == target
    goal = Fraction(target)
    return any(
        next(_list_partners(a, goal, reach_values(other)), None)
        for one, other in _list_splits(numbers)
        for a in reach_values(one)
    )


def is_solvable(numbers: Sequence[int], target: int) -> bool:
    """Whether a formula that uses each number once makes the target."""
    return _can_reach(tuple(sorted(numbers)), target)


@lru_cache(maxsize=8192)
def _write_all(numbers: Numbers, target: Fraction) -> frozenset[tuple[str, int]]:
    """Every formula, with the rank of its last operator."""
    if len(numbers) == 1:
        return frozenset({(str(numbers[0]), NUMBER)} if numbers[0] == target else ())
    return frozenset(
        _join_sides(symbol, first, second)
        for one, other in _list_splits(numbers)
        for a in reach_values(one)
        for symbol, is_left, b in _list_partners(a, target, reach_values(other))
        for x in _write_all(one, a)
        for y in _write_all(other, b)
        for first, second in ([(x, y), (y, x)] if symbol in "+*" else [(x, y)] if is_left else [(y, x)])
    )


def _join_sides(symbol: str, first: tuple[str, int], second: tuple[str, int]) -> tuple[str, int]:
    """Two formulas and an operator, with the parentheses that are needed and no other."""
    rank = RANKS[symbol]
    before = f"({first[0]})" if first[1] < rank else first[0]
    after = f"({second[0]})" if second[1] < rank or (second[1] == rank and symbol in "-/") else second[0]
    return f"{before}{symbol}{after}", rank


def list_solutions(numbers: Sequence[int], target: int) -> list[str]:
    """Every formula that uses each number once and makes the target: all binary trees, in alphabetical order."""
    return sorted({text for text, _ in _write_all(tuple(sorted(numbers)), Fraction(target))})


def evaluate_formula(tokens: Sequence[str]) -> Fraction | None:
    """What a formula makes; `None` where it is none, or divides by zero."""
    if tokens.count("(") != tokens.count(")"):
        return None
    values: list[Fraction] = []
    waiting: list[str] = []
    for token in [*tokens, ")"]:  # the last closes all
        if token == "(":
            waiting.append(token)
        elif token not in RANKS and token != ")":
            values.append(Fraction(int(token)))
        else:
            while waiting and waiting[-1] != "(" and (token == ")" or RANKS[waiting[-1]] >= RANKS[token]):
                if len(values) < 2 or (value := _apply(waiting.pop(), values.pop(-2), values.pop())) is None:
                    return None
                values.append(value)
            if token != ")":
                waiting.append(token)
            elif waiting:
                waiting.pop()
    return values[0] if len(values) == 1 else None


def _apply(symbol: str, a: Fraction, b: Fraction) -> Fraction | None:
    if symbol == "/":
        return a / b if b else None
    return a + b if symbol == "+" else a - b if symbol == "-" else a * b


def find_faults(formula: str, numbers: Sequence[int], target: int) -> list[Fault]:
    """What is wrong with a formula that is to make the target of each number once; nothing for a solution.

    Syntax and numbers are looked at both; whether it makes the target is asked of what has no fault in these. Of that
    a formula which makes it as soon as open parentheses are closed is a partial solution.
    """
    tokens = TOKEN.findall(formula)
    if "".join(tokens) != formula:
        return [Fault("illegal_formula", "illegal characters")]
    faults = [*_find_syntax_faults(tokens), *_find_number_faults(tokens, numbers)]
    if faults or evaluate_formula(tokens) == target:
        return faults
    open_count = tokens.count("(") - tokens.count(")")
    if open_count and evaluate_formula([*tokens, *")" * open_count]) == target:
        return [Fault("partial_solution", "your formula begins a solution, but its parentheses are not closed")]
    solutions = [TOKEN.findall(solution) for solution in list_solutions(numbers, target)]
    length = max(n for n in range(len(tokens) + 1) if any(tokens[:n] == solution[:n] for solution in solutions))
    beginning = "".join(tokens[:length])
    message = f"{beginning} begins a solution, but your formula is none" if beginning else "your formula is no solution"
    return [Fault("no_solution", message)]


def _find_syntax_faults(tokens: Sequence[str]) -> Iterator[Fault]:
    """One for each token that cannot stand where it does; what is missing at the end is none."""
    before, open_count = "", 0
    for token in tokens:
        begins = token not in RANKS and token != ")"  # an operand: it stands at the start, or after an operator or (
        ends_operand = before not in ("", "(") and before not in RANKS
        if begins == ends_operand:
            yield Fault("illegal_formula", f"{token} cannot stand {f'after {before}' if before else 'first'}")
        elif token == "(":
            open_count += 1
        elif token == ")" and not open_count:
            yield Fault("illegal_formula", "a ) closes nothing")
        elif token == ")":
            open_count -= 1
        before = token


def _find_number_faults(tokens: Sequence[str], numbers: Sequence[int]) -> Iterator[Fault]:
    """One for numbers that are not given, or not so often; another for those that are not used."""
    need = Counter(map(str, numbers))
    have = Counter(token for token in tokens if token[0].isdigit())
    if wrong := [number for number in have if number not in need]:
        yield Fault("incorrect_number", f"you used numbers that are on no card: {', '.join(wrong)}")
    elif often := [number for number in have if have[number] > need[number]]:
        yield Fault("incorrect_number", f"you used too often: {', '.join(often)}")
    if idle := [number for number in need if have[number] < need[number]]:
        yield Fault("incorrect_number", f"you did not use: {', '.join(idle)}")
