"""Command lines of other tools in a shell script: which program, and what its options say."""

from __future__ import annotations

import re
import shlex
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from holdfast.errors import UserError
from holdfast.recipe.imports.foreign import ForeignRecipe, Setting
from holdfast.recipe.yaml_reader import parse_yaml

ReadSettings = Callable[[Path, str], ForeignRecipe]

ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)=(\S+|\"[^\"]*\"|'[^']*')\s*")
"""A line that gives a variable of the shell a value."""
PROGRAMS = {"trl": "TRL", "llamafactory-cli": "LLaMA-Factory", "lmf": "LLaMA-Factory", "axolotl": "Axolotl"}
"""Programs that are followed by a verb."""
MODULES = {"axolotl.cli.train": "Axolotl"}
SCRIPTS = {
    f"{name}.py": name for name in ("sft", "dpo", "kto", "orpo", "cpo", "grpo", "rloo", "reward", "reward_modeling")
}
"""TRL's example scripts, and what each does."""
VERBS = ("train", "sft", "dpo", "kto", "grpo", "rloo", "reward")
SWITCH_WORDS = {"True": True, "False": False, "None": None}


def read_script(text: str, name: str, read_settings: ReadSettings) -> ForeignRecipe:
    """The settings of the first training command of a shell script; a file that it names is read too.

    Raises:
        UserError: If no command of TRL, LLaMA-Factory or Axolotl is in it, or it cannot be read.
    """
    variables: dict[str, str] = {}
    for number, line in _join_lines(text):
        if assignment := ASSIGNMENT.fullmatch(line):
            variables[assignment[1]] = assignment[2].strip("\"'")
            continue
        try:
            words = shlex.split(string.Template(line).safe_substitute(variables), comments=True)
        except ValueError as error:
            raise UserError(f"{name}:{number}: cannot be read as a command: {error}") from None
        if (program := _find_program(words)) is not None:
            tool, verb, rest = program
            return _read_words(tool, verb, rest, f"{name}:{number}", Path(name).parent, read_settings)
    raise UserError(
        f"{name}: no training command in it that is known here: trl VERB, a script of TRL, llamafactory-cli train, "
        "axolotl train"
    )


def _join_lines(text: str) -> list[tuple[int, str]]:
    """The commands of a script with the line each begins on; one that a backslash continues is one."""
    commands: list[tuple[int, str]] = []
    open_number = 0
    for number, line in enumerate(text.splitlines(), 1):
        body = line.rstrip()
        more = body.endswith("\\")
        body = body[:-1] if more else body
        if open_number:
            commands[-1] = (open_number, f"{commands[-1][1]} {body.strip()}")
        else:
            commands.append((number, body.strip()))
        open_number = (open_number or number) if more else 0
    return commands


def _find_program(words: Sequence[str]) -> tuple[str, str, Sequence[str]] | None:
    """The tool, what it does ("" where its settings say it), and the words after that."""
    for at, word in enumerate(words):
        base = word.rpartition("/")[2]
        if base in PROGRAMS and words[at + 1 : at + 2] and words[at + 1] in VERBS:
            verb = words[at + 1]
            return PROGRAMS[base], "" if verb == "train" else verb, words[at + 2 :]
        if base in SCRIPTS:
            return "TRL", SCRIPTS[base], words[at + 1 :]
        if word in MODULES:
            return MODULES[word], "", words[at + 1 :]
    return None


def _read_words(
    tool: str, verb: str, words: Sequence[str], source: str, folder: Path, read_settings: ReadSettings
) -> ForeignRecipe:
    """The settings of a command: of the file it names, and over these its options."""
    options, files = _parse_options(words, source)
    config = options.pop("config", None)
    files = [*files, *([str(config.value)] if config else [])]
    foreign = ForeignRecipe(tool)
    for file in files:
        here = Path(file) if Path(file).exists() else folder / file
        foreign.settings |= read_settings(here, tool).settings
    foreign.settings |= options
    foreign.method = {"reward_modeling": "reward"}.get(verb, verb) or None
    return foreign


def _parse_options(words: Sequence[str], source: str) -> tuple[dict[str, Setting], list[str]]:
    """Options by their names, and the words that stand for files; `key=value` is an option too."""
    values: dict[str, list[str]] = {}
    files: list[str] = []
    key = ""
    for word in words:
        name, equals, value = word.partition("=")
        if word in ("&&", ";", "|", ">", "2>&1", "&"):
            break
        if word.startswith("--"):
            key = name.removeprefix("--").replace("-", "_")
            values[key] = [value] if equals else []
            key = "" if equals else key
        elif key:
            values[key].append(word)
        elif equals and name.isidentifier():
            values[name] = [value]
        else:
            files.append(word)
    return {name: Setting(_parse_values(some, source), source) for name, some in values.items()}, files


def _parse_values(words: Sequence[str], source: str) -> Any:
    """What stands behind an option: nothing switches it on, several words are a list."""
    values = [SWITCH_WORDS[word] if word in SWITCH_WORDS else _parse_word(word, source) for word in words]
    return True if not values else values[0] if len(values) == 1 else values


def _parse_word(word: str, source: str) -> Any:
    """A word as YAML 1.2 reads it, so that numbers are numbers; what is no YAML is text."""
    if not re.fullmatch(r"[-+.\w]*", word):
        return word
    return parse_yaml(word, source)[0].plain_data()
