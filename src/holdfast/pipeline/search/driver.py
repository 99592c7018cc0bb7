"""`holdfast search`: the recipe that gains most among those that lose at most so much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from holdfast.core.files import replace_file
from holdfast.core.progress import Progress
from holdfast.data.rows import fingerprint_json
from holdfast.errors import UserError
from holdfast.evaluation.statistics.paired import MeasuredRun
from holdfast.evaluation.statistics.summary_statistics import mark_pareto_front
from holdfast.evaluation.summary import bound_loss
from holdfast.pipeline.run_dir import MARK, dependency_versions, move_aside, recipe_key, replace_json
from holdfast.pipeline.search.halves import hold_out_questions, read_outcome, summarise_seeds
from holdfast.pipeline.search.history import NAME, History
from holdfast.pipeline.search.order import STRICT
from holdfast.pipeline.search.runner import Candidate, Searcher
from holdfast.pipeline.search.suggest import import_optuna, measure_importance
from holdfast.pipeline.search.trials import OWN, PLAIN, SearchPlan, plan_search
from holdfast.recipe.loader import ResolvedRecipe, format_resolved_yaml, resolve_any
from holdfast.recipe.schema import Recipe

REPORT = "search.json"
BEST = "best.yaml"


def search_recipes(
    recipe: ResolvedRecipe | Recipe | dict[str, Any] | str | Path,
    *,
    out: str | Path | None = None,
    ui: Progress | None = None,
    restart: bool = False,
    workers: int = 1,
) -> dict[str, Any]:
    """Find the recipe that gains most within the limit of its section `search`. Killed and repeated, it goes on.

    Trials are chosen by one half of every task's questions. The winner has the highest lower end of the gain's interval
    over its seeds among the finalists that keep to the limit, which the other half must confirm at a stated confidence.

    Args:
        out: Directory; default: `runs/search-DATA`.
        restart: Begin anew where the directory holds a search, which is kept as `DIRECTORY.old-1`.
        workers: Processes that train trials side by side; of suggestions, as many as are made at once
            (`search.batch`). What is found does not depend on it.
    Returns:
        The content of `search.json`, and its `directory`. `best` is `None` where no recipe keeps to the limit.
    Raises:
        UserError: Before the first trial, if anything in the space makes no recipe.
    """
    ui, resolved_recipe = ui or Progress.create_silent(), resolve_any(recipe)
    plan = plan_search(resolved_recipe, out)
    if plan.search.sampler == "tpe" and plan.search.trials > 2:
        import_optuna()
    root = plan.root
    if (root / MARK).exists() or (root / "compare.json").exists() or (root.exists() and not root.is_dir()):
        raise UserError(f"{root}: holds something else; a search needs a directory of its own, set another --out")
    if restart and (root / NAME).exists():
        History(root, fingerprint_key(root, plan)).__exit__()  # nobody is at work in it
        ui.write_line(f"{root}: begun anew; the search that was there is now {move_aside(root)}")
    with History(root, compute_key(plan)) as history:
        searcher = Searcher(plan, history, ui, workers)
        try:
            trials = searcher.climb_rungs()
            candidates = searcher.list_candidates(trials)
            finals = searcher.run_finals(candidates)
        finally:
            searcher.workers.pool.close()
        return write_outcome(searcher, candidates, finals)


def compute_key(plan: SearchPlan) -> str:
    """What makes two searches the same: recipe and section, but for the time it may take."""
    section = plan.search.model_dump(mode="json", exclude={"budget"})
    return fingerprint_json([recipe_key(plan.recipe), section])


def fingerprint_key(root: Path, plan: SearchPlan) -> str:
    """The key of the search in a directory, whichever it is."""
    import json

    first = (root / NAME).read_bytes().partition(b"\n")[0]
    try:
        return str(json.loads(first)["key"])
    except (ValueError, KeyError, TypeError):
        return compute_key(plan)


def write_outcome(
    searcher: Searcher, candidates: Sequence[Candidate], finals: Mapping[Candidate, list[MeasuredRun]]
) -> dict[str, Any]:
    """Choose the winner, write `search.json`, `search.html` and `best.yaml`."""
    from holdfast.report.html import write_page
    from holdfast.report.search_page import render_search

    plan = searcher.plan
    confidence = share_confidence(plan.search.confidence, len(finals))
    entries = [_summarise_finalist(searcher, candidate, runs, confidence) for candidate, runs in finals.items()]
    best = choose_winner(entries, plan.max_loss)
    report = {
        "name": plan.root.name,
        "recipe": plan.recipe.model_dump(mode="json"),
        "search": plan.search.model_dump(mode="json"),
        "max_loss": plan.max_loss,
        "budget": str(plan.budget),
        "versions": dependency_versions(),
        "seconds": searcher.history.sum_seconds(),
        "space": [asdict(dimension) for dimension in plan.space],
        "trials": _list_trials(searcher),
        "candidates": _list_candidates(candidates),
        "importance": measure_importance(plan.space, searcher.list_told()),
        "finalists": entries,
        "references": _summarise_references(searcher),
        "best": best,
        "nearest": None
        if best
        else min(entries, key=lambda entry: _measure_excess(entry, plan.max_loss), default=None),
    }
    if best is not None:
        _write_best(searcher, best)
    elif (plan.root / BEST).exists():
        (plan.root / BEST).unlink()
    replace_json(plan.root / REPORT, report)
    write_page(plan.root / "search.html", render_search(report))
    return {**report, "directory": str(plan.root)}


def choose_winner(entries: Sequence[dict[str, Any]], max_loss: float | None) -> dict[str, Any] | None:
    """Of the finalists that keep to the limit, the one whose gain is highest at the lower end of its interval.

    The limit is held against the upper end of the loss on the questions trials were chosen by, and against that on the
    questions held out, which nothing was chosen by: there it is a test, at a confidence that the finalists share, so
    that a recipe which breaks the limit is returned no more often than stated.
    """
    feasible = [
        entry
        for entry in entries
        if entry["violation"] == 0
        and (max_loss is None or entry["fresh"]["loss"] is None or _is_confirmed(entry["fresh"]["bound"], max_loss))
    ]

    def lower_end(entry: dict[str, Any]) -> float:
        gain = entry["chosen"]["gain"]
        return float(gain["delta"] if gain["low"] is None else gain["low"])

    return max(feasible, key=lower_end, default=None)


def share_confidence(confidence: float, finalists: int) -> float:
    """The confidence at which each finalist is tested, so that all tests together have the stated one (Bonferroni)."""
    return 1 - (1 - confidence) / max(1, finalists)


def _measure_excess(entry: Mapping[str, Any], max_loss: float | None) -> float:
    """By how much a finalist is off the limit, on either half."""
    bound = entry["fresh"]["bound"]
    over = 0.0 if bound is None or max_loss is None else max(0.0, bound - max_loss)
    return float(entry["violation"] + over)


def _is_confirmed(bound: float | None, max_loss: float) -> bool:
    return bound is not None and bound <= max_loss


def _summarise_finalist(
    searcher: Searcher, candidate: Candidate, runs: Sequence[MeasuredRun], confidence: float
) -> dict[str, Any]:
    halves = [hold_out_questions(run, searcher.search.holdout) for run in runs]
    chosen, fresh = (summarise_seeds([pair[side] for pair in halves]) for side in (0, 1))
    fresh |= {"bound": bound_loss([held_out for _, held_out in halves], confidence), "confidence": confidence}
    outcome = read_outcome(chosen, searcher.plan.max_loss)
    violation = outcome.compute_violation(searcher.plan.max_loss, STRICT)
    if searcher.plan.has_own_value:  # nothing was chosen by the target: all its questions are fresh
        fresh["gain"] = summarise_seeds(runs)["gain"]
    return {
        "trial": candidate.trial, "point": candidate.point, "what": searcher.describe_trial(candidate.trial),
        "values": searcher.values_of(candidate.trial), "seeds": [run.seed for run in runs], "chosen": chosen,
        "fresh": fresh, "violation": violation,
        "directory": str(searcher.final_directory(candidate, runs[0].seed)),
    }  # fmt: skip


def _summarise_references(searcher: Searcher) -> list[dict[str, Any]]:
    """Plain SFT and the recipe as it is, beside the winner: one seed of each, on the same questions."""
    out = []
    for number in (PLAIN, OWN):
        outcome = searcher.outcome_at(number, len(searcher.search.rungs) - 1)
        if outcome is None or outcome.is_failed:
            continue
        entry = Candidate(number, 1.0, outcome)
        run = searcher.run_reference(entry)
        if run is not None:
            out.append(_summarise_finalist(searcher, entry, [run], searcher.search.confidence))
    return out


def _list_trials(searcher: Searcher) -> list[dict[str, Any]]:
    """Every trial with what it came to at the rungs it reached."""
    out = []
    for number in searcher.list_trials():
        rungs = []
        for rung, share in enumerate(searcher.search.rungs):
            event = searcher.history.find_event("result", trial=number, rung=rung)
            if event is not None:
                figures = {key: event.get(key) for key in ("gain", "loss", "error", "failure", "seconds")}
                rungs.append({"share": share, **figures})
        what, values = searcher.describe_trial(number), searcher.values_of(number)
        out.append({"trial": number, "what": what, "values": values, "rungs": rungs})
    return out


def _list_candidates(candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """The candidates of the last rung, the best first, with those that none is better than in both."""
    whole = [candidate for candidate in candidates if not candidate.outcome.is_failed]
    front = mark_pareto_front([(candidate.outcome.gain, candidate.outcome.loss) for candidate in whole])
    return [
        {
            "trial": candidate.trial, "point": candidate.point, "gain": candidate.outcome.gain,
            "loss": candidate.outcome.loss, "front": best,
        }
        for candidate, best in zip(whole, front, strict=True)
    ]  # fmt: skip


def _write_best(searcher: Searcher, best: Mapping[str, Any]) -> None:
    """`best.yaml`: the winner as a recipe that `train` runs, with the method of the dial where it is set back."""
    plan = searcher.plan
    seed = int(best["values"].get("train.seed", plan.recipe.train.seed))
    inference = {} if best["point"] == 1 else {"inference": {"name": "dial", "point": best["point"]}}
    trial = plan.build_trial(
        best["trial"], best["values"], output=str(plan.root / "best"), train__seed=seed,
        evaluate__target=plan.recipe.evaluate.target, **inference,
    )  # fmt: skip
    replace_file(plan.root / BEST, format_resolved_yaml(trial))


def describe_miss(report: Mapping[str, Any]) -> str:
    """Why nothing is returned, with the finalist that came nearest."""
    nearest = report["nearest"]
    if nearest is None:
        return f"no recipe keeps to search.max_loss {report['max_loss']:g}: no finalist could be measured"
    loss = nearest["chosen"]["loss"]
    where = f"{loss['delta']:.1f} points" + ("" if loss["high"] is None else f" (up to {loss['high']:.1f})")
    loss_fresh, bound = nearest["fresh"]["loss"], nearest["fresh"]["bound"]
    fresh_text = f", {loss_fresh['delta']:.1f} on questions held out" if loss_fresh else ""
    fresh_text += (
        f" (at most {bound:.1f} at {nearest['fresh']['confidence']:.1%} confidence)" if bound is not None else ""
    )
    return (
        f"no recipe keeps to search.max_loss {report['max_loss']:g}; nearest is trial {nearest['trial']} at point "
        f"{nearest['point']:g} ({nearest['what']}), which loses {where}{fresh_text}: allow more, ask more questions, "
        "or search further"
    )
