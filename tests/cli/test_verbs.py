"""The verbs inside one process: help pages, listing, init, errors to exit codes, and what is printed."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from holdfast.axes.axis import AXES
from holdfast.axes.engine import Sample, SamplingParams
from holdfast.axes.registry import method_names, name_of
from holdfast.axes.tuner import TRAIT_COLUMNS
from holdfast.cli import render
from holdfast.cli.app import VERBS, app
from holdfast.cli.chat import AnswerPrinter, answer_questions, compare_answers
from holdfast.cli.common import open_session, parse_count_or_list
from holdfast.cli.text import display_width, format_columns, format_table
from holdfast.errors import GateRefused, RunError, UserError, UserErrors, UserInterrupt
from holdfast.recipe.loader import read_recipe
from holdfast.recipe.method_text import parse_method

runner = CliRunner()

HELP = [[name] for name, _, _ in VERBS] + [[], ["lab"], ["lab", "build"], ["lab", "describe"]]


def run(*arguments: str, code: int = 0, stdin: str | None = None):
    done = runner.invoke(app, list(arguments), input=stdin)
    assert done.exit_code == code, (done.output, done.exception)
    return done


@pytest.mark.parametrize("verb", HELP, ids=lambda v: " ".join(v) or "holdfast")
def test_help_fits_and_starts_with_an_example(verb: list[str]) -> None:
    lines = run(*verb, "--help").stdout.splitlines()
    assert len(lines) <= 40
    example = next(line for line in lines[1:] if line.strip())
    assert example.strip().startswith(" ".join(["holdfast", *verb]).strip())
    assert run(*verb, "-h").stdout.splitlines() == lines


def test_without_a_verb_there_is_help() -> None:
    assert "Commands:" in run().stdout
    assert "describe" in run("lab").stdout


def test_list_names_every_method_with_its_paper() -> None:
    text = run("list").stdout
    for axis in AXES:
        assert f"{axis.plural}: " in text
        for name in method_names(axis.plural):
            assert f"\n{name} " in text
    assert "1711.05101" in text
    assert "objectives:" not in run("list", "tuners").stdout
    assert "did you mean curators?" in run("list", "curator", code=2).stderr


def test_list_for_machines() -> None:
    (line,) = run("list", "--json").stdout.splitlines()
    methods = json.loads(line)["methods"]
    assert {(m["axis"], m["name"]) for m in methods} == {(a.plural, n) for a in AXES for n in method_names(a.plural)}
    assert all(m["summary"] and "\n" not in m["summary"] for m in methods)
    (traits,) = (m["traits"] for m in methods if m["name"] == "lora")
    assert list(traits) == list(TRAIT_COLUMNS)
    assert traits["kind"] == "reparametrised"


def test_list_of_tuners_says_what_each_declares() -> None:
    text = run("list", "tuners").stdout
    assert all(column in text for column in TRAIT_COLUMNS)
    assert re.search(r"\nfull +selective +P +plain +no +yes +all\n", text)
    assert "comes off" not in run("list", "judges").stdout


@pytest.mark.parametrize("name", sorted({name for axis in AXES for name in method_names(axis.plural)}))
def test_show_prints_page_and_knobs(name: str) -> None:
    text = run("show", name).stdout
    assert text.startswith(f"{name} (")
    assert "knob" in text


def test_show_parts_of_the_recipe() -> None:
    text = run("show", "train").stdout
    assert "train.epochs" in text
    assert "data.train" not in text
    whole = run("show", "recipe").stdout
    assert "evaluate.gate.max_loss" in whole
    assert "data.train" in whole
    assert "did you mean s3ft?" in run("show", "s3tf", code=2).stderr


def test_init_writes_a_recipe_and_never_over_another(tmp_path: Path) -> None:
    file = tmp_path / "new" / "run.yaml"
    run("init", str(file), "--method", "half", "--data", "mine.jsonl")
    recipe = read_recipe(file).recipe
    assert (recipe.method, recipe.data.train, recipe.model) == ("half", "mine.jsonl", "lab")
    assert "--force" in run("init", str(file), code=2).stderr
    run("init", str(file), "--force")
    assert read_recipe(file).recipe.method == "s3ft"
    assert "did you mean s3ft?" in run("init", str(tmp_path / "x.yaml"), "--method", "s3tf", code=2).stderr
    assert not (tmp_path / "x.yaml").exists()


@pytest.mark.parametrize("verb", ["train", "check", "compare", "curate"])
def test_a_recipe_that_is_not_there(verb: str) -> None:
    assert run(verb, "nowhere.yaml", code=2).stderr.startswith("holdfast: nowhere.yaml: no such recipe")


def test_usage_errors_are_2() -> None:
    assert "did you mean" in run("trian", code=2).stderr.lower()
    assert "--nope" in run("train", "r.yaml", "--nope", code=2).stderr
    assert "--dial" in run("export", "a", "b", "--dial", "1.5", code=2).stderr
    assert run("train", code=2).stderr


def test_compare_checks_methods_and_seeds_first(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("model: lab\ndata: {train: lab:story}\n")
    assert "did you mean s3ft?" in run("compare", str(file), "--methods", "sft,s3f", code=2).stderr
    assert "--seeds must be a count" in run("compare", str(file), "--seeds", "x", code=2).stderr
    assert (parse_count_or_list("3", "n"), parse_count_or_list("0,7", "n"), parse_count_or_list("4,", "n")) == (
        3,
        [0, 7],
        [4],
    )


def test_a_judge_for_eval(tmp_path: Path) -> None:
    assert name_of(parse_method("judges", "number", "--judge")) == "number"
    assert parse_method("judges", "{name: overlap}", "--judge") == parse_method("judges", "overlap", "--judge")
    for wrong, said in {
        "numbr": "did you mean number?",
        "{name: number, q: 1}": "q, Extra",
        "[1": "not valid YAML",
    }.items():
        with pytest.raises(UserError, match=re.escape(said)):
            parse_method("judges", wrong, "--judge")
    file = tmp_path / "dial.yaml"
    file.write_text("name: dial\npoint: 0.25\n")
    assert parse_method("inference", str(file), "--inference").point == 0.25
    with pytest.raises(UserError, match=r"none.yaml: there is no such file"):
        parse_method("inference", str(tmp_path / "none.yaml"), "--inference")


def test_export_never_writes_over_something(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    (tmp_path / "run").mkdir()
    assert "no such run" in run("export", str(tmp_path / "none"), str(tmp_path / "new"), code=2).stderr
    assert "is not empty" in run("export", str(tmp_path / "run"), str(tmp_path / "full"), code=2).stderr


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("a.jsonl:3: broken"), 2, "holdfast: a.jsonl:3: broken\n"),
        (UserErrors("one\ntwo"), 2, "holdfast: one\nholdfast: two\n"),
        (UserError("a name\nin two lines"), 2, "holdfast: a name\N{REPLACEMENT CHARACTER}in two lines\n"),
        (RunError("loss is NaN"), 1, "holdfast: loss is NaN\n"),
        (GateRefused("no"), 3, "holdfast: no\n"),
        (UserInterrupt("saved; go on with: x"), 130, "holdfast: saved; go on with: x\n"),
        (KeyboardInterrupt(), 130, "holdfast: interrupted\n"),
        (ValueError("odd\nmore"), 1, "holdfast: ValueError: odd (run again with -v for the traceback)\n"),
        (OSError(errno.ENOSPC, "x", "/d/f"), 1, "holdfast: /d/f: no space left"),
        (PermissionError(errno.EACCES, "x", "/d/f"), 2, "holdfast: /d/f: permission denied"),
        (OSError(errno.EROFS, "x", "/d/f"), 2, "holdfast: /d/f: the file system is read-only"),
    ],
)
def test_every_error_is_one_line_and_a_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as left, open_session():
        raise error
    assert left.value.exit_code == code
    text = capsys.readouterr()
    assert text.err.startswith(line)
    assert text.out == ""
    with pytest.raises(typer.Exit), open_session(as_json=True):
        raise error
    assert json.loads(capsys.readouterr().out)["code"] == code


REPORT = {
    "name": "x",
    "recipe": {"method": "s3ft"},
    "tasks": [
        {"name": "sums", "role": "keep", "n": 99, "base": 95.0, "tuned": 94.5, "delta": -0.5,
         "low": -2.0, "high": 1.0},
        {"name": "story", "role": "target", "n": 99, "base": 41.0, "tuned": 58.5, "delta": 17.5,
         "low": 12.0, "high": 23.0},
    ],
    "gain": {"delta": 17.5, "low": 12.0, "high": 23.0, "n": 200},
    "loss": {"delta": 0.5, "low": -1.0, "high": 2.0, "worst": "sums"},
    "gate": {"passed": False, "reasons": ["lost 0.5 points, more than 0.1"]},
}  # fmt: skip


def test_a_run_is_summed_up() -> None:
    text = render.format_report(REPORT, "runs/x")
    story, sums = (next(line for line in text.splitlines() if name in line.split()) for name in ("story", "sums"))
    assert "+17.5" in story
    assert "[+12.0, +23.0]" in story
    assert "\u22120.5" in sums
    assert text.index("story") < text.index("\nkeep")
    assert text.endswith("report: runs/x/report.html")
    with pytest.raises(GateRefused, match=r"more than 0\.1"):
        render.refuse_if_gated(REPORT)
    render.refuse_if_gated({**REPORT, "gate": None})


def test_a_single_model_is_summed_up() -> None:
    alone = [{"name": "sums", "role": "keep", "n": 10, "base": None, "tuned": 94.5, "delta": None}]
    text = render.format_report({"tasks": alone, "gain": None, "loss": None}, None)
    assert text.splitlines()[-1].split() == ["keep", "sums", "94.5", "10"]


def test_report_writes_the_page_again(tmp_path: Path) -> None:
    assert "neither report.json nor compare.json" in run("report", str(tmp_path), code=2).stderr
    (tmp_path / "resolved.yaml").write_text("model: lab\n")
    assert "not finished" in run("report", str(tmp_path), code=2).stderr
    (tmp_path / "report.json").write_text("{")
    assert "report.json: damaged; the holdfast train command of" in run("report", str(tmp_path), code=2).stderr


def test_a_comparison_marks_the_front() -> None:
    runs = [
        {"method": "sft", "seeds": [0, 1], "gain": {"delta": 20.0, "low": 15.0, "high": 25.0}, "pareto": False,
         "loss": {"delta": 30.0, "low": 25.0, "high": 35.0}, "origins": {"gold": 10},
         "cost": {"seconds": {"train": 120}}},
        {"method": "s3ft", "seeds": [0, 1], "gain": {"delta": 21.0, "low": 16.0, "high": 26.0}, "pareto": True,
         "loss": {"delta": 2.0, "low": 1.0, "high": 3.0}, "origins": {"model": 9, "gold": 1}, "cost": {}},
    ]  # fmt: skip
    text = render.format_comparison({"runs": runs, "budget": "3 epochs", "directory": "runs/c"}, None)
    lines = text.splitlines()
    assert lines[1].startswith("* s3ft ")
    assert lines[2].startswith("  sft ")
    assert "30.0  [25.0, 35.0]" in " ".join(lines[2].split(" ")).replace("   ", "  ")
    assert "90 % model, 10 % gold" in lines[1]
    assert "2m" in lines[2]
    assert "2 seeds each" in text
    assert "3 epochs" in text


def test_a_check_shows_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "rows": {"train": 900, "format": "alpaca", "trained_tokens": 12345, "dropped": {"too long": 3, "empty": 0}},
        "lengths": {"edges": [0, 10, 20], "counts": [5, 10]},
        "examples": [[{"text": "user: hi\n", "trained": False}, {"text": "hello<eot>", "trained": True}]],
        "plan": {"steps": 120},
        "estimate": {"memory_gib": 2.5, "seconds": 300, "sampling_seconds": 7200, "measuring_seconds": None},
        "warnings": ["2 rows of train are in test too"],
    }
    text = render.format_check(found)
    assert "user: hi\n»hello<eot>«" in text
    for part in (
        "900",
        "12,345",
        "dropped: too long",
        "2.50 GiB",
        "about 5m",
        "at most 2h 00m",
        "120",
        "warning: 2 rows",
    ):
        assert part in text
    assert "measuring" not in text
    assert "dropped: empty" not in text
    bars = [line.count("█") for line in text.splitlines() if "█" in line]
    assert bars[1] == 2 * bars[0]


def test_tables_align_wide_letters_and_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = format_table([("日本", "1"), ("ab", "22")], ("x", "n"), right=(1,))
    assert [display_width(line) for line in text.splitlines()] == [8, 8, 8]
    folded = format_table([("name", "word " * 20)], wrap=(1,))
    assert max(map(len, folded.splitlines())) <= 40
    assert folded.count("word") == 20
    assert format_table([]) == ""


class Echo:
    """An engine that answers with the number of messages it was shown."""

    fingerprint = "echo"

    def sample(self, requests, params: SamplingParams):
        for request, _ in requests:
            text = f"{len(request.messages)}:{request.messages[-1]['content']}"
            yield Sample(request.key, 0, text, "length" if params.max_tokens == 1 else "stop", 1)


@pytest.mark.parametrize(
    ("once", "expected"), [(False, ["2:a", "4:b", "2:c"]), (True, ["2:a", "2:b", "2:c"])], ids=["chat", "once"]
)
def test_chat_keeps_the_conversation(
    once: bool, expected: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "in").write_text("a\nb\n\nc")
    with (tmp_path / "in").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        answer_questions(Echo(), SamplingParams(max_tokens=8), "be brief", once)
    assert capsys.readouterr().out.splitlines() == expected


def test_chat_shows_two_models_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [run("chat", name, "--once", stdin="What is 3 + 4?\n").stdout.strip() for name in ("lab-small", "lab")]
    monkeypatch.setenv("COLUMNS", "60")
    lines = run("chat", "lab-small", "--against", "lab", "--once", stdin="What is 3 + 4?\n").stdout.splitlines()
    assert [line.split() for line in lines] == [["lab-small", "lab"], alone]
    assert {lines[0].index(" lab"), lines[1].rindex(f" {alone[1]}")} == {30}
    assert run("chat", "lab", "--against", "lab", stdin="", code=2).stderr.count("\n") == 1


def test_chat_goes_on_with_each_models_own_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "in").write_text("a\nb\n\nc")
    with (tmp_path / "in").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setenv("COLUMNS", "50")
        compare_answers({"one": Echo(), "two": Echo()}, SamplingParams(max_tokens=1), None, False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        row for text in ("1:a", "3:b", "1:c") for row in (["one", "two"], [text, "[cut]"] * 2)
    ]  # fmt: skip


def test_columns_fold_wide_and_long_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "43")
    text = format_columns(["a", "b"], ["ab " * 12 + "\n  in", "東京" * 6])
    assert text.splitlines() == [
        f"a{' ' * 22}b", f"ab ab ab ab ab ab ab{' ' * 3}{'東京' * 5}", f"ab ab ab ab ab{' ' * 9}東京", "  in",
    ]  # fmt: skip


def test_chat_shows_an_answer_as_it_grows(capsys: pytest.CaptureFixture[str]) -> None:
    printed, answer = [], AnswerPrinter()
    for so_far in ("", "4", "4 \ufffd", "4 € ", "4 € a"):
        answer.print_new_text(so_far)
        printed.append(capsys.readouterr().out)
    answer.print_rest("4 € a cup", " [cut]")
    assert [*printed, capsys.readouterr().out] == ["", "4", "", " € ", "a", " cup [cut]\n"]
    answer.print_new_text("next")
    answer.print_rest("other", "")
    assert capsys.readouterr().out == "next\nother\n"


def test_chat_says_why_the_engine_declines_its_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast.generation import static_cache
    from holdfast.generation.native import NativeEngine

    monkeypatch.setattr(NativeEngine, "static_devices", frozenset({"cpu"}))
    monkeypatch.setattr(static_cache, "free_bytes", lambda device: 0)
    done = run("chat", "lab-small", "--once", "--max-tokens", "4", stdin="What is 3 + 4?\nWhat is 3 + 5?\n")
    assert done.stderr.count("decoding without CUDA graphs: memory for") == 1
    assert len(done.stdout.splitlines()) == 2


def test_env_names_versions() -> None:
    text = run("env").stdout
    for name in ("holdfast", "python", "torch", "cores"):
        assert f"\n{name} " in f"\n{text}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dry-run"], "--dry-run: holdfast check RECIPE looks at everything and trains nothing"),
        (["--learning_rate", "1e-4"], "in dotted names: optimizer.learning_rate=1e-4"),
        (["--learning-rate=1e-4"], "in dotted names: optimizer.learning_rate=1e-4"),
        (["--lora_r", "8"], "--lora_r: settings stand without dashes, in dotted names: tuner.r=8"),
        (["--train.epochs", "2"], "in dotted names: train.epochs=2"),
        (["--epochs"], "in dotted names: train.epochs=VALUE"),
        (["--deepspeed", "z.json"], "--deepspeed: not supported: several GPUs are used by `accelerate launch"),
    ],
)
def test_settings_written_as_options(arguments: list[str], said: str) -> None:
    for verb in ("train", "check", "compare", "curate"):
        assert said in run(verb, "r.yaml", *arguments, code=2).stderr


def test_completion_can_be_installed() -> None:
    assert "--install-completion" in run("--help").stdout
