"""Draws docs/house.svg from the imports: `python docs/house.py`. The tests check that it is up to date.

Floors are those of `.importlinter`, what a room is stands in its docstring, and what it uses is read off its imports.
"""

from __future__ import annotations

import ast
from configparser import ConfigParser
from html import escape
from pathlib import Path
from textwrap import wrap

import grimp

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "house.svg"
WIDTH, MARGIN, GAP, LINE = 920, 12, 8, 17
EVERYWHERE = {"core", "errors"}
"""Used by all; naming them everywhere would hide the rest."""
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.name { font-weight: 600; font-size: 14px } .uses { fill: #59636e; font-size: 12px }
rect { fill: #f6f8fa; stroke: #d1d9e0 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .uses { fill: #9198a1 } rect { fill: #151b23; stroke: #3d444d } }
"""


def floors() -> list[list[str]]:
    """The rooms of each floor, from the top down."""
    config = ConfigParser()
    config.read(ROOT / ".importlinter", encoding="utf-8")
    lines = config["importlinter:contract:layers"]["layers"].split("\n")
    return [[room.strip().removeprefix("holdfast.") for room in line.split("|")] for line in lines if line.strip()]


def uses(rooms: list[str]) -> dict[str, list[str]]:
    """What each room imports of the others, from the top down; imports for type checkers are none."""
    graph = grimp.build_graph("holdfast", exclude_type_checking_imports=True, cache_dir=None)
    found: dict[str, set[str]] = {room: set() for room in rooms}
    for module in graph.modules:
        room = module.split(".")[1] if "." in module else ""
        for other in graph.find_modules_directly_imported_by(module) if room in found else ():
            found[room].add(other.split(".")[1] if "." in other else "")
    return {room: [o for o in rooms if o in others - {room} - EVERYWHERE] for room, others in found.items()}


def about(room: str) -> str:
    """The first sentence of a room's docstring."""
    folder = ROOT / "src" / "holdfast" / room
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]


def draw() -> str:
    """The picture as SVG."""
    stack = floors()
    imported = uses([room for floor in stack for room in floor])
    body, top = [], MARGIN
    for floor in stack:
        wide = (WIDTH - 2 * MARGIN - GAP * (len(floor) - 1)) / len(floor)
        texts = {}
        for room in floor:
            lines = [("", part) for part in wrap(about(room), int(wide / 7.2))]
            named = f"uses {', '.join(imported[room])}" if imported[room] else ""
            texts[room] = [("name", f"{room}/" if room != "errors" else "errors.py"), *lines]
            texts[room] += [("uses", part) for part in wrap(named, int(wide / 6.8))]
        high = LINE * max(map(len, texts.values())) + 14
        for number, room in enumerate(floor):
            left = MARGIN + number * (wide + GAP)
            body.append(f'<rect x="{left:.1f}" y="{top}" width="{wide:.1f}" height="{high}" rx="6"/>')
            for row, (kind, text) in enumerate(texts[room]):
                style = f' class="{kind}"' if kind else ""
                body.append(f'<text x="{left + 10:.1f}" y="{top + 20 + LINE * row}"{style}>{escape(text)}</text>')
        top += high + GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + MARGIN - GAP}" width="{WIDTH}">'
    title = "<title>The rooms of Holdfast: each imports only what stands below it</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", *body, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
