"""A method as one types it where there is no recipe: its name, a mapping, or the file that holds one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdfast.errors import UserError
from holdfast.recipe.choices import choose_method
from holdfast.recipe.yaml_reader import parse_yaml

ENDINGS = (".yaml", ".yml")


def parse_method(axis: str, text: str, option: str) -> Any:
    """The method meant by `number`, by `{name: python, function: my.module:judge}`, or by `FILE.yaml` with that in it.

    Args:
        axis: Of the method, as `REGISTRY` calls it.
        option: What the text was given as, for errors.
    Raises:
        UserError: If there is no such method or file, or the knobs are wrong.
    """
    source = option
    if text.endswith(ENDINGS):
        source, file = text, Path(text).expanduser()
        if not file.is_file():
            raise UserError(f"{option} {text}: there is no such file")
        try:
            text = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{option} {file}: is not UTF-8; save it as UTF-8") from error
    tree, problems = parse_yaml(text, source)
    if problems:
        raise UserError(f"{source}: {problems[0][1]}")
    try:
        return choose_method(axis, tree.plain_data())
    except ValueError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        what = f"{option} {text}" if source == option else source
        raise UserError(f"{what}: {', '.join(lines[1:3]) or lines[0]}") from None
