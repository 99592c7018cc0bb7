from __future__ import annotations

import ast
import re
import shlex
from typing import Any

import pytest
import yaml

from holdfast.models.adapters import PEFT
from holdfast.report import phrasing
from holdfast.report.model_card import render_card


def _matter(card: str) -> dict[str, Any]:
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def test_front_matter(report: dict[str, Any]) -> None:
    report["model"] |= {"name": "org/base", "license": "apache-2.0"}
    assert _matter(render_card(report)) == {
        "base_model": "org/base",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["holdfast", "fine-tuned", "s3ft"],
        "license": "apache-2.0",
    }


def test_a_path_on_a_disk_is_not_published(report: dict[str, Any]) -> None:
    report["model"]["name"] = "/home/someone/secret/base-7b"
    matter = _matter(render_card({**report, "recipe": {"method": "sft"}}))
    assert matter["base_model"] == "base-7b"


def test_adapters_load_with_peft(report: dict[str, Any]) -> None:
    card = render_card({**report, "model": {**report["model"], "saved_as": PEFT.to_json()}})
    assert _matter(card)["library_name"] == "peft"
    assert "AutoPeftModelForCausalLM" in card
    assert "--enable-lora" in card


def test_table_has_every_number(report: dict[str, Any]) -> None:
    card = render_card(report)
    for t in report["tasks"]:
        both = f"{phrasing.format_points(t['base'])} | {phrasing.format_points(t['tuned'])}"
        scores = f"| {t['n']} | {both} | {phrasing.format_signed(t['delta'])} |"
        assert (
            f"| {t['name']} | {t['role']} {scores} {phrasing.format_interval(t['low'], t['high'], sign=True)} |" in card
        )
    assert f"| **gained on the target** | | | | | **{phrasing.format_signed(report['gain']['delta'])}** |" in card
    assert f"| **lost elsewhere** | | | | | **{phrasing.format_points(report['loss']['delta'])}** |" in card
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    assert {line.count("|") for line in rows} == {9}


def test_code_blocks_parse(report: dict[str, Any]) -> None:
    blocks = dict(re.findall(r"```(python|yaml)\n(.*?)\n```", render_card(report), re.DOTALL))
    ast.parse(blocks["python"])
    assert yaml.safe_load(blocks["yaml"]) == report["recipe"]


def test_names_cannot_break_the_table(report: dict[str, Any]) -> None:
    report["tasks"][0]["name"] = "a|b\n<script>"
    assert "| a\\|b \\<script\\> | target |" in render_card(report)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"loss": None}, "what the model lost is unknown"),
        (
            {"gate": {"passed": False, "reasons": ["lost 4 points"]}},
            "**The gate of the recipe refused this model**: lost 4 points.",
        ),
        ({}, "mistakes its judge cannot see"),
    ],
)
def test_limits_are_said(change: dict[str, Any], said: str, report: dict[str, Any]) -> None:
    tasks = [t for t in report["tasks"] if "loss" not in change or t["role"] == "target"]
    assert said in render_card({**report, "tasks": tasks, **change})


def test_least_report_and_same_text() -> None:
    bare = {"name": "bare", "tasks": [], "gain": None, "loss": None}
    assert _matter(render_card(bare))["tags"] == ["holdfast", "fine-tuned", "bare"]
    assert "Nothing was measured." in render_card(bare)
    assert render_card(bare) == render_card(dict(bare))


def test_no_name_leaves_its_code_or_its_line_to_copy(report: dict[str, Any]) -> None:
    name = "a` <img src=x onerror=alert(1)> ``b; touch pwned"
    report["model"]["name"] = name
    card = render_card({**report, "model": {**report["model"], "saved_as": PEFT.to_json()}})
    assert f"\n``` {name} ``` fine-tuned" in card or f"\n```{name}``` fine-tuned" in card
    (line,) = [line for line in card.splitlines() if line.startswith("vllm serve")]
    assert shlex.split(line)[:4] == ["vllm", "serve", name, "--enable-lora"]
    report["model"] |= {"name": "`", "dtype": "<b>", "measured_dtype": '"); import os; ("'}
    card = render_card(report)
    assert "\n`` ` `` fine-tuned" in card
    assert "They are \\<b\\>" in card
    (python,) = re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)
    assert not any(isinstance(node, ast.Import) for node in ast.walk(ast.parse(python)))
