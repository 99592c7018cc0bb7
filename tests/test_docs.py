"""Law 10: every code block of the README and the pages runs, in order, in a fresh directory for each page.

A recipe is read as it stands and run with fewer rows, steps and questions: what is tested is that its commands work.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import yaml

import processes
from holdfast.recipe.loader import read_recipe

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)


def blocks(page: Path) -> list[tuple[str, str]]:
    """`(language, text)` of the fenced blocks of a page."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


DRIVER = """
import io, shlex, sys
from holdfast.cli import main
for command in sys.argv[1:]:
    told, _, typed = command.rpartition(" | ")
    if told:
        sys.stdin = io.StringIO(shlex.split(told)[1] + "\\n")
    words = shlex.split(typed)
    refused = words[0] == "!"
    code, sys.argv = 0, words[refused:]
    try:
        main()
    except SystemExit as done:
        code = done.code
    if bool(code) != refused:
        sys.exit(f"{command}: exit code {code}")
"""
"""Runs several commands of the program in one process: most of a short command's time is importing."""


MOST = {"data": {"limit": 16}, "train": {"max_steps": 2}, "evaluate": {"items": 4, "live_items": 2}}
"""Settings of a recipe that a page shows with what takes a minute, and what is enough."""
ITEMS = MOST["evaluate"]["items"]


def shrink(recipe: str) -> str:
    """A recipe with at most so many rows, steps and questions."""
    settings = yaml.safe_load(recipe)
    settings["evaluate"] = {**MOST["evaluate"], **settings.get("evaluate", {})}
    for section, most in MOST.items():
        own = settings.get(section, {})
        own.update({key: min(own[key], number) for key, number in most.items() if key in own})
    return yaml.safe_dump(settings, sort_keys=False)


def shrink_command(command: str) -> str:
    """A command that asks at most so many questions."""
    if command.startswith("holdfast eval") and "--items" not in command:
        command += f" --items {ITEMS}"
    return re.sub(r"--(items|samples) (\d+)", lambda match: f"--{match[1]} {min(int(match[2]), ITEMS)}", command)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_blocks_run(page: Path, tmp_path: Path) -> None:
    for language, text in blocks(page):
        assert language in ("yaml", "bash", "python"), f"{page.name}: a {language} block is not tested"
        if language == "yaml":
            (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
            read_recipe(tmp_path / "run.yaml")
            (tmp_path / "run.yaml").write_text(shrink(text), encoding="utf-8")
        elif language == "python":
            if named := re.match(r"# (\w+\.py)\n", text):
                (tmp_path / named[1]).write_text(text, encoding="utf-8")
            run_python("-c", text, place=tmp_path)
        else:
            shell(text.strip().splitlines(), tmp_path)


def shell(commands: list[str], place: Path) -> None:
    """The commands of a block, one after another."""
    for alike, some in groupby(map(shrink_command, commands), key=sort_of):
        if alike == "make":
            targets = (ROOT / "Makefile").read_text(encoding="utf-8")
            assert all(f"\n{command.split()[1]}:" in targets for command in some)
        elif alike == "holdfast":
            run_python("-c", DRIVER, *some, place=place)
        elif alike == "accelerate":
            for command in some:
                run_python("-m", "accelerate.commands.accelerate_cli", *shlex.split(command)[1:], place=place)
        else:
            for command in some:
                done = subprocess.run(["bash", "-ec", command], **surroundings(place), capture_output=True, text=True)
                assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def sort_of(command: str) -> str:
    """Whether a line calls make, the program (which an `echo` may tell something) or accelerate, or needs a shell."""
    command = re.sub(r'^echo "[^"$]*" \| (?=holdfast )', "", command)
    name = command.removeprefix("! ").split()[0]
    is_plain = name in ("holdfast", "accelerate") and not set(command) & set("&|<>;$*~")
    return name if name == "make" or is_plain else "bash"


def run_python(*program: str, place: Path) -> None:
    done = processes.run(program, **surroundings(place))
    assert done.returncode == 0, f"{program}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def surroundings(place: Path) -> dict[str, Any]:
    """Directory and environment of a block: this interpreter's programs come first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HOLDFAST_CACHE": str(place / "cache"), "COLUMNS": "100"}
    return {"cwd": place, "env": environment, "timeout": 300}


def test_pages_name_only_what_exists() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_site_has_every_page(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs" / "site.py")
    assert spec is not None
    assert spec.loader is not None
    site = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(site)
    site.gather_pages(tmp_path)
    settings = yaml.safe_load((tmp_path / "mkdocs.yml").read_text(encoding="utf-8"))
    assert Path(settings["INHERIT"]) == ROOT / "mkdocs.yml"
    files = [file for entry in settings["nav"] for file in entry.values()]
    assert sorted(files) == sorted(["index.md", "methods/index.md", *(page.name for page in PAGES[1:])])
    for page in (tmp_path / "docs").rglob("*.md"):
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"
    assert "theta" in (tmp_path / "docs" / "methods" / "yarn.md").read_text(encoding="utf-8")
