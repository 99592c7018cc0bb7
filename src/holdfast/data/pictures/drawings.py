"""Pictures of the laboratory, drawn from a key: hands of cards and maps of a route, the same pixels for the same key.

A key is `lab:cards/3S.JD.7H` or `lab:map/shop.bank.mill`, with a style behind another slash where it is not the usual
one. Rows and journals hold keys, never pixels.
"""

from __future__ import annotations

import random
import zlib
from typing import TYPE_CHECKING

from holdfast.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

    Color = tuple[int, int, int]

SIZE = 64
"""Pixels of a picture's side."""
SUITS = "SCHD"
BLACK_INK, RED_INK = (0, 0, 0), (200, 0, 0)
TABLES: dict[str, Color] = {"green": (53, 101, 77), "blue": (40, 70, 130)}
"""What hands lie on, by style; the first is the usual one."""
GROUNDS: dict[str, tuple[Color, Color]] = {
    "day": ((215, 230, 200), (150, 150, 150)),
    "night": ((25, 30, 60), (90, 90, 110)),
}
"""Ground and road of maps, by style; the first is the usual one."""
SHAPES = ("shop", "bank", "park", "mill", "school", "church", "bridge", "tower", "market", "station")
"""What maps show: each place has a shape of its own, so that style may change every colour."""
PAINTS: dict[str, tuple[Color, ...]] = {
    "day": (
        (200, 60, 40), (50, 80, 180), (30, 130, 50), (120, 80, 40), (220, 140, 0),
        (90, 90, 90), (0, 130, 140), (140, 40, 140), (230, 80, 140), (20, 20, 20),
    ),
    "night": (
        (120, 220, 230), (250, 220, 90), (240, 150, 240), (160, 220, 140), (130, 160, 250),
        (250, 250, 250), (250, 140, 100), (200, 240, 90), (100, 230, 180), (230, 200, 200),
    ),
}  # fmt: skip
SCHEME = "lab:"


def draw_picture(key: str) -> Image:
    """The picture of a key, RGB, 64 x 64.

    Raises:
        UserError: The key is none.
    """
    kind, _, rest = key.removeprefix(SCHEME).partition("/")
    what, _, style = rest.partition("/")
    names = what.split(".")
    try:
        if kind == "cards":
            return _draw_hand(names, TABLES[style or "green"], random.Random(zlib.crc32(key.encode())))
        if kind == "map":
            return _draw_map(names, style or "day")
    except (KeyError, ValueError) as error:
        raise UserError(f"{key}: the laboratory has no such card, place or style ({error})") from error
    raise UserError(f"{key}: the laboratory draws lab:cards/... and lab:map/...")


def _blank_picture(color: Color) -> tuple[Image, ImageDraw]:
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (SIZE, SIZE), color)
    return picture, ImageDraw.Draw(picture)


def _draw_hand(cards: list[str], table: Color, rng: random.Random) -> Image:
    """Up to four cards, two in a line; the place of a rank on its card varies by a pixel."""
    if len(cards) > 4:
        raise ValueError("at most four cards")
    picture, draw = _blank_picture(table)
    for number, card in enumerate(cards):
        _draw_card(draw, 2 + 32 * (number % 2), 1 + 32 * (number // 2), card[:-1], card[-1], rng)
    return picture


def _draw_card(draw: ImageDraw, x0: int, y0: int, rank: str, suit: str, rng: random.Random) -> None:
    from PIL import ImageFont

    ink = BLACK_INK if SUITS.index(suit) < 2 else RED_INK
    draw.rectangle((x0, y0, x0 + 27, y0 + 29), fill=(255, 255, 255), outline=(90, 90, 90))
    at = (x0 + 2 + rng.randint(0, 1), y0 + 1 + rng.randint(0, 1))
    draw.text(at, rank, font=ImageFont.load_default(size=18), fill=ink)
    x, y = x0 + 20, y0 + 23
    if suit == "D":
        draw.polygon([(x, y - 5), (x + 4, y), (x, y + 5), (x - 4, y)], fill=ink)
    elif suit == "H":
        draw.ellipse((x - 4, y - 4, x, y), fill=ink)
        draw.ellipse((x, y - 4, x + 4, y), fill=ink)
        draw.polygon([(x - 4, y - 1), (x + 4, y - 1), (x, y + 5)], fill=ink)
    elif suit == "S":
        draw.polygon([(x, y - 5), (x + 4, y + 1), (x - 4, y + 1)], fill=ink)
        draw.rectangle((x - 1, y, x + 1, y + 4), fill=ink)
    else:
        for dx, dy in ((0, -3), (-2, 1), (2, 1)):
            draw.ellipse((x + dx - 2, y + dy - 2, x + dx + 2, y + dy + 2), fill=ink)


def _draw_map(places: list[str], style: str) -> Image:
    """Up to six places along a road: the first three from left to right, the others below them, again from the left."""
    if len(places) > 6:
        raise ValueError("at most six places")
    ground, road = GROUNDS[style]
    picture, draw = _blank_picture(ground)
    draw.line([(0, 16), (56, 16), (56, 32), (8, 32), (8, 48), (63, 48)], fill=road, width=3)
    for number, place in enumerate(places):
        shape = SHAPES.index(place)
        _draw_place(draw, 11 + 21 * (number % 3), 16 + 32 * (number // 3), shape, PAINTS[style][shape])
    return picture


def _draw_place(draw: ImageDraw, x: int, y: int, shape: int, paint: Color) -> None:
    """One of ten shapes, about 16 pixels wide, around a point."""

    def fill_box(*box: int) -> None:
        draw.rectangle((x + box[0], y + box[1], x + box[2], y + box[3]), fill=paint)

    def fill_polygon(*points: tuple[int, int]) -> None:
        draw.polygon([(x + dx, y + dy) for dx, dy in points], fill=paint)

    if shape == 0:  # a box under an awning
        fill_box(-5, 0, 5, 8)
        fill_box(-8, -7, 8, -3)
    elif shape == 1:  # a gable on three columns
        fill_polygon((-8, -3), (0, -9), (8, -3))
        for column in (-6, -1, 4):
            fill_box(column, -1, column + 2, 8)
    elif shape == 2:  # a tree
        draw.ellipse((x - 7, y - 9, x + 7, y + 4), fill=paint)
        fill_box(-1, 4, 1, 9)
    elif shape == 3:  # four wings
        draw.line((x - 7, y - 7, x + 7, y + 7), fill=paint, width=3)
        draw.line((x - 7, y + 7, x + 7, y - 7), fill=paint, width=3)
    elif shape == 4:  # a flag
        fill_box(-6, -9, -4, 9)
        fill_polygon((-3, -9), (8, -5), (-3, 0))
    elif shape == 5:  # a cross
        fill_box(-1, -9, 1, 9)
        fill_box(-6, -5, 6, -3)
    elif shape == 6:  # an arch
        draw.arc((x - 8, y - 6, x + 8, y + 14), 180, 360, fill=paint, width=4)
    elif shape == 7:  # a tall box
        fill_box(-2, -10, 3, 9)
    elif shape == 8:  # a tent of two halves
        fill_polygon((-8, 8), (-4, -6), (0, 8))
        fill_polygon((0, 8), (4, -6), (8, 8))
    else:  # a box on wheels
        fill_box(-8, -5, 8, 3)
        for wheel in (-6, 2):
            draw.ellipse((x + wheel, y + 4, x + wheel + 4, y + 8), fill=paint)
