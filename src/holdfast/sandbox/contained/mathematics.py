"""Run in the sandbox by `methods.judges.numbers.symbolic`: compare two pieces of mathematics with math-verify."""

from __future__ import annotations

import logging

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

logging.getLogger("math_verify").setLevel(
    logging.ERROR
)  # it warns that its time limits are off; the sandbox has its own
HOW = [LatexExtractionConfig(), ExprExtractionConfig()]


def compare_expressions(reference: str, answer: str) -> bool | dict[str, str]:
    """Whether two expressions are equal, or why that cannot be told."""
    expressions = []
    for whose, text in (("the reference", reference), ("the answer", answer)):
        expression = parse(f"${text}$", HOW, fallback_mode="no_fallback", parsing_timeout=None)
        if not expression:
            return {"why": f"{whose} is no expression that math-verify reads"}
        expressions.append(expression)
    return bool(verify(*expressions, timeout_seconds=None))
