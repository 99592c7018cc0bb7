"""What every curator must do, by what it says of itself: its effect, whether it samples, whether it judges."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.axes.curator import Curator
from holdfast.axes.method import Method
from holdfast.axes.registry import name_of
from holdfast.data.rows import Row, fingerprint_rows
from holdfast.testing.curation_world import QUESTIONS, CurationWorld, EngineKilled, general_rows, sum_rows
from holdfast.testing.failure import expect_that, require_kind


def row_content(row: Row) -> dict[str, Any]:
    """A row but for its trace."""
    return {**row.to_json(), "meta": {key: value for key, value in row.meta.items() if key != "trace"}}


def check_effect(method: Method, folder: Path) -> None:
    """The rows come out as its `effect` says, and every row that does not come out is recorded with a reason."""
    curator, world, input_rows = require_kind(method, Curator), CurationWorld(), sum_rows()
    out, effect = world.curate_rows(curator), curator.effect
    own = [row for row in out if not row.is_replayed]
    expect_that(own or effect in ("select", "draw"), "no row came out")
    expect_that(all(row.answer for row in out), "a row came out without an answer")
    expect_that(
        all((row.chosen is not None) == (effect == "pair") for row in own),
        f"its effect is {effect}, but {'not all rows have' if effect == 'pair' else 'rows have'} chosen answers",
    )
    expect_that(
        all(row in input_rows and str(reason).strip() for row, reason in world.dropped),
        "what it gives context.drop must be one of the rows it was given, and a reason",
    )
    drop_ids = [row.id for row, _ in world.dropped]
    if effect in ("add", "generate", "draw"):
        check = {"add": _check_added_rows, "generate": _check_generated_rows, "draw": _check_drawn_rows}[effect]
        check(input_rows, own, drop_ids)
        return
    known_rows = {(row.id, str(row.prompt), str(row.gold)) for row in input_rows}
    expect_that(
        {(row.id, str(row.prompt), str(row.gold)) for row in own} <= known_rows,
        f"its effect is {effect}, but a row has another id, question or gold answer than those given; "
        "make rows with row.with_answer or dataclasses.replace",
    )
    expect_that(
        sorted([row.id for row in own] + drop_ids) == sorted(row.id for row in input_rows),
        f"of {len(input_rows)} rows {len(own)} came out and {len(drop_ids)} were recorded as left out; give "
        "context.drop every row that is left out (context.keep does)",
    )
    expect_that(not drop_ids or effect in ("select", "pair"), f"its effect is {effect}, but rows are left out")
    places = iter([row.id for row in input_rows])  # of equal rows one may stay and another go
    expect_that(all(row.id in places for row in own), "the rows changed places")
    expect_that((len(own) < len(out)) == (effect == "mix"), f"its effect is {effect}, but rows are mixed in, or none")
    if effect in ("select", "mix"):
        contents = {row.id: row_content(row) for row in input_rows}
        expect_that(
            all(row_content(row) == contents[row.id] for row in own), f"its effect is {effect}, but it changed rows"
        )


def _check_added_rows(input_rows: list[Row], own: list[Row], drop_ids: list[str]) -> None:
    prompts = {str(row.prompt) for row in input_rows}
    expect_that(all(str(row.prompt) in prompts for row in own), "its effect is add, but a row asks another question")
    expect_that(len(own) > len(input_rows) - len(drop_ids), "its effect is add, but there are no more rows than before")
    rest = prompts - {str(row.prompt) for row in own} - {str(r.prompt) for r in input_rows if r.id in drop_ids}
    expect_that(not rest, "a question vanished without being recorded; give context.drop every row that is left out")


def _check_generated_rows(input_rows: list[Row], own: list[Row], drop_ids: list[str]) -> None:
    contents = [row_content(row) for row in input_rows]
    expect_that(
        [row_content(row) for row in own[: len(input_rows)]] == contents and not drop_ids,
        "its effect is generate, but the rows given do not stand in front as they were",
    )
    new_ids = [row.id for row in own[len(input_rows) :]]
    expect_that(new_ids, "its effect is generate, but no row was written")
    expect_that(len({*new_ids}) == len(new_ids), "two rows that it wrote have one id")


def _check_drawn_rows(input_rows: list[Row], own: list[Row], drop_ids: list[str]) -> None:
    sources = [(row.meta.get("trace") or [{}])[-1].get("source", row.id) for row in own]
    known_ids = {row.id for row in input_rows}
    expect_that({*sources} <= known_ids, "its effect is draw, but a row is none of those given")
    expect_that({*sources, *drop_ids} == known_ids, "a row vanished without being recorded; give it to context.drop")
    gold = {row.id: row.answer for row in input_rows}
    expect_that(
        all(row.answer == gold[source] for row, source in zip(own, sources, strict=True)),
        "its effect is draw, but an answer is another one",
    )


def check_trace(method: Method, folder: Path) -> None:
    """What it wrote has trace and place and survives being written down; the rows given stay as they are."""
    curator, world, input_rows = require_kind(method, Curator), CurationWorld(), sum_rows()
    before = [row.to_line() for row in input_rows]
    out = world.curate_rows(curator, input_rows)
    expect_that([row.to_line() for row in input_rows] == before, "it changed the rows it was given; make copies")
    contents = {row.id: row_content(row) for row in input_rows}
    for row in out:
        line = json.loads(row.to_line())
        expect_that(Row.from_json(line) == row, "a row is another one after it was written as JSON and read back")
        expect_that(
            row.place, "a row came out without its place, so errors cannot name its line; use row.with_answer, "
            "dataclasses.replace or record_decision",
        )  # fmt: skip
        if contents.get(row.id) == row_content(row) or (row.is_replayed and curator.effect == "mix"):
            continue
        trace = row.meta.get("trace") or []
        expect_that(
            trace and trace[-1].get("curator") == name_of(curator) and trace[-1].get("origin") == row.origin,
            "a row was changed and its trace does not say so; use holdfast.data.trace.record_decision",
        )
        expect_that(str(trace[-1].get("reason", "")).strip(), "a decision in a trace has no reason")


def check_needs(method: Method, folder: Path) -> None:
    """It samples if and only if it says so, judges only if it says so, and no more answers than it says."""
    curator, world = require_kind(method, Curator), CurationWorld()
    world.curate_rows(curator)
    count, most = len(world.engine.drawn), curator.count_samples(QUESTIONS + 1)
    expect_that(bool(count) == curator.samples, f"samples is {curator.samples}, and it drew {count} answers")
    expect_that(curator.judges or not world.judged, "it asks for verdicts; its class needs judges = True")
    expect_that(count <= most, f"count_samples allows {most} answers for {QUESTIONS + 1} rows, and it drew {count}")


def check_seed(method: Method, folder: Path) -> None:
    """The seed decides: the same one gives the same rows, another one others where it samples by chance."""
    curator, worlds = require_kind(method, Curator), [CurationWorld() for _ in range(3)]
    same, again, other = (
        fingerprint_rows(world.curate_rows(curator, seed=seed)) for world, seed in zip(worlds, (3, 3, 4), strict=True)
    )
    expect_that(same == again, "twice with the same seed it made different rows; take all chance from context.seed")
    if worlds[0].engine.by_chance:
        expect_that(same != other, "with another seed it made the same rows; give context.seed to what it samples")


def check_resume(method: Method, folder: Path) -> None:
    """Killed while it samples and started again it draws nothing twice, and makes the same rows."""
    curator, whole = require_kind(method, Curator), CurationWorld()
    first_fingerprint = fingerprint_rows(whole.curate_rows(curator))
    for die_after in {0, 1, len(whole.engine.drawn) // 2} if curator.samples else ():
        path, first_try, second_try = folder / f"{die_after}.jsonl", CurationWorld(), CurationWorld()
        first_try.engine.die_after = die_after
        try:
            first_try.curate_rows(curator, journal=path)
            expect_that(False, "it hides errors of sampling, so that a killed run looks finished")
        except EngineKilled:
            pass
        rows = second_try.curate_rows(curator, journal=path)
        expect_that(
            fingerprint_rows(rows) == first_fingerprint, f"killed after {die_after} samples and resumed it made others"
        )
        sample_names = first_try.engine.drawn + second_try.engine.drawn
        expect_that(
            sorted(sample_names) == sorted(whole.engine.drawn),
            f"killed after {die_after} samples and resumed it drew {len(sample_names)} answers in place of "
            f"{len(whole.engine.drawn)}; the same request must have the same key every time",
        )
        once_more = CurationWorld()
        once_more.curate_rows(curator, journal=path)
        expect_that(not once_more.engine.drawn, "run again with a full journal it draws answers again")


def check_questions(method: Method, folder: Path) -> None:
    """Every question it trains on stands in the rows it was given or loaded, so that none is a held-out one."""
    curator = require_kind(method, Curator)
    if curator.effect == "generate":  # the pipeline holds what it wrote against what is measured
        return
    known_prompts = {str(row.prompt) for row in [*sum_rows(), *general_rows()]}
    out = CurationWorld().curate_rows(curator)
    foreign = [row.beginning for row in out if str(row.prompt) not in known_prompts]
    expect_that(not foreign, f"a row asks what stands neither in the rows given nor in those loaded: {foreign[:1]}")


def check_replayed_rows(method: Method, folder: Path) -> None:
    """Rows that an earlier curator mixed in pass untouched; without rows there are none."""
    curator, world = require_kind(method, Curator), CurationWorld()
    if curator.effect == "mix":
        return
    replay_rows = [replace(row, origin="replay") for row in sum_rows()]
    out = world.curate_rows(curator, replay_rows)
    expect_that(
        [row.messages for row in out] == [row.messages for row in replay_rows] and all(row.is_replayed for row in out),
        "rows of origin replay do not pass as they are",
    )
    expect_that(not world.dropped and not world.engine.drawn, "it samples for, or leaves out, rows of origin replay")
    expect_that(CurationWorld().curate_rows(curator, []) == [], "of no rows it makes some")


CHECKS = (check_effect, check_trace, check_needs, check_seed, check_resume, check_questions, check_replayed_rows)
