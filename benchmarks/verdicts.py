"""The tables of all claims, their verdicts and figures in docs/laboratory.md, from the recorded results.

    python benchmarks/verdicts.py             write the tables anew
    python benchmarks/verdicts.py --studies [NAME ...]   run the studies first, some for half an hour; record them
    python benchmarks/verdicts.py --from runs/reproduce   record what `holdfast reproduce` left there first

A verdict is of the rule in `holdfast.lab.reproduce.rule`, which needs every question's answer of every seed. Results
that were recorded before it hold means and intervals of each arm alone; they are listed as not run by the present rule,
and results of other settings than the claim's (`fingerprint_settings`) as not run by the present settings.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from holdfast.lab.reproduce import CLAIMS, claim_of
from holdfast.lab.reproduce.base import Claim, Study, fingerprint_settings, run_claim

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
OUT = ROOT / "runs" / "reproduce"
PAGE = ROOT / "docs" / "laboratory.md"
BEGIN, END = "<!-- verdicts: benchmarks/verdicts.py -->", "<!-- end of verdicts -->"
BEGIN_FIGURES, END_FIGURES = "<!-- figures: benchmarks/verdicts.py -->", "<!-- end of figures -->"


def record(name: str, result: dict[str, Any]) -> None:
    """Keep a result beside the others."""
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    (RESULTS / f"reproduce-{name}.json").write_text(text, encoding="utf-8")


def recorded(name: str) -> dict[str, Any] | None:
    """The recorded result of a claim, if there is one."""
    path = RESULTS / f"reproduce-{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def line(name: str, result: dict[str, Any] | None) -> str:
    """A line of the table: claim, verdict, and of each part the difference, its interval, the line it must be above."""
    claim = claim_of(name).claim
    if result is None:
        return f"| `{name}` | {claim} | not run | |"
    if is_outdated(name, result):
        return f"| `{name}` | {claim} | not run by the present settings | a result of older ones is recorded |"
    if "checks" not in result:
        if stuck := unmoved(name, result):
            return f"| `{name}` | {claim} | **cannot tell** | {'; '.join(stuck)}; recorded before the rule |"
        return f"| `{name}` | {claim} | not run by the present rule | recorded before it, without the answers |"
    digits = ".1f" if result["points"] else ".3g"
    parts = []
    for check in result["checks"]:
        parts.append(f"{check['what']}: {describe_outcome(check)}")
        if check["low"] is not None:  # None where the arms have no gain in common to compare at
            ends = f"{check['delta']:{digits}} [{check['low']:{digits}}, {check['high']:{digits}}]"
            parts[-1] += f", {ends}, must be above {least_of(check):g}"
    return f"| `{name}` | {claim} | **{result['outcome']}** | {'; '.join(parts)} |"


def describe_outcome(check: dict[str, Any]) -> str:
    """What a part of a claim came to, with the reasons for which it cannot be told."""
    return check["outcome"] + (f" ({'; '.join(check['reasons'])})" if check["reasons"] else "")


def least_of(check: dict[str, Any]) -> float:
    """What the difference must be above."""
    return check["margin"] if check["by"] == "more" else -check["margin"]


def is_outdated(name: str, result: dict[str, Any]) -> bool:
    """Whether a result is of settings that the claim has no more; those recorded without any are older than sweeps."""
    claim = claim_of(name)
    if not isinstance(claim, Claim) or not (claim.validation or "settings" in result):
        return False
    return result.get("settings") != fingerprint_settings(claim)


def unmoved(name: str, result: dict[str, Any]) -> list[str]:
    """Arms that every part of a claim is about and whose target did not clearly move: of these nothing can be told.

    That much is seen in a result without answers, which has the interval of each arm's gain.
    """
    parts = [{part.arm, part.than} for part in getattr(claim_of(name), "expects", ()) if hasattr(part, "arm")]
    everywhere = set.intersection(*parts) if parts else set()
    found = []
    for row in result["rows"]:
        label = row["what"].removeprefix("target, ").lower()
        if row["what"].startswith("target, ") and label in everywhere and row["low"] <= 0:
            ends = f"{row['ours']} [{row['low']:.1f}, {row['high']:.1f}]"
            found.append(f"{label}: the target did not clearly move ({ends})")
    return found


def table() -> str:
    """The table of all registered claims."""
    head = ["| `holdfast reproduce` | claim | verdict | parts of the claim |", "|---|---|---|---|"]
    return "\n".join([*head, *(line(name, recorded(name)) for name in CLAIMS)])


def figures() -> str:
    """The table of what each arm of a claim gained and lost in points, with the paper's figures."""
    head = ["| `holdfast reproduce` | figure | paper | here |", "|---|---|---|---|"]
    lines = []
    for name in CLAIMS:
        result = recorded(name)
        for row in result["rows"] if result and result["points"] and not is_outdated(name, result) else ():
            ends = f" [{row['low']:.1f}, {row['high']:.1f}]" if row["low"] is not None else ""
            lines.append(f"| `{name}` | {row['what']} | {row['paper']} | {row['ours']}{ends} |")
    return "\n".join([*head, *lines])


def page(text: str) -> str:
    """The page with the tables in their places."""
    for begin, made, end in ((BEGIN, table(), END), (BEGIN_FIGURES, figures(), END_FIGURES)):
        text = replace_between(text, begin, made, end)
    return text


def replace_between(text: str, begin: str, made: str, end: str) -> str:
    """The text with other lines between two marks."""
    start, rest = text.split(begin)
    return f"{start}{begin}\n{made}\n{end}{rest.split(end)[1]}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--studies", action="store_true", help="run the studies and record them")
    options.add_argument("--from", dest="source", type=Path, help="record the results in this directory")
    options.add_argument("names", nargs="*", help="which claims to record; default: all")
    chosen = options.parse_args()
    for name in chosen.names or CLAIMS:
        claim = claim_of(name)
        if chosen.studies and isinstance(claim, Study):
            print(name, flush=True)
            record(name, run_claim(name, claim, seeds=claim.seeds, out=OUT, ui=None))
        elif chosen.source and (found := chosen.source / f"{name}.json").exists():
            record(name, json.loads(found.read_text(encoding="utf-8")))
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
