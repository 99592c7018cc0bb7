"""What `holdfast.testing` asks of every method, of every registered one; objectives, optimizers and tuners at home."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from curator_experiments import SPIN, Length
from holdfast.axes.axis import AXES
from holdfast.axes.method import Method
from holdfast.axes.registry import REGISTRY, find_method
from holdfast.testing.check import CHECKS, Check, check_page
from methods.inference.ensemble import Ensemble, Shots, Vote
from reward_models import write_reward_model

HERE = ("curators", "inference", "judges", "environments", "analyses")
KNOBS: dict[str, dict[str, Any]] = {
    "replay": {"path": "general.jsonl", "share": 0.3},
    "rft": {"k": 6},
    "less": {"target": "general.jsonl", "projection": 64},
    "lima": {"n": 5, "min_characters": 0},
    "prefix_limits": {"items": 2},
    "forms_facts": {"items": 6, "max_tokens": 8},
    "emergence": {"interval": False},
    "memory": {"draws": 1, "templates": ["{question}"], "items": 8},
    "memory_levels": {"n": 5, "draws": 2, "levels": [0, 1, 2, 3, 4]},
    "self_instruct": {"n": 6},
    "prompt2model": {"n": 6},
    "rag": {"documents": ["notes.txt"], "by": "embedding"},
    "hykge": {"graph": ["facts.csv"], "hypothesis_tokens": 6},
    "self_consistency": {"n": 3},
    "best_of_n": {"n": 3},
    "dedup": {} if importlib.util.find_spec("datasketch") else {"near": None},
    "lab": {"skill": "sums"},
    "judged": {"judge": "number"},
    "verifiers": {"load": "own_function.py:load_environment"},
    "gym": {
        "id": "FrozenLake-v1",
        "actions": ["left", "down", "right", "up"],
        "show": "screen",
        "success": 1.0,
        "settings": {"is_slippery": False},
    },
    "weighted": {"terms": [{"judge": "number"}, {"words": 20, "spare": 20, "weight": 0.1}]},
    "calibration": {"gamma": 2.0, "absent": ("The",), "present": ("It",), "form": "first_token"},
    "pretty": {"teacher": "lab-small"},
    "proxy": {"antiexpert": "lab-small"},
    "reward_model": {"model": "reward"},
    "python": {"function": "own_function.py:agree"},
}
OWN: dict[str, tuple[type[Method], ...]] = {"curators": (Length, SPIN), "inference": (Ensemble, Shots, Vote)}
"""Methods as anyone would write them."""
METHODS = [(axis, name) for axis in HERE for name in REGISTRY[axis]]
METHODS += [(axis, cls.__name__) for axis, classes in OWN.items() for cls in classes]
CASES = [(axis, name, check) for axis, name in METHODS for check in CHECKS[axis]]


@pytest.fixture(scope="session")
def reward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model that likes the right answers of the checks, and no confession."""
    return write_reward_model(tmp_path_factory.mktemp("reward") / "reward")


@pytest.fixture(autouse=True)
def own_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("What is 3 + 4? It is 7.\n")
    Path("facts.csv").write_text("3,and 4 make,7\n")
    Path("own_function.py").write_text(
        "def agree(prompt, response, reference):\n    return response == str(reference)\n"
        "def is_short(completion):\n    return len(completion) == 1\n"
        "class Rubric:\n    funcs, weights = [is_short], [0.5]\n"
        "def load_environment():\n    return Rubric()\n"
    )


def class_of(axis: str, name: str) -> type[Method]:
    return next((cls for cls in OWN.get(axis, ()) if cls.__name__ == name), None) or find_method(axis, name)


@pytest.mark.parametrize(("axis", "name", "check"), CASES, ids=[f"{n}-{check.__name__}" for _, n, check in CASES])
def test_keeps_the_promises_of_its_axis(
    axis: str, name: str, check: Check, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if name == "reward_model":
        Path("reward").symlink_to(request.getfixturevalue("reward"))
    check(class_of(axis, name)(**KNOBS.get(name, {})), tmp_path)


def test_every_registered_method_has_its_page() -> None:
    for axis in (one.plural for one in AXES):
        for name in REGISTRY[axis]:
            check_page(find_method(axis, name), needs_paper=axis not in ("judges", "presets"))
    assert {axis.plural for axis in AXES} - CHECKS.keys() == {"presets"}
