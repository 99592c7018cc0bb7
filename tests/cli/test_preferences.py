"""Preference data through the command line: pairs curated, files as peers write them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from holdfast.axes.analysis import OPTIONS
from holdfast.cli.app import app
from holdfast.cli.curate import add_pairs_curator
from holdfast.data.reading.formats import open_rows
from holdfast.evaluation.statistics.pair_margins import measure_margins
from holdfast.evaluation.task import ItemResult
from holdfast.recipe.loader import read_recipe


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh directory with its own cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path


def cli(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done


def recipe(**changes: Any) -> str:
    data: dict[str, Any] = {
        "model": "lab-small",
        "data": {"train": "train.json"},
        "train": {"max_steps": 1, "batch_tokens": 1024, "max_length": 256},
        "evaluate": {"target": "none", "keep": [], "live_items": 0},
        "output": "out",
    }
    Path("run.yaml").write_text(yaml.safe_dump(data | changes))
    return "run.yaml"


def ranking(i: int) -> dict[str, Any]:
    """A row of LLaMA-Factory's ranking demo in short."""
    return {
        "conversations": [
            {"from": "human", "value": f"Is {i} even?"},
            {"from": "gpt", "value": "In base ten?"},
            {"from": "human", "value": "Yes."},
        ],
        "chosen": {"from": "gpt", "value": "Yes, it is." if i % 2 == 0 else "No, it is not."},
        "rejected": {"from": "gpt", "value": "Who knows?"},
    }


def judged(i: int) -> dict[str, Any]:
    """A row of its KTO demo in short."""
    answer = {"role": "assistant", "content": "Yes, it is."}
    return {"messages": [{"role": "user", "content": f"Is {i} even?"}, answer], "label": i % 2 == 0}


def write(rows: list[Any]) -> None:
    Path("train.json").write_text(json.dumps(rows, indent=2))


def free_text(i: int) -> dict[str, Any]:
    """A pair of texts that no judge can score, of which one is always of one kind."""
    return {
        "instruction": f"Tell me about {i}, please.",
        "chosen": f"Well, {i} is a number that comes after {i - 1} and before {i + 1}.",
        "rejected": f"Nobody knows what {i} might be, and nobody should ask me of all people.",
    }


# ---- files as they are --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_peers_files_are_trained_on_as_they_are(objective: str) -> None:
    write([(ranking if objective == "dpo" else judged)(i) for i in range(12)])
    file = recipe(objective=objective, data={"train": "train.json", "test": 0})
    assert "kept           12" in cli("check", file).stdout
    cli("train", file)
    (log,) = map(json.loads, Path("out/log.jsonl").read_text().splitlines())
    assert 0 < log["loss"] < 2


def test_pairs_are_taken_apart_for_kto() -> None:
    write([ranking(i) for i in range(12)])
    file = recipe(objective="kto", data={"train": "train.json", "test": 0})
    assert "train          24" in cli("check", file).stdout


def test_ties_are_told() -> None:
    rows = [{"prompt": f"Q{i}", "responses": ["A", "B"], "scores": [1, i % 2]} for i in range(6)]
    write(rows)
    done = cli("check", recipe(objective="dpo", data={"train": "train.json", "test": 0}))
    assert "train.json: left out 3 of 6 rows (none of the answers is rated below the best, the first at" in done.stderr
    assert "kept           3" in done.stdout


def test_which_answer_is_rejected_is_in_the_recipe() -> None:
    scores = {"responses": ["A", "B", "C"], "scores": [2, 1, 0]}
    write([{"prompt": f"Q{i}", **scores} for i in range(20)])
    for rejected, found in (("worst", {"C"}), ("random", {"B", "C"})):
        data = {"train": "train.json", "test": 0, "rejected": rejected}
        cli("curate", recipe(objective="dpo", data=data, output=f"out-{rejected}"), "--out", "rows.jsonl")
        assert {row.rejected for row in open_rows("rows.jsonl")} == found


@pytest.mark.parametrize(
    ("objective", "row", "line"),
    [
        ("dpo", {"conversations": [], "chosen": "A", "rejected": "B"}, "field conversations is empty; remove"),
        ("dpo", {"prompt": "Q", "chosen": "A"}, "field rejected is missing; remove the row or fill it in"),
        ("dpo", {"prompt": "Q", "chosen": "A", "rejected": "A"}, "chosen and rejected are the same; remove the row"),
        ("kto", {"prompt": "Q", "completion": "A", "label": "maybe"}, "label is 'maybe', not true or false; mend it"),
        (
            "geometric",
            {"prompt": "Q", "chosen": "A", "rejected": "B", "preference": 7},
            "preference 7 is not between 0 and 1; rescale the column",
        ),
    ],
)
def test_a_bad_row_is_one_line_and_exit_code_2(objective: str, row: dict[str, Any], line: str) -> None:
    write([row])
    done = cli("train", recipe(objective=objective), code=2)
    (said,) = done.stderr.splitlines()
    assert said.startswith(f"holdfast: train.json row 1: {line}")
    assert not Path("out").exists()


# ---- pairs of the model's own -------------------------------------------------------------------------------------

STORY: dict[str, Any] = {"train": "lab:story", "limit": 32}


def test_curate_pairs_writes_rows_that_dpo_can_train_on() -> None:
    file = recipe(data=STORY, sampling={"max_tokens": 64})
    done = cli("curate", file, "--pairs", "--out", "pairs.jsonl")
    rows = open_rows("pairs.jsonl")
    assert f"32 rows curated into {len(rows)}: sampled 128" in done.stderr
    for row in rows:
        assert row.chosen != row.rejected
        assert (row.origin, row.meta["score_chosen"], row.meta["score_rejected"]) == ("model", 1.0, 0.0)
    assert list(Path("out-pairs").glob("curated.jsonl")), "beside the run of the recipe itself"
    again = cli("curate", file, "--pairs", "--out", "again.jsonl")
    assert "sample" not in again.stderr
    assert Path("again.jsonl").read_text() == Path("pairs.jsonl").read_text()
    cli("check", recipe(objective="dpo", data={"train": "pairs.jsonl", "test": 0}))


def test_nothing_but_ties_says_so() -> None:
    rows = [{"prompt": "Say it.", "completion": "zzz", "reference": "never said"} for _ in range(3)]
    write(rows)
    file = recipe(judge={"name": "exact"}, sampling={"max_tokens": 8})
    line = cli("curate", file, "--pairs", code=2).stderr.splitlines()[-1]
    assert "the curators left no row to train on (sampled 4" in line


def test_pairs_uses_the_recipes_own_curator_or_adds_one() -> None:
    plain = read_recipe(recipe(data=STORY))
    made = add_pairs_curator(plain).recipe
    assert [type(c).__name__ for c in made.curate] == ["Pairs"]
    assert (type(made.objective).__name__, made.output) == ("DPO", "out-pairs")
    after = add_pairs_curator(read_recipe(recipe(data=STORY, method="s3ft")), "random").recipe
    assert [type(c).__name__ for c in after.curate] == ["Pairs"]
    assert after.curate[0].rejected == "random"  # type: ignore[attr-defined]
    chain = ["memory_levels", {"name": "generate", "write": "questions"}, "ssr"]  # the last answers what pairs answers
    chosen = add_pairs_curator(read_recipe(recipe(data=STORY, curate=chain))).recipe
    assert [type(c).__name__ for c in chosen.curate] == ["MemoryLevels", "Generate", "Pairs"]
    own = read_recipe(recipe(data=STORY, objective="ipo", curate={"name": "pairs", "n": 8}))
    assert add_pairs_curator(own).recipe == own.recipe
    changed = add_pairs_curator(own, "random").recipe
    assert (changed.curate[0].n, changed.curate[0].rejected, changed.output) == (8, "random", "out")  # type: ignore[attr-defined]
    assert type(changed.objective).__name__ == "IPO"


@pytest.mark.parametrize("word", ["random", "worst"])
def test_the_word_may_stand_behind_the_option(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("holdfast.pipeline.curate.curate_only", lambda made, **more: seen.append(made) or Path("x"))
    cli("curate", recipe(data=STORY), "--pairs", word, "data.limit=3")
    assert (seen[0].recipe.curate[0].rejected, seen[0].recipe.data.limit) == (word, 3)
    assert "wrost is not setting=value" in cli("curate", "run.yaml", "--pairs", "wrost", code=2).stderr
    assert f"{word} is not setting=value" in cli("curate", "run.yaml", word, code=2).stderr


# ---- rows beside the pairs, and rows without answers --------------------------------------------------------------


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_pairs_are_replayed_beside_pairs(method):
    write([ranking(i) for i in range(9)])
    data = {"train": "train.json", "replay": {"path": "lab:story", "share": 0.4}, "test": 0}
    cli("train", recipe(method=method, data=data))
    assert json.loads(Path("out/data.json").read_text())["counts"] == {"gold": 9, "replay": 6}


def test_answers_are_not_replayed_beside_pairs():
    write([ranking(i) for i in range(9)])
    Path("old.jsonl").write_text(json.dumps({"prompt": "Is 3 odd?", "completion": "Yes."}) + "\n")
    data = {"train": "train.json", "replay": {"path": "old.jsonl", "share": 0.4}}
    done = cli("train", recipe(method="dpo", data=data), code=2)
    assert "old.jsonl:1 has no chosen and rejected" in done.output


def test_pairs_are_no_answers_and_the_file_is_named():
    write([ranking(i) for i in range(9)])
    done = cli("train", recipe(method="sft"), code=2)
    assert "train.json row 1 has chosen and rejected, but the objective trains on answers" in done.output


@pytest.mark.parametrize("method", ["rft", "pairs"])
def test_questions_without_answers_are_checked_before_the_model_answers_them(method):
    write([{"prompt": f"What is {i} + 1?", "reference": str(i + 1)} for i in range(9)])
    done = cli("check", recipe(method=method, judge="exact"))
    assert "»3<|end|>" in done.output


def test_weights_from_two_prompts_are_estimated_before_training():
    write([ranking(i) for i in range(9)])
    objective = {"name": "tis_dpo", "estimate": "prompts", "positive": "Say yes.", "negative": "Say no."}
    cli("train", recipe(objective=objective))
    (first, *_) = [json.loads(line) for line in Path("out/log.jsonl").read_text().splitlines()]
    assert first["weights/mean"] != 1
    assert first["tokens"] < 900  # of nine pairs, read once, without what they are read under


# ---- what is said of held-out pairs -------------------------------------------------------------------------------


def test_held_out_pairs_are_the_target_and_their_margins_are_shown() -> None:
    write([free_text(i) for i in range(40)])
    file = recipe(
        method="dpo", data={"train": "train.json", "test": 0.25}, evaluate={"keep": ["none"], "live_items": 0},
        optimizer={"learning_rate": 1e-3}, train={"max_steps": 6, "batch_tokens": 1024, "max_length": 256},
    )  # fmt: skip
    said = cli("train", file).output
    assert "the target is in how many held-out pairs the chosen answer is the likelier one" in said
    report = json.loads(Path("out/report.json").read_text())
    assert (report["gain"]["unit"], report["gain"]["n"]) == ("points", 10)
    assert [(task["name"], task["role"], task["kind"]) for task in report["tasks"]] == [
        ("held-out pairs", "target", "choice"), ("held-out loss", "watch", "held_out"),
    ]  # fmt: skip
    (section,) = report["analyses"]
    # What was trained on is of one kind, so that the held-out pairs follow.
    assert section["name"] == "pair_margins"
    assert section["sentence"] in said
    assert section["sentence"].startswith(
        "Of 10 held-out pairs 100.0 % have a chosen answer that gained on the rejected"
    )
    assert "did the chosen answer gain on the rejected one?" in Path("out/report.html").read_text()
    cli("eval", "out", "--items", "5")


def test_margins_are_changes_of_likelihoods_per_character() -> None:
    def item(name: str, *options: float) -> ItemResult:
        return ItemResult(name, "q", "", "", 0.0, False, True, 1, extra={OPTIONS: list(options)})

    before = [item("a", -0.7, -0.6), item("b", -0.5, -0.9), item("gone", -0.1, -0.2)]
    after = [item("b", -0.6, -0.8), item("a", -0.4, -1.1)]
    assert measure_margins(after, before).tolist() == pytest.approx([-0.2, 0.8])
    assert measure_margins(after).tolist() == pytest.approx([0.2, 0.7])
    assert measure_margins([]).shape == (0,)


def test_a_comparison_says_in_how_many_pairs_the_chosen_answer_gained() -> None:
    write([free_text(i) for i in range(40)])
    file = recipe(
        data={"train": "train.json", "test": 0.25}, evaluate={"keep": ["none"], "live_items": 0},
        optimizer={"learning_rate": 1e-3}, train={"max_steps": 6, "batch_tokens": 1024, "max_length": 256},
    )  # fmt: skip
    shown = cli("compare", file, "-m", "dpo,reward", "--seeds", "2").stdout
    (entry, other) = json.loads(Path("out/compare.json").read_text())["runs"]
    assert entry["chosen_gains"]["delta"] == 100
    assert 40 < entry["chosen_gains"]["low"] < 100
    assert "dpo: in 100.0 % of the held-out pairs the chosen answer gained on the rejected one [" in shown
    assert (other["method"], "chosen_gains" in other) == ("reward", False), "rewards are no likelihoods"
