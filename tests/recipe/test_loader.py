"""Recipe files: lines, nearest names, overrides, and a resolved recipe that is a recipe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from holdfast.axes.registry import name_of
from holdfast.errors import UserError
from holdfast.recipe import yaml_reader, yaml_writer
from holdfast.recipe.loader import format_resolved_yaml, read_recipe, resolve_any, switch_method
from holdfast.recipe.shorthand import METHODS
from holdfast.recipe.template import build_template

MINIMAL = "model: lab\nmethod: s3ft\ndata: {train: lab:story}\n"


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def errors(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        read_recipe(path, overrides)
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


def test_all_errors_at_once_each_with_its_line(write) -> None:
    path = write(
        "model: lab\n"
        "method: s3tf\n"
        "data:\n"
        "  train: lab:story\n"
        "  fromat: alpaca\n"
        "train:\n"
        "  learning_rat: 1e-4\n"
        "  epochs: three\n"
        "  max_steps: 1.5\n"
        "  layout: pakced\n"
        "optimizer: {weight_deccay: 0.1}\n"
        "tuner: {name: lora, rnak: 3}\n"
        "evaluate: {gate: 3, keep: {a: 1}}\n"
    )
    assert errors(path) == [
        "recipe.yaml:2: method: s3tf is not a method; did you mean s3ft?",
        "recipe.yaml:5: data.fromat is not a setting; did you mean data.format?",
        "recipe.yaml:7: train.learning_rat is not a setting; did you mean optimizer.learning_rate?",
        "recipe.yaml:8: train.epochs must be a number, not 'three'",
        "recipe.yaml:9: train.max_steps must be a whole number, not 1.5",
        "recipe.yaml:10: train.layout must be auto, padded or packed, not 'pakced'; did you mean packed?",
        "recipe.yaml:11: optimizer.weight_deccay is not a setting; did you mean optimizer.weight_decay?",
        "recipe.yaml:12: tuner.rnak is not a setting; did you mean tuner.r?",
        "recipe.yaml:13: evaluate.gate must be a mapping of `max_loss`, `max_bits`, `max_kl`, `min_gain`, not 3",
        "recipe.yaml:13: evaluate.keep must be a list, not a mapping",
    ]


def test_what_is_missing_is_described(write) -> None:
    assert errors(write("method: sft\ndata:\n  test: 0.2\n")) == [
        "recipe.yaml: model is missing: Path, run directory, Hugging Face name, or a laboratory model, such as `lab`.",
        "recipe.yaml:2: data.train is missing: Training file (JSONL, JSON, CSV, Parquet, text), `lab:SKILL`, or a "
        "Hugging Face data set name; or `{path, split, columns, share, ...}`; or a list of these.",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty recipe"),
        ("# only this\n", "empty recipe"),
        ("- a\n- b\n", r"recipe.yaml:1: a recipe is a mapping"),
        ("model: [lab\n", r"recipe.yaml:1: not valid YAML: the \[ is not closed; add \]"),
        ("model: lab\n\tmethod: sft\n", r"recipe.yaml:2: not valid YAML: a tab; indent with spaces"),
        ("data: {train: a\ntrain: {seed: 1}\n", r"recipe.yaml:1: not valid YAML: the { is not closed; add }"),
        ("model:lab\n\nmethod: sft\n", r":1: not valid YAML: no space after the colon of model; write model: lab$"),
        (MINIMAL + "output:runs/x\n", r":4: not valid YAML: no space after the colon of output; write output: runs/x"),
        (MINIMAL + "train:\n  epochs:3\n  seed: 1\n", r":5: not valid YAML: no space after the colon of epochs"),
        (MINIMAL + "train:{epochs: 1}\n", r":4: train:{epochs is not a setting; is a space missing after the colon"),
        ("model: lab\n  method: sft\n", r":2: not valid YAML: an indented setting below model:, which has a value"),
        ("data: {system: 'abc}\nmodel: lab\n", r"recipe.yaml:1: not valid YAML: a quote is opened and not closed"),
        ("model: lab\nsystem: Say: yes\n", r":2: not valid YAML: a colon inside the text; put the text into quotes"),
        (MINIMAL + "model: lab-small\n", r"recipe.yaml:4?1?: model is given twice \(lines 1 and 4\)"),
        (MINIMAL + "train: {seed: 1, seed: 2}\n", r"train.seed is given twice"),
        (MINIMAL + "lerning_rate: 1\n", r"recipe.yaml:4: lerning_rate is not a setting; did you mean optimizer"),
        (MINIMAL + "num_train_epoch: 1\n", r"recipe.yaml:4: num_train_epoch is not .*mean train.epochs\?"),
        (MINIMAL + "qqqqqq: 1\n", r"recipe.yaml:4: qqqqqq is not a setting; known: model, method"),
        (MINIMAL + "epochs: 1\n", r"recipe.yaml:4: epochs is not a setting; did you mean train.epochs\?"),
        (MINIMAL + "lr: 1\noptimizer: {learning_rate: 2}\n", r"recipe.yaml:4: lr means optimizer.learning_rate, which"),
        (MINIMAL + "curate: {name: s3ft, paraprase: true}\n", r":4: curate.paraprase is not .* curate.paraphrase\?"),
        (MINIMAL + "curate: [sdft, {name: s3ft, q: 1}]\n", r"recipe.yaml:4: curate.1.q is not a setting"),
        (MINIMAL + "train:\n  epochs:\n", r"recipe.yaml:5: train.epochs must be a number, not empty"),
        (MINIMAL + "objective: dpo\n", r"recipe.yaml: objective dpo trains on pairs"),
    ],
)
def test_bad_files(write, text: str, message: str) -> None:
    assert re.search(message, "\n".join(errors(write(text))))


def test_files_that_are_not_there(tmp_path: Path, write) -> None:
    assert errors(tmp_path / "none.yaml") == ["none.yaml: no such recipe; `holdfast init` writes one"]
    write(MINIMAL)
    assert "here are recipe.yaml" in errors(tmp_path / "none.yaml")[0]
    (tmp_path / "latin.yaml").write_bytes(b"model: caf\xe9\n")
    assert "not UTF-8" in errors(tmp_path / "latin.yaml")[0]


def test_overrides(write) -> None:
    path = write(MINIMAL + "tuner: lora\ntrain: {epochs: 1}\n")
    settings = [
        "optimizer.learning_rate=3e-5",
        "train.epochs=2",
        "tuner.r=4",
        "curate.paraphrase=false",
        "judge=number",
    ]
    resolved = read_recipe(path, [*settings, "evaluate.keep=[lab:sums, text:a.txt]", "data.system="])
    recipe = resolved.recipe
    assert recipe.optimizer.learning_rate == 3e-5
    assert recipe.train.epochs == 2
    assert recipe.tuner.r == 4  # type: ignore[attr-defined]
    assert recipe.curate[0].paraphrase is False  # type: ignore[attr-defined]
    assert recipe.evaluate.keep == ("lab:sums", "text:a.txt")
    assert recipe.data.system is None
    sources = resolved.sources
    assert sources["train.epochs"] == sources["optimizer.learning_rate"] == sources["tuner.r"] == "command line"
    assert sources["tuner.name"] == f"{path}:4"
    assert sources["curate.0.paraphrase"] == "command line"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.learning_rat=1", "command line: optimizer.learning_rat is not a setting; did you mean optimizer.l"),
        ("train.epochs=many", "command line: train.epochs must be a number, not 'many'"),
        ("train.epochs", "command line: train.epochs is not setting=value"),
        ("model.name=1", "command line: model.name is not a setting: 'lab' holds no name"),
        ("curate.3.name=sft", "command line: curate.3.name: 3 is not one of its 1 items"),
        ("train.epochs=[1", "command line: train.epochs:1: not valid YAML"),
    ],
)
def test_bad_overrides(write, override: str, message: str) -> None:
    path = write("model: lab\ncurate: [s3ft]\ndata: {train: lab:story}\n")
    assert errors(path, override)[0].startswith(message)


def test_every_default_says_where_it_came_from(write) -> None:
    path = write(MINIMAL + "num_train_epochs: 2\n")
    sources = read_recipe(path, ["train.seed=1"]).sources
    assert sources["train.epochs"] == f"{path}:4"
    assert sources["train.seed"] == "command line"
    assert sources["curate.0.name"] == "method s3ft"
    assert sources["curate.0.paraphrase"] == "paper"
    assert sources["optimizer.learning_rate"] == "derived: laboratory model"
    assert sources["optimizer.betas"] == "paper"
    assert sources["train.max_length"] == sources["tuner.name"] == sources["optimizer.schedule"] == "default"
    assert read_recipe(path).notes == (f"{path}:4: num_train_epochs is read as train.epochs",)


@pytest.mark.parametrize("method", ["sft", "s3ft+lora", "dpo", "half+lomo"])
def test_resolved_yaml_is_the_same_recipe(write, tmp_path: Path, method: str) -> None:
    resolved = read_recipe(
        write(MINIMAL.replace("s3ft", method)),
        [
            "data.system='Say: \"yes\" # no'",
            "sampling.stop=['\\n', 'no', '1e3']",
            "judge=number",
            "train.save_every=1e-7",
        ],
    )
    text = format_resolved_yaml(resolved)
    again = read_recipe(write(text, "resolved.yaml"))
    assert again.recipe == resolved.recipe
    assert yaml.safe_load(text) == resolved.recipe.model_dump(mode="json"), "any YAML 1.1 reader agrees"
    assert read_recipe(tmp_path).recipe == resolved.recipe, "a run directory is a recipe"
    leaves = [line for line in text.splitlines()[1:] if not line.rstrip().endswith(":")]
    assert [line for line in leaves if "  # " not in line] == []


@pytest.mark.parametrize(
    "value",
    ["1e-4", "no", "12:30", "a: b", "# x", "", " x", "null", "~", "0x1f", "yes", "{x}", "é", "x\ny", "2001-01-01", "-",
     "- a", "runs/{method}-{data}", "text:a b.txt", "lab:story", 1e-05, 1e22, 3.0, 7, True, None, ["a", "1"], 1e-300,
     "1_000", ".5"],
)  # fmt: skip
def test_scalars_survive(value: object) -> None:
    text = f"key: {yaml_writer.format_scalar(value)}\n"
    assert yaml_reader.parse_yaml(text, "t")[0].plain_data() == {"key": value}
    assert yaml.safe_load(text) == {"key": value}


def test_scalars_follow_yaml_1_2() -> None:
    tree, _ = yaml_reader.parse_yaml("a: 1e-4\nb: no\nc: 12:30\nd: 2020-01-01\ne: 010\nf: '1'\ng: [1, .5, ~]\n", "t")
    assert tree.plain_data() == {
        "a": 1e-4,
        "b": "no",
        "c": "12:30",
        "d": "2020-01-01",
        "e": 10,
        "f": "1",
        "g": [1, 0.5, None],
    }
    assert tree.source_of(("g", 1)) == "t:7"


def test_paths_beside_the_recipe(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    write("x\n", "rows.jsonl")
    write("x\n", "prose.txt")
    path = write(
        "model: lab\ndata: {train: rows.jsonl, test: other.jsonl}\nevaluate: {keep: ['text:prose.txt', lab]}\n"
    )
    resolved = read_recipe(path)
    assert resolved.recipe.data.train == str(tmp_path / "rows.jsonl")
    assert resolved.recipe.data.test == "other.jsonl"
    assert resolved.recipe.evaluate.keep == (f"text:{tmp_path / 'prose.txt'}", "lab")
    assert len(resolved.notes) == 2
    (elsewhere / "rows.jsonl").write_text("x\n")
    assert read_recipe(path).recipe.data.train == "rows.jsonl", "the current directory comes first"


def test_switching_methods_for_a_comparison(write) -> None:
    path = write(
        "model: other/model\nmethod: s3ft\ndata: {train: a.jsonl}\n"
        "curate: [{name: s3ft, paraphrase: false}, {name: replay, path: b.jsonl}]\ntrain: {epochs: 2}\n"
    )
    resolved = read_recipe(path)
    among = ["sft", "s3ft", "lora"]
    sft = switch_method(resolved, "sft", among, train__seed=3, output="out").recipe
    s3ft = switch_method(resolved, "s3ft", among).recipe
    lora = switch_method(resolved, "lora", among).recipe
    replay = resolved.recipe.curate[1]
    assert (sft.curate, sft.train.seed, sft.train.epochs, sft.output) == ((replay,), 3, 2.0, "out")
    assert s3ft == resolved.recipe
    assert lora.curate == (replay,)
    assert lora.optimizer.learning_rate > sft.optimizer.learning_rate, "derived defaults are derived anew"
    assert switch_method(resolved, "sft", among).sources["train.epochs"] == f"{path}:5"


def test_as_resolved_takes_what_people_have(write) -> None:
    path = write(MINIMAL)
    recipe = read_recipe(path).recipe
    given = {"model": "lab", "method": "s3ft", "data": {"train": "lab:story"}}
    assert resolve_any(path).recipe == resolve_any(given).recipe == resolve_any(recipe).recipe == recipe
    assert resolve_any(recipe, ["train.seed=5"]).recipe.train.seed == 5
    again = resolve_any(read_recipe(path), ["train.seed=5"])
    assert (again.recipe.train.seed, again.sources["method"]) == (5, f"{path}:2"), "lines survive further overrides"
    with pytest.raises(UserError, match=r"recipe: train.epochs must be a number, not 'x'"):
        resolve_any({**given, "train": {"epochs": "x"}})
    assert resolve_any(recipe).sources["tuner.name"] == "default"


NEED_A_MODEL = ("proxy", "dexperts", "contrastive", "pretty")
"""Methods that say nothing without another model, which only the user can name."""


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_template_is_a_recipe_commented_and_uncommented(write, method: str) -> None:
    text = build_template(method=method)
    assert max(map(len, text.splitlines())) <= 120
    if method in ("replay", "less", "dpo", "tis_dpo", *NEED_A_MODEL):  # the user has something to add
        return
    plain = read_recipe(write(text)).recipe
    assert plain.method == method
    body = [line for line in text.splitlines() if not re.match(r"# (A Holdfast|Look|Then)", line)]
    uncommented = [re.sub(r"^( {0,8})#( )", r"\1 \2" if re.match(r"#  ", line) else r"\1", line) for line in body]
    everything = write("\n".join(uncommented), "all.yaml")
    curate = yaml_writer.format_scalar(plain.user_settings().get("curate", []))
    whole = read_recipe(everything, [f"curate={curate}", "stages=[]"])
    assert whole.recipe.train == plain.train
    assert whole.recipe.data.replay is not None


def test_recipes_have_a_size(tmp_path: Path) -> None:
    def bomb(leaf: str, inner: str) -> str:
        lines = [f"a0: &a0 {leaf}"]
        return "\n".join([*lines, *(f"a{i}: &a{i} " + inner.replace("*", f"*a{i - 1}") for i in range(1, 10))])

    unknown = "".join(f"k{i}: 1\n" for i in range(300))
    for text, words in (
        (bomb("[x, x, x, x, x, x]", "[*, *, *, *, *, *]"), "has more than 10,000 values"),
        (bomb("{x: 1}", "{a: *, b: *, c: *, d: *, e: *, f: *}"), "has more than 10,000 values"),
        ("model: &m [*m]", ":1: an alias inside of what it stands for"),
        ("train: &a {model: *a}", ":1: an alias inside of what it stands for"),
        ("a: " + "[" * 500 + "]" * 500, ":1: more than 50 values inside each other"),
        ("a: " + "{b: " * 500, ":1: more than 50 values inside each other"),
        ("[" * 300_000, "is larger than 256 KiB"),
        ("model: lab-small\ntrain:\n  max_steps: " + "9" * 5000, ":3: train.max_steps: a number of 5,000 digits"),
        (unknown, "and 252 more problems like these"),
        ("k" * 900 + ": 1", "is not a setting"),
        ("model: lab-small\noutput: \"a\\0b\"", ":2: output: holds a NUL or half a character"),
    ):  # fmt: skip
        (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(UserError) as error:
            read_recipe(tmp_path / "r.yaml")
        assert words in str(error.value)
        assert len(str(error.value)) < 100_000
    with pytest.raises(UserError, match="larger than"):
        read_recipe("/dev/zero")


def test_a_method_laid_over_a_resolved_recipe_brings_its_own_optimizer() -> None:
    recipe = {"model": "lab-small", "data": {"train": "lab:story"}, "optimizer": {"learning_rate": 1e-3}}
    for before in ([], ["method=adafactor"]):
        arm = resolve_any(resolve_any(recipe, before), ["method=sgd", "optimizer.max_grad_norm=0"]).recipe.optimizer
        assert (name_of(arm), arm.learning_rate, arm.max_grad_norm) == ("sgd", 1e-3, 0)
    own = resolve_any(resolve_any(recipe, ["optimizer=adafactor"]), ["method=dpo"]).recipe
    assert (name_of(own.optimizer), name_of(own.objective)) == ("adafactor", "dpo")
