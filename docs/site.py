"""Gathers the documentation site, the pages here and one of every method: `python docs/site.py FOLDER`.

In FOLDER stand then `docs`, and `mkdocs.yml` with the order of the pages: that of the table in the README.
"""

from __future__ import annotations

import re
import shutil
import sys
from html import escape
from pathlib import Path

import yaml

from holdfast.axes.axis import AXES, Axis
from holdfast.axes.registry import find_method, method_names
from holdfast.cli.show import describe_knobs

HERE = Path(__file__).parent
SHOWN = (".md", ".svg", ".png")


def method_page(axis: Axis, name: str) -> str:
    """The page of a method: what `holdfast show NAME` prints, as Markdown."""
    method = find_method(axis.plural, name)
    lines = [f"# {name}", "", f"Axis: {axis.plural}. In a terminal: `holdfast show {name}`.", ""]
    lines += ["", escape_prose(method.reference_page()), ""]
    knobs = describe_knobs(method)
    if knobs:
        lines += ["| knob | default | what |", "|---|---|---|"]
        lines += [f"| `{k['name']}` | `{escape_cell(k['default'])}` | {escape_cell(k['description'])} |" for k in knobs]
    return "\n".join([*lines, ""])


def escape_prose(text: str) -> str:
    """A docstring as Markdown: what is not in back ticks stands as it is written."""
    parts = re.split(r"(`[^`\n]*`)", text)
    return "".join(part if part.startswith("`") else escape_markup(part) for part in parts)


def escape_markup(text: str) -> str:
    """Text of which neither Markdown nor HTML makes anything."""
    return re.sub(r"([\\*_\[\]])", r"\\\1", escape(text, quote=False))


def escape_cell(value: object) -> str:
    """Text that stays inside a cell of a table."""
    return " ".join(str(value).split()).replace("|", "\\|")


def gather_pages(folder: Path) -> None:
    """Write everything the site is made from into a folder."""
    pages = folder / "docs"
    (pages / "methods").mkdir(parents=True)
    for file in HERE.iterdir():
        if file.suffix in SHOWN:
            shutil.copyfile(file, pages / file.name)
    index = ["# All methods", ""]
    for axis in AXES:
        index += [f"## {axis.plural}: {axis.question}", ""]
        for name in method_names(axis.plural):
            (pages / "methods" / f"{name}.md").write_text(method_page(axis, name), encoding="utf-8")
            index.append(f"- [{name}]({name}.md)")
        index.append("")
    (pages / "methods" / "index.md").write_text("\n".join(index), encoding="utf-8")
    readme = (HERE.parent / "README.md").read_text(encoding="utf-8")
    (pages / "index.md").write_text(readme.replace("](docs/", "]("), encoding="utf-8")
    settings = {
        "INHERIT": str(HERE.parent / "mkdocs.yml"), "docs_dir": "docs", "site_dir": "site", "nav": order_pages(readme),
    }  # fmt: skip
    (folder / "mkdocs.yml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def order_pages(readme: str) -> list[dict[str, str]]:
    """The site's table of contents: the pages as the README lists them, then those it does not."""
    listed = {file: title for title, file in re.findall(r"^\| \[([^\]]+)\]\(docs/([\w-]+\.md)\)", readme, re.M)}
    others = {file.name: file.stem.replace("-", " ") for file in sorted(HERE.glob("*.md"))}
    titles = {"index.md": "start", **listed, "methods/index.md": "all methods", **(others | listed)}
    return [{title[0].upper() + title[1:]: file} for file, title in titles.items()]


if __name__ == "__main__":
    gather_pages(Path(sys.argv[1]))
