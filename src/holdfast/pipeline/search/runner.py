"""One search at work: trials rung by rung, the dial, the finals. What is on record is not done again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from holdfast.core.files import remove_path
from holdfast.core.progress import Progress
from holdfast.errors import HoldfastError, UserError, UserInterrupt
from holdfast.evaluation.statistics.paired import MeasuredRun
from holdfast.evaluation.summary import read_run
from holdfast.pipeline.search.halves import hold_out_questions, read_outcome, summarise_seeds
from holdfast.pipeline.search.history import History, parse_outcome
from holdfast.pipeline.search.order import (
    STRICT,
    TrialOutcome,
    count_promotions,
    list_strictness,
    rank_outcomes,
)
from holdfast.pipeline.search.side_by_side import TrialJob, TrialWorkers
from holdfast.pipeline.search.suggest import ToldTrial, suggest_at_random, suggest_by_tpe
from holdfast.pipeline.search.trials import OWN, PLAIN, SearchPlan
from holdfast.pipeline.train import train
from holdfast.recipe.loader import ResolvedRecipe

T = TypeVar("T")
FEWEST_STARTUP, MOST_STARTUP = 4, 10
"""Suggestions that are drawn at random before TPE learns from them: a quarter of the trials, within these."""
BITS_BESIDE_GAIN = 1e-3
"""Points that a bit of the held-out answers counts in what TPE is told: less than any answer more that is right."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What may win: a trial at a point between base and tuned.

    Args:
        point: 1 is the trial as it was trained.
        outcome: On the questions to choose by.
    """

    trial: int
    point: float
    outcome: TrialOutcome


class Searcher:
    """Carries out a search.

    Args:
        plan: What is searched.
        history: Its record.
        ui: Where progress is shown.
        workers: Processes that train trials side by side.
    """

    def __init__(self, plan: SearchPlan, history: History, ui: Progress, workers: int = 1) -> None:
        self.plan, self.history, self.ui = plan, history, ui
        self.workers = TrialWorkers(workers)
        self.seconds_ahead: dict[str, float] = {}
        self.search = plan.search
        self.strictness = list_strictness(len(self.search.rungs))

    def values_of(self, trial: int) -> dict[str, Any]:
        """What was suggested as a trial; nothing for plain SFT and the recipe as it is."""
        event = self.history.find_event("ask", trial=trial)
        return dict(event["values"]) if event else {}

    def list_trials(self) -> list[int]:
        """All trials so far."""
        return sorted({e["trial"] for e in self.history.events if e["event"] == "result"})

    def outcome_at(self, trial: int, rung: int) -> TrialOutcome | None:
        """What a trial came to at a rung."""
        event = self.history.find_event("result", trial=trial, rung=rung)
        return parse_outcome(event) if event else None

    # --- trials

    def climb_rungs(self) -> list[int]:
        """Run all rungs; the trials that came through the last."""
        going_on = self._run_first_rung()
        for rung in range(1, len(self.search.rungs)):
            going_on = self._run_rung(rung, going_on)
        last = len(self.search.rungs) - 1
        return [t for t in going_on if (outcome := self.outcome_at(t, last)) is not None and not outcome.is_failed]

    def _run_first_rung(self) -> list[int]:
        """Ask, train to the first rung, measure, tell; until there are enough or the time is over."""
        trials, first = [], self.plan.first_trials
        suggestions = range(2, self.search.trials + 2 - len(first))
        for group in (first, *split_evenly(suggestions, self.search.batch)):
            if group is not first and self._is_over(0):
                break
            for number in group if group is not first else ():
                if self.history.find_event("ask", trial=number) is None:
                    self.history.append_event("ask", trial=number, values=self._suggest_values(number))
            self._run_trials(group, 0)
            trials += group
            self._drop_beaten(trials, 0, self.search.trials)
        if all(self._require_outcome(n, 0).is_failed for n in trials):
            event = self.history.find_event("result", trial=trials[0], rung=0) or {}
            raise UserError(f"search: every trial failed, the first of them so: {event.get('failure')}")
        return trials

    def _run_rung(self, rung: int, trials: Sequence[int]) -> list[int]:
        """Let the best of a rung go on to the next; the two that every search has always do."""
        ranking = self._rank_trials(trials, rung - 1)
        count = count_promotions(len(trials), self.search.reduce, self.search.finalists)
        best = [number for number in ranking[:count] if not self._require_outcome(number, rung - 1).is_failed]
        always = [
            n
            for n in trials
            if n in (PLAIN, OWN) and n not in best and not self._require_outcome(n, rung - 1).is_failed
        ]
        going_on: list[int] = []
        for group in split_evenly([*best, *always], self.workers.count):
            group = [n for n in group if n in (PLAIN, OWN, *best[:1]) or not self._is_over(rung)]
            self._run_trials(group, rung)
            going_on += group
        self._drop_all_but(trials, going_on)
        return going_on

    def _require_outcome(self, trial: int, rung: int) -> TrialOutcome:
        outcome = self.outcome_at(trial, rung)
        assert outcome is not None
        return outcome

    def _rank_trials(self, trials: Sequence[int], rung: int) -> list[int]:
        outcomes = [self._require_outcome(number, rung) for number in trials]
        return [trials[place] for place in rank_outcomes(outcomes, self.plan.max_loss, self.strictness[rung])]

    def list_told(self) -> list[ToldTrial]:
        """The suggestions with what they came to at the first rung, at which all are measured alike."""
        results = []
        for event in self.history.events:
            if event["event"] == "ask" and (outcome := self.outcome_at(event["trial"], 0)) is not None:
                violation = outcome.compute_violation(self.plan.max_loss, self.strictness[0])
                value = outcome.gain - BITS_BESIDE_GAIN * outcome.bits
                results.append(ToldTrial(event["values"], value, violation))
        return results

    def _suggest_values(self, number: int) -> dict[str, Any]:
        space, seed = self.plan.space, self.search.seed
        if self.search.sampler == "random":
            return suggest_at_random(space, seed, number)
        startup = min(MOST_STARTUP, max(FEWEST_STARTUP, self.search.trials // 4))
        return suggest_by_tpe(space, seed, number, self.list_told(), startup)

    def _run_trials(self, numbers: Sequence[int], rung: int) -> None:
        """Train trials as far as a rung, side by side where there are workers, and record them in order."""
        todo = [n for n in numbers if self.history.find_event("result", trial=n, rung=rung) is None]
        self._train_ahead([self._build_stop(number, rung) for number in todo])
        for number in todo:
            self._run_trial(number, rung)

    def _build_stop(self, number: int, rung: int) -> ResolvedRecipe:
        share, folder = self.search.rungs[rung], self.trial_directory(number)
        return self.plan.build_trial(number, self.values_of(number), output=str(folder), train__stop_at=share)

    def _train_ahead(self, trials: Sequence[ResolvedRecipe]) -> None:
        """Let workers train what is then found done; with one worker, or one trial, there is nothing to be ahead of."""
        count = min(self.workers.count, len(trials))
        if count < 2:
            return
        self.ui.close()
        self.ui.write_line(f"{len(trials)} runs, {count} side by side")
        folders = [Path(str(trial.recipe.output)) for trial in trials]
        jobs = [
            TrialJob(folder.name, trial, self._list_journals(folder))
            for folder, trial in zip(folders, trials, strict=True)
        ]
        self.seconds_ahead |= self.workers.train_trials(jobs)

    def _run_trial(self, number: int, rung: int) -> None:
        """Train a trial as far as a rung, measure it, and put what it came to on record."""
        share = self.search.rungs[rung]
        self.ui.close()
        self.ui.write_line(f"trial {number}, {share:.0%} of the steps: {self.describe_trial(number)}")

        def measure_trial() -> dict[str, Any]:
            folder = self.trial_directory(number)
            train(self._build_stop(number, rung), ui=self.ui, parents=self._list_journals(folder))
            return self._describe_outcome([read_run(folder)])

        ahead = self.seconds_ahead.pop(self.trial_directory(number).name, 0.0)
        self._record_outcome("result", measure_trial, ahead, trial=number, rung=rung)

    def _record_outcome(
        self, event: str, call: Callable[[], dict[str, Any]], ahead: float = 0.0, **fields: Any
    ) -> None:
        """Do what gives an outcome and put it on record; what fails is recorded as failed and stops nothing.

        Args:
            ahead: Seconds that were spent on it before.
        """
        from holdfast.models.placement import is_out_of_memory

        began = time.perf_counter()
        try:
            outcome = call()
        except UserInterrupt:
            raise
        except (HoldfastError, RuntimeError, MemoryError) as error:
            if not isinstance(error, HoldfastError) and not is_out_of_memory(error):
                raise
            text = str(error).split("\n")[0] or type(error).__name__
            self.ui.warn(f"failed: {text}")
            outcome = {"gain": None, "loss": None, "error": None, "failure": text}
        self.history.append_event(event, **fields, **outcome, seconds=ahead + time.perf_counter() - began)

    def _describe_outcome(self, runs: Sequence[MeasuredRun]) -> dict[str, Any]:
        chosen = [hold_out_questions(run, self.search.holdout)[0] for run in runs]
        outcome = read_outcome(summarise_seeds(chosen), self.plan.max_loss)
        if outcome.is_failed:
            raise UserError("what was measured is no number")
        return {"gain": outcome.gain, "loss": outcome.loss, "error": outcome.error, "bits": outcome.bits}

    def describe_trial(self, number: int) -> str:
        """What a trial is, in a line."""
        if number in (PLAIN, OWN):
            return "plain SFT" if number == PLAIN else "the recipe as it is"
        parts = (f"{key} {format_short(value)}" for key, value in self.values_of(number).items())
        return ", ".join(parts)

    def trial_directory(self, number: int) -> Path:
        """Where the run of a trial is."""
        return self.plan.root / f"trial-{number:03d}"

    def _list_journals(self, folder: Path) -> list[Path]:
        """Journals of all runs but that in a directory: what one has sampled the others need not."""
        return sorted(path for path in self.plan.root.glob("*/samples.jsonl") if path.parent != folder)

    # --- room and time

    def _is_over(self, rung: int) -> bool:
        """Whether the time for a rung is used up. That is put on record: another session decides the same."""
        if self.history.find_event("close", rung=rung) is not None:
            return True
        if self.plan.seconds is None:
            return False
        share = (rung + 1) / (len(self.search.rungs) + 1)  # the same for every rung, and for the finals
        if self.history.sum_seconds() < share * self.plan.seconds or self._has_later_events(rung):
            return False
        self.ui.write_line(f"the time for rung {rung + 1} of {len(self.search.rungs)} is used up")
        self.history.append_event("close", rung=rung)
        return True

    def _has_later_events(self, rung: int) -> bool:
        """Whether a later rung has begun, so that this one was not closed for want of time."""
        return any(event["event"] == "result" and event["rung"] > rung for event in self.history.events)

    def _drop_beaten(self, trials: Sequence[int], rung: int, total: int) -> None:
        """Free the disk of what cannot go on: of trials that enough others have beaten already."""
        count = count_promotions(total, self.search.reduce, self.search.finalists)
        self._drop_all_but(trials, self._rank_trials(trials, rung)[:count])

    def _drop_all_but(self, trials: Sequence[int], going_on: Sequence[int]) -> None:
        for number in set(trials) - {*going_on, PLAIN, OWN}:
            for name in ("checkpoints", "model", "cache"):
                remove_path(self.trial_directory(number) / name)

    # --- dial and finals

    def list_candidates(self, trials: Sequence[int]) -> list[Candidate]:
        """The trials of the last rung, each as it is and at the points of the dial; the best first."""
        last, out = len(self.search.rungs) - 1, []
        for number in trials:
            out.append(Candidate(number, 1.0, self._require_outcome(number, last)))
            recipe = self.plan.build_trial(number, self.values_of(number)).recipe
            for point in self.search.dial if recipe.inference is None else ():
                self._measure_dial(number, point)
                event = self.history.find_event("dial", trial=number, point=point)
                out.append(Candidate(number, point, parse_outcome(event or {})))
        order = rank_outcomes([candidate.outcome for candidate in out], self.plan.max_loss, STRICT)
        return [out[place] for place in order]

    def _measure_dial(self, number: int, point: float) -> None:
        if self.history.find_event("dial", trial=number, point=point) is not None:
            return
        folder = self.trial_directory(number)
        self._record_outcome(
            "dial", lambda: self._describe_outcome([self._read_at_point(folder, point)]), trial=number, point=point
        )

    def _read_at_point(self, folder: Path, point: float) -> MeasuredRun:
        """A finished run at a point of the line from its base, measured if it was not."""
        from holdfast.methods.inference.dial import Dial
        from holdfast.models.own_base import find_own_base
        from holdfast.pipeline.evaluate import evaluate

        whole = read_run(folder)
        if point == 1:
            return whole
        home = folder / f"dial-{point:g}"
        device = self.plan.recipe.device
        evaluate(
            str(folder), against=find_own_base(str(folder)), inference=Dial(point=point), device=device, out=home,
            ui=self.ui,
        )  # fmt: skip
        run = read_run(home, tuned="tuned")
        roles = {task.name: task for task in whole.tasks}  # an evaluation knows no target
        return replace(run, tasks=[roles[task.name] for task in run.tasks if task.name in roles])

    def run_finals(self, candidates: Sequence[Candidate]) -> dict[Candidate, list[MeasuredRun]]:
        """The best recipes with further seeds: of each its runs, on all questions."""
        finalists: list[Candidate] = []
        limit = 1 if self.plan.has_own_value else self.search.finalists
        for candidate in candidates:
            if len(finalists) < limit and candidate.trial not in {other.trial for other in finalists}:
                finalists.append(candidate)
        first = self.plan.recipe.train.seed
        self._train_finals_ahead(finalists)
        out: dict[Candidate, list[MeasuredRun]] = {}
        for candidate in finalists:
            out[candidate] = []
            for seed in range(self.search.seeds):
                if seed and self._are_finals_over(candidate, seed):
                    continue
                if (run := self._run_final(candidate, first + seed)) is not None:
                    out[candidate].append(run)
        return {candidate: runs for candidate, runs in out.items() if runs}

    def _train_finals_ahead(self, finalists: Sequence[Candidate]) -> None:
        """Let workers train the runs of the finals that are missing, as far as the time goes."""
        first = self.plan.recipe.train.seed
        runs = [(candidate, first + seed) for candidate in finalists for seed in range(self.search.seeds)]
        todo = [
            (candidate, seed)
            for candidate, seed in runs
            if self.final_directory(candidate, seed) != self.trial_directory(candidate.trial)
            and self.history.find_event("final", trial=candidate.trial, point=candidate.point, seed=seed) is None
        ]
        for group in split_evenly(todo, self.workers.count):
            if self.workers.count > 1 and not self._is_over(len(self.search.rungs)):
                self._train_ahead([self._build_final(candidate, seed) for candidate, seed in group])

    def _build_final(self, candidate: Candidate, seed: int) -> ResolvedRecipe:
        """The recipe of one seed of a finalist, with the recipe's own target."""
        values, first = self.values_of(candidate.trial), self.plan.recipe.train.seed
        return self.plan.build_trial(
            candidate.trial, values, output=str(self.final_directory(candidate, seed)),
            train__seed=int(values.get("train.seed", first)) + seed - first,
            evaluate__target=self.plan.recipe.evaluate.target,
        )  # fmt: skip

    def _are_finals_over(self, candidate: Candidate, seed: int) -> bool:
        done = self.history.find_event("final", trial=candidate.trial, seed=self.plan.recipe.train.seed + seed)
        return done is None and self._is_over(len(self.search.rungs))

    def _run_final(self, candidate: Candidate, seed: int) -> MeasuredRun | None:
        """One seed of a finalist, measured on the recipe's own target; `None` where it failed."""
        folder = self.final_directory(candidate, seed)
        if folder == self.trial_directory(candidate.trial):
            return replace(self._read_at_point(folder, candidate.point), seed=seed)
        fields = {"trial": candidate.trial, "point": candidate.point, "seed": seed}
        trial = self._build_final(candidate, seed)

        def measure_final() -> dict[str, Any]:
            self.ui.close()
            self.ui.write_line(f"trial {candidate.trial}, seed {trial.recipe.train.seed}")
            train(trial, ui=self.ui, parents=self._list_journals(folder))
            self._read_at_point(folder, candidate.point)
            return {}

        if self.history.find_event("final", **fields) is None:
            self._record_outcome("final", measure_final, self.seconds_ahead.pop(folder.name, 0.0), **fields)
        event = self.history.find_event("final", **fields) or {}
        return None if "failure" in event else replace(self._read_at_point(folder, candidate.point), seed=seed)

    def run_reference(self, candidate: Candidate) -> MeasuredRun | None:
        """A trial that no sampler suggested, measured on the recipe's own target."""
        return self._run_final(candidate, self.plan.recipe.train.seed)

    def final_directory(self, candidate: Candidate, seed: int) -> Path:
        """Where a seed of a finalist is: the first is the trial itself, where that was measured on the target."""
        if seed == self.plan.recipe.train.seed and not self.plan.has_own_value:
            return self.trial_directory(candidate.trial)
        return self.plan.root / f"final-{candidate.trial:03d}-seed-{seed}"


def split_evenly(items: Sequence[T], size: int) -> list[list[T]]:
    """The items in groups of so many, the last with what is left."""
    return [list(items[begin : begin + size]) for begin in range(0, len(items), size)]


def format_short(value: Any) -> str:
    """A value in a few characters."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return " ".join([str(value.get("name", "")), *(f"{k} {v}" for k, v in value.items() if k != "name")]).strip()
    return str(value)
