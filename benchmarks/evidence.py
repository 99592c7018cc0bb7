"""The page of evidence, docs/evidence.md: of every claim the verdict in the laboratory and on real models.

    python benchmarks/evidence.py                         write its tables anew
    python benchmarks/evidence.py --from runs/reproduce   first record what `holdfast reproduce --on` left there
    python benchmarks/evidence.py --compare runs/COMPARE  first record a comparison of methods on a real model

Results of real models lie in benchmarks/results/real: claims as reproduce-CLAIM-on-MODEL-WORK.json, the comparison of
all methods as methods-MODEL-WORK.json, without the paths of the machine that they were made on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from common import machine
from verdicts import RESULTS, ROOT, describe_outcome, is_outdated, least_of, recorded, replace_between

from holdfast.errors import UserError
from holdfast.lab.reproduce import CLAIMS, claim_of
from holdfast.lab.reproduce.base import Study
from holdfast.lab.reproduce.own_work import move_claim, takes_work

REAL = RESULTS / "real"
PAGE = ROOT / "docs" / "evidence.md"
Result = dict[str, Any]

SINGLE_FIGURES = "#figures-without-a-verdict"
FIGURES = {
    **dict.fromkeys(("ual", "longlora", "half-sequence", "generate", "tfew", "yarn", "combine"), SINGLE_FIGURES),
    **dict.fromkeys(("reward", "uft", "tis_dpo", "prefix", "adapter-rows", "muon", "spafl"), SINGLE_FIGURES),
    **dict.fromkeys(("rpo-table", "ipo", "ada_dpo", "davir_dpo"), "#where-there-is-something-to-lose"),
    **dict.fromkeys(("rag", "prompt_distillation"), "real-models.md#documents-on-people"),
    **dict.fromkeys(("lomo-memory", "adalomo-memory"), "scaling.md#memory-sampling-data"),
    "sft-facts": "real-models.md#a-form-and-a-name-in-shakespeare",
}
"""Where a page shows what a real model did, of claims whose verdict needs what the laboratory alone has."""

LABORATORY_ALONE = {
    **dict.fromkeys(("ift", "una", "uft-table", "uft-scores", "geometric"), "a table whose best policy is known"),
    **dict.fromkeys(("self_instruct", "prompt2model"), "a model that writes tasks"),
    "flan": "many tasks under templates",
    **dict.fromkeys(
        ("sft-memorizes", "sft-memorizes-route", "sft-memorizes-pictures"), "games, and a GPU for real models"
    ),
    "hykge": "a graph that answers the questions",
    **dict.fromkeys(("memory", "memory_levels"), "how often the base has seen each fact"),
    **dict.fromkeys(("emergence", "emergence-models"), "models all along one pre-training"),
    "proxy": "two sizes of one tokenizer",
    **dict.fromkeys(("autoft", "sft-search"), "hundreds of runs a seed"),
}
"""What claims need that no real model at hand has."""


def record_claims(source: Path) -> None:
    """Keep the results of claims on real models, with the machine and the day."""
    for path in sorted(source.glob("*-on-*.json")):
        if path.name.endswith(".seeds.json"):  # of a study that is not finished
            continue
        result = json.loads(path.read_text(encoding="utf-8"))
        result["on"]["model"], result["on"]["work"] = (Path(result["on"][key]).name for key in ("model", "work"))
        result.pop("comparison", None)  # a path beside the runs
        write(REAL / f"reproduce-{result['name']}.json", result)


def record_comparison(source: Path) -> None:
    """Keep of a comparison what the table of methods shows."""
    compare = json.loads((source / "compare.json").read_text(encoding="utf-8"))
    runs = []
    for run in compare["runs"]:
        report = json.loads((source / Path(run["dirs"][0]).name / "report.json").read_text(encoding="utf-8"))
        names = ("method", "gain", "loss", "text", "probe", "trainable", "tasks", "seeds", "points", "cost")
        rate = report["recipe"]["optimizer"]["learning_rate"]
        runs.append({**{name: run[name] for name in names}, "rate": rate})
    model = Path(compare["recipe"]["model"]).name
    result = {
        "model": model,
        "work": Path(compare["recipe"]["data"]["train"]).stem,
        "budget": compare["budget"],
        "runs": runs,
    }
    write(REAL / f"methods-{model}-{result['work']}.json", result)


def write(path: Path, result: Result) -> None:
    """Write a result with the machine and the day that it is of."""
    path.write_text(json.dumps(result | {"machine": machine()}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def list_real_results(name: str) -> list[Result]:
    """The recorded results of a claim on real models."""
    paths = sorted(REAL.glob(f"reproduce-{name}-on-*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def describe_laboratory(name: str) -> str:
    """The verdict in the laboratory."""
    result = recorded(name)
    if result is None:
        return "not run"
    if is_outdated(name, result) or "checks" not in result:
        return "not run by the present settings"
    return f"**{result['outcome']}**, {result['seeds']} seeds"


def describe_reality(name: str) -> str:
    """The verdict on real models, or why there is none."""
    if results := list_real_results(name):
        return "; ".join(f"**{one['outcome']}** ({one['on']['name'].removeprefix('on-')})" for one in results)
    if name in FIGURES:
        return f"[figures]({FIGURES[name]}), no verdict"
    claim = claim_of(name)
    if isinstance(claim, Study):
        return "not run" if takes_work(claim) else describe_absence(name)
    try:
        move_claim(name, claim)
    except UserError:
        return describe_absence(name)
    return "not run"


def describe_absence(name: str) -> str:
    """Why a claim is the laboratory's alone."""
    return f"the laboratory's alone: it needs {LABORATORY_ALONE[name]}"


def table_of_claims() -> str:
    """A line for each claim."""
    head = ["| claim | paper | in the laboratory | on a real model |", "|---|---|---|---|"]
    lines = [
        f"| `{name}`: {claim_of(name).claim} | {claim_of(name).paper} | {describe_laboratory(name)} | "
        f"{describe_reality(name)} |"
        for name in CLAIMS
    ]
    return "\n".join([*head, *lines])


def table_of_parts() -> str:
    """A line for each part of each claim on a real model, with its interval."""
    head = ["| claim | on | part | difference | must be above | |", "|---|---|---|---|---|---|"]
    lines = []
    for name in CLAIMS:
        for result in list_real_results(name):
            for check in result["checks"]:
                digits = ".1f" if result["points"] else ".3g"  # a study's quantities are of any size
                shown = "none" if check["low"] is None else format_change(check, digits)
                lines.append(
                    f"| `{name}` | {result['on']['model']} | {check['what']} | {shown} | {least_of(check):g} | "
                    f"{describe_outcome(check)} |"
                )
    return "\n".join([*head, *lines])


def table_of_methods(path: Path) -> str:
    """A line for each method of a comparison on a real model, those that gained most first."""
    result = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        f"**{result['model']}**, `{result['work']}`, {len(result['runs'][0]['seeds'])} seeds, "
        f"{result['machine']['cpu']}:",
        "",
        f"| method | rate | weights that train | gained, points | lost, points {describe_loss(result)} | "
        "text, % more bits | s a run | sampled tokens |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in sorted(result["runs"], key=lambda run: -run["gain"]["delta"]):
        text = run["text"] | {"delta": run["text"]["percent"]}
        lines.append(
            f"| {run['method']} | {run['rate']:g} | {run['trainable']:,} | {format_change(run['gain'])} | "
            f"{format_change(run['loss'])} | {format_change(text)} | "
            f"{sum(run['cost']['seconds'].values()):.0f} | {run['cost']['sampled_for_training']:,.0f} |"
        )
    return "\n".join(lines)


def describe_loss(result: Result) -> str:
    """What the points are of that were lost: tasks that are kept, or agreement with the base on the probe."""
    if result["runs"][0]["loss"]["of"] == "probe":
        return "of agreement with the base"
    return f"of {', '.join(sorted({run['loss']['worst'] for run in result['runs']}))}"


def format_change(change: Result, digits: str = ".1f") -> str:
    """A number with its interval, where it has one."""
    ends = "" if change["low"] is None else f" [{change['low']:{digits}}, {change['high']:{digits}}]"
    return f"{change['delta']:{digits}}{ends}"


def page(text: str) -> str:
    """The page with the tables in their places."""
    tables = {"claims": table_of_claims(), "parts": table_of_parts()}
    tables |= {path.stem: table_of_methods(path) for path in sorted(REAL.glob("methods-*.json"))}
    for name, made in tables.items():
        text = replace_between(text, f"<!-- {name}: benchmarks/evidence.py -->", made, f"<!-- end of {name} -->")
    return text


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--from", dest="source", type=Path, help="record the claims in this directory")
    options.add_argument("--compare", type=Path, help="record this comparison")
    chosen = options.parse_args()
    if chosen.source:
        record_claims(chosen.source)
    if chosen.compare:
        record_comparison(chosen.compare)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
