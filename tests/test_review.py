"""Defects that a review of the package found by hand, each held down by a test: one list of them all."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from holdfast.data.reading import readers
from holdfast.data.reading.formats import open_rows

TESTS = Path(__file__).parent
HELD_BY = {
    "a loss edited between two runs is answered with the numbers of before":
        "axes/test_own_class.py::test_an_edited_class_is_never_answered_with_numbers_of_before",
    "rows of an edited curator are taken for those of before":
        "axes/test_own_class.py::test_rows_of_an_edited_curator_are_curated_again",
    "method, compare, show and list refuse module:Class":
        "axes/test_own_class.py::test_a_class_stands_wherever_a_name_stands",
    "the card of a foreign adapter says transformers":
        "methods/tuners/test_own.py::test_what_peft_knows_is_an_adapter_that_peft_reads",
    "an adapter with files of its own has no card that loads it":
        "methods/tuners/test_own.py::test_a_tuner_with_a_file_of_its_own_is_read_by_its_class",
    "a tuner that cannot work is refused after the sampling":
        "methods/tuners/test_own.py::test_a_wrong_tuner_is_refused_before_anything_is_there",
    "mending the tuner loses the curated rows":
        "methods/tuners/test_own.py::test_rows_that_are_curated_are_used_again_where_only_the_training_changes",
    "fast paths skip forward hooks and patched forwards":
        "models/test_hooks.py::test_hooks_and_patches_are_obeyed",
    "an ensemble of logits changes nothing, and is reported as the tuned model":
        "pipeline/test_inference.py::test_an_ensemble_is_what_is_measured_talked_to_evaluated_and_said",
    "neutral and original ends of an inference method are not exact":
        "methods/inference/test_decoder.py::test_declared_ends_are_exact",
    "an objective with a preparation and without its flag dies of a bare assertion":
        "cli/test_own_objective.py::test_prepare_and_survey_run_because_they_are_there",
    "an import upward, also inside a function, is not seen":
        "test_architecture.py::test_an_import_upward_is_seen",
    "the tests of side-by-side steps need two cores":
        "training/test_threaded_step.py::test_gradients_are_those_of_one_pass",
    "a row goes through more places than a page can walk":
        "test_architecture.py::test_the_page_names_files_that_are_there_and_needs_few_of_them",
    "errors after curation name positions in curated.jsonl":
        "cli/test_row_places.py::test_places_go_with_the_rows_through_curation_and_training",
    "a cache in the home directory becomes a directory called ~":
        "test_review.py::test_a_cache_in_the_home_directory_is_there",
}  # fmt: skip


@pytest.mark.parametrize("defect", HELD_BY)
def test_every_defect_has_its_test(defect: str) -> None:
    file, _, name = HELD_BY[defect].partition("::")
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_a_cache_in_the_home_directory_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home, here):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HOLDFAST_CACHE", "~/hc")
    monkeypatch.setattr(readers, "IN_MEMORY", 10)
    Path("rows.jsonl").write_text('{"prompt": "What is 1 + 1?", "response": "2"}\n')
    assert [row.answer for row in open_rows("rows.jsonl")] == ["2"]
    assert [path.name for path in here.iterdir()] == ["rows.jsonl"]
    assert list((home / "hc").glob("rows-*/rows.jsonl"))
