"""A changed recipe over the directory of an earlier run: what gives way, what is refused and in which words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.core.progress import Progress
from holdfast.pipeline.train import train
from holdfast.recipe.loader import read_recipe

RECIPE = """\
model: lab-small
data: {train: lab:sums, limit: 16}
train: {max_steps: 2, batch_tokens: 256, precision: fp32, save_every: 0.5}
sampling: {max_tokens: 16}
evaluate: {keep: [lab:strings], items: 4, live_items: 2, every: 0.5, max_tokens: 16}
output: out
"""


pytestmark = pytest.mark.usefixtures("place")


def run(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done


def said(*arguments: str, code: int = 2) -> str:
    """The one line of an error."""
    line = run(*arguments, code=code).stderr.splitlines()[-1]
    return line.removeprefix("holdfast: ")


class Killed(Exception):
    """Stands for a kill."""


class EndsBeforeTraining(Progress):
    """A voice that ends the run when the base is measured and the first step is next."""

    def start_phase(self, name: str, total: int | None = None) -> None:
        if name == "train":
            raise Killed
        super().start_phase(name, total)


def killed(*settings: str) -> None:
    """Run as far as the first step."""
    with pytest.raises(Killed):
        train(read_recipe("run.yaml", settings), ui=EndsBeforeTraining("silent"))


def samples(path: str) -> int:
    return sum('"kind": "sample"' in line for line in (Path(path) / "samples.jsonl").read_text().splitlines())


def test_a_run_that_failed_before_its_first_step_gives_way(place: Path) -> None:
    killed("train.max_length=64", "evaluate.every=0")
    drawn = samples("out")
    mended = run("train", "run.yaml", "train.max_length=128", "evaluate.every=0")
    assert (
        "out: takes the place of a run that had trained nothing yet: train.max_length is 128 here and 64 there"
        in mended.stderr
    )
    assert json.loads((place / "out" / "report.json").read_text())["training"]["steps"] == 2
    assert drawn == 8, "two tasks, four questions"
    assert samples("out") == 2 * drawn, "the base is not asked again"


def test_a_run_that_diverged_gives_way_and_is_kept_aside(place: Path) -> None:
    rate = "optimizer.learning_rate"
    assert "is not a finite number" in said("train", "run.yaml", f"{rate}=1e6", "train.max_steps=40", code=1)
    diverged = json.loads((place / "out" / "run.json").read_text())
    assert diverged["diverged"] is True
    mended = run("train", "run.yaml", f"{rate}=1e-4")
    assert (
        f"out: takes the place of a run that diverged: {rate} is 0.0001 here and 1000000.0 there, train.max_steps is 2 "
        "here and 40 there; what it had trained is now in out/diverged.old-1"
    ) in mended.stderr
    report = json.loads((place / "out" / "report.json").read_text())
    assert [point["step"] for point in report["curves"]] == [0, 1, 2]
    assert "diverged" not in json.loads((place / "out" / "run.json").read_text())
    aside = place / "out" / "diverged.old-1"
    assert "learning_rate: 1000000.0" in (aside / "resolved.yaml").read_text()
    assert (aside / "log.jsonl").exists()


def test_another_recipe_over_a_finished_run_is_refused_by_name_or_restarted(place: Path) -> None:
    run("train", "run.yaml")
    assert said("train", "run.yaml", "train.seed=5") == (
        "out: holds another run, a finished one: train.seed is 5 here and 0 there; set another output, or add "
        "--restart, which keeps the old run as out.old-1"
    )
    warned = run("check", "run.yaml", "train.seed=5").output
    assert "out: holds another run, a finished one: train.seed is 5 here and 0 there; training needs" in warned
    many = said("train", "run.yaml", "method=lora", "evaluate.items=5", "train.max_steps=3")
    assert "method is lora here and sft there, tuner.name is lora here and full there, tuner." in many
    assert " more; set another output" in many
    before = (place / "out" / "report.json").read_bytes()
    again = run("train", "run.yaml", "train.seed=5", "--restart")
    assert "out: begun anew; the run that was there is now out.old-1" in again.stderr
    assert (place / "out.old-1" / "report.json").read_bytes() == before
    assert json.loads((place / "out" / "report.json").read_text())["recipe"]["train"]["seed"] == 5
    assert "out.old-2" in run("train", "run.yaml", "train.seed=5", "--restart").stderr, "the same recipe, too"


def test_settings_that_change_no_result_are_no_other_recipe(place: Path) -> None:
    run("train", "run.yaml")
    for setting in ("sampling.slots=4", "train.keep_checkpoints=3", "train.save_every=0.3"):
        assert "already finished" in run("train", "run.yaml", setting).stderr


def test_an_unfinished_run_with_checkpoints_is_refused(place: Path) -> None:
    run("train", "run.yaml")
    mark = place / "out" / "run.json"
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "finished": False}))
    line = said("train", "run.yaml", "optimizer.learning_rate=1e-3")
    assert line.startswith("out: holds another run, unfinished, trained as far as step-000002: optimizer.learning_rate")
    run("train", "run.yaml")  # the same goes on
    (place / "out" / "resolved.yaml").write_text("nonsense: 1\n")
    assert said("train", "run.yaml", "train.seed=3").startswith("out: holds another run, a finished one; set another")


def test_a_run_at_work_is_left_alone(place: Path) -> None:
    from holdfast.generation.journal import Journal

    killed("train.max_length=64")
    with Journal(place / "out" / "samples.jsonl"):
        for more in ((), ("--restart",)):
            assert "another run is writing it" in said("train", "run.yaml", "train.seed=1", *more)
    assert "seed: 0" in (place / "out" / "resolved.yaml").read_text()


def test_an_output_that_is_no_run(place: Path) -> None:
    (place / "out").write_text("x")
    assert said("train", "run.yaml") == (
        "out: is a file, and a run needs a directory; set another output, or move the file away"
    )
    (place / "dir").mkdir()
    (place / "dir" / "notes.txt").write_text("x")
    for more in ((), ("--restart",)):
        assert said("train", "run.yaml", "output=dir", *more) == (
            "dir: is not empty and not a run of holdfast; set another output"
        )


def test_curate_restarts_too(place: Path) -> None:
    run("curate", "run.yaml")
    assert "is now out.old-1" in run("curate", "run.yaml", "--restart").stderr
    assert (place / "out.old-1" / "curated.jsonl").read_bytes() == (place / "out" / "curated.jsonl").read_bytes()


def test_stages_give_way_too(place: Path) -> None:
    stages = "stages=[{name: one, train: {max_length: 32}}, {name: two, method: sft}]"
    killed(stages)
    mended = run("train", "run.yaml", stages.replace("max_length: 32", "max_length: 128"))
    assert "out/stages/1-one: takes the place of a run that had trained nothing yet" in mended.stderr
    line = said("train", "run.yaml", stages.replace("max_length: 32", "max_length: 64"))
    assert line.startswith("out: holds another run, a finished one: stages.one.train.max_length is 64 here and 128 ")
    run("train", "run.yaml", stages, "stages.one.train.max_length=64", "--restart")
    assert (place / "out.old-1" / "stages" / "2-two" / "report.json").exists()
