"""Rows with pictures: every way to write them, what is refused and in which words, and what tells them apart."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from holdfast.data.overlap.words import message_text
from holdfast.data.pictures.drawings import draw_picture
from holdfast.data.pictures.reader import MOST_PIXELS, read_picture
from holdfast.data.pictures.references import pictures_of, split_content
from holdfast.data.pictures.resolving import resolve_picture
from holdfast.data.reading.formats import open_rows
from holdfast.data.row_store import prompt_key
from holdfast.data.rows import Row, fingerprint_rows
from holdfast.errors import UserError
from holdfast.skills import load_skill


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a red picture, a file that is none, and one that is cut off."""
    Image.new("RGB", (8, 6), (255, 0, 0)).save(tmp_path / "red.png")
    (tmp_path / "none.png").write_text("no picture")
    noise = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(noise, format="JPEG")
    (tmp_path / "cut.jpg").write_bytes(noise.getvalue()[: len(noise.getvalue()) // 2])
    return tmp_path


def ask(*content: Any, **more: Any) -> dict[str, Any]:
    """A record in which a user says something and is answered."""
    said = content[0] if len(content) == 1 and isinstance(content[0], str) else list(content)
    return {"messages": [{"role": "user", "content": said}, {"role": "assistant", "content": "red"}], **more}


def read(folder: Path, *records: dict[str, Any], name: str = "rows.jsonl") -> list[Row]:
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return list(open_rows(path))


TEXT = {"type": "text", "text": "What colour?"}


def test_all_ways_to_write_a_picture_give_one_row(folder: Path) -> None:
    data = base64.b64encode((folder / "red.png").read_bytes()).decode()
    ways: list[dict[str, Any]] = [
        ask({"type": "image", "image": "red.png"}, TEXT),
        ask({"type": "image", "path": str(folder / "red.png")}, TEXT),
        ask({"type": "image"}, TEXT, images=["red.png"]),
        ask({"type": "image"}, TEXT, image="red.png"),
        ask("<image>What colour?", images=["red.png"]),
        ask("What colour?", image="red.png"),
        {"prompt": "What colour?", "completion": "red", "image": "red.png"},
    ]
    rows = [read(folder, way)[0] for way in ways]
    assert {json.dumps(row.messages) for row in rows} == {json.dumps(rows[0].messages)}
    assert rows[0].messages[0]["content"] == "<image>What colour?"
    assert len({row.id for row in rows}) == 1
    assert read_picture(pictures_of(rows[0].messages)[0]).getpixel((0, 0)) == (255, 0, 0)
    in_row = [
        ask({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}, TEXT),
        ask({"type": "image", "base64": data}, TEXT),
        ask("What colour?", image={"bytes": None, "path": "red.png"}),
    ]
    for record in in_row:
        (row,) = read(folder, record)
        assert row.messages[0]["content"] == "<image>What colour?"
        assert read_picture(pictures_of(row.messages)[0]).size == (8, 6)
    assert read_picture(resolve_picture((folder / "red.png").read_bytes(), folder)).size == (8, 6)
    assert read_picture(resolve_picture(Image.new("L", (3, 2)), folder)).mode == "RGB"


def test_pairs_and_later_turns_keep_their_pictures(folder: Path) -> None:
    pair = {
        "prompt": [{"role": "user", "content": [{"type": "image"}, TEXT]}], "images": ["red.png"],
        "chosen": [{"role": "assistant", "content": "red"}], "rejected": [{"role": "assistant", "content": "blue"}],
    }  # fmt: skip
    (row,) = read(folder, pair)
    assert (row.chosen, row.rejected, len(pictures_of(row.prompt))) == ("red", "blue", 1)
    turns = ask("Look: <image>")["messages"] + ask("And <image> or <image>?")["messages"]
    (row,) = read(folder, {"messages": turns, "images": ["red.png", "red.png", "red.png"]})
    assert [len(message.get("images", [])) for message in row.messages] == [1, 0, 2, 0]
    assert [part["type"] for part in split_content(row.messages[2])] == ["text", "image", "text", "image", "text"]
    again = open_rows(write_own(folder, row))[0]
    assert (again.id, again.messages) == (row.id, row.messages), "a row we wrote is read as it was"
    (plain,) = read(folder, ask("the word <image> alone"))
    assert "images" not in plain.messages[0]


def write_own(folder: Path, row: Row) -> Path:
    (folder / "own.jsonl").write_text(row.to_line(), encoding="utf-8")
    return folder / "own.jsonl"


def test_what_is_wrong_is_one_line_that_names_the_row(folder: Path) -> None:
    image = {"type": "image"}
    for record, words in (
        (ask({**image, "image": "https://example.org/red.png"}, TEXT), "not fetched from the web; download it"),
        (ask({**image, "image": "gone.png"}, TEXT), "gone.png: no such picture; a relative path begins at the folder"),
        (ask({**image, "image": "none.png"}, TEXT), "none.png: not a picture that Pillow reads"),
        (ask({**image, "image": "data:image/png,abc"}, TEXT), "no data URL in base64"),
        (ask({**image, "image": "data:image/png;base64,???"}, TEXT), "not base64"),
        (ask({**image, "image": 5}, TEXT), "a picture is given as int"),
        (ask({**image, "image": "a\0b.png"}, TEXT), "no path of a picture (embedded null byte)"),
        (ask({**image, "image": "a" * 5000}, TEXT), "aaa': no path of a picture (File name too long"),
        (ask({**image, "image": "~nobody-here/a.png"}, TEXT), "no path of a picture (Could not determine home"),
        (ask(image, TEXT), "names no picture, and no column images holds it"),
        (ask(image, TEXT, images=["red.png", "red.png"]), "2 pictures in its columns and 1 places"),
        (ask("one <image> two <image>", image="red.png"), "1 pictures in its columns and 2 places"),
        (ask({**image, "image": "red.png"}, {"type": "text", "text": "a <image>"}), "which would be one more"),
        (ask({"type": "video", "path": "x"}, TEXT), "a part of type video"),
        (ask("hm", video="x.mp4"), "field video holds media, only text and pictures"),
        (ask({**image, "image": "lab:cards/3X"}, TEXT), "no such card, place or style"),
    ):
        with pytest.raises(UserError) as caught:
            read(folder, ask("fine"), record)
        line = str(caught.value)
        assert words in line, line
        assert line.startswith(f"{folder}/rows.jsonl:2: "), line
        assert "\n" not in line
    with pytest.raises(UserError, match="has no place for a picture"):
        read(folder, {"text": "all of it", "image": "red.png"})
    answer = ask("x")
    answer["messages"][1]["content"] = [{**image, "image": "red.png"}]
    with pytest.raises(UserError, match="is an answer with a picture"):
        read(folder, answer)


def test_pictures_beyond_the_limits_and_damaged_ones(folder: Path) -> None:
    Image.new("1", (9000, 8000)).save(folder / "bomb.png")  # a few kilobytes that unpack to 72 million pixels
    assert (folder / "bomb.png").stat().st_size < 20_000
    with pytest.raises(UserError, match=rf"bomb.png: 9,000 x 8,000 pixels, more than the {MOST_PIXELS:,}"):
        resolve_picture("bomb.png", folder)
    Image.new("1", (1000, 2)).save(folder / "flat.png")
    with pytest.raises(UserError, match="too flat to be seen"):
        resolve_picture("flat.png", folder)
    with (folder / "huge.png").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(UserError, match="65 MiB, more than 64 MiB"):
        resolve_picture("huge.png", folder)
    reference = resolve_picture("cut.jpg", folder)  # its head is whole: pixels are unpacked when it is tokenised
    with pytest.raises(UserError, match=r"cut.jpg: a damaged picture"):
        read_picture(reference)
    reference = resolve_picture("red.png", folder)
    Image.new("RGB", (8, 6), (0, 0, 255)).save(folder / "red.png")
    with pytest.raises(UserError, match="has changed since its row was read"):
        read_picture(reference)
    (folder / "red.png").unlink()
    with pytest.raises(UserError, match="no such picture"):
        read_picture(reference)


def test_pixels_are_as_a_viewer_shows_them(folder: Path) -> None:
    turned = Image.new("RGB", (4, 2), (0, 0, 0))
    turned.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    turned.save(folder / "turned.png", exif=exif)
    seen = read_picture(resolve_picture("turned.png", folder))
    assert seen.size == (2, 4)
    assert seen.getpixel((1, 0)) == (255, 255, 255), "what was at the upper left is at the upper right"
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(folder / "clear.png")
    assert read_picture(resolve_picture("clear.png", folder)).getpixel((0, 0)) == (255, 255, 255)
    Image.fromarray(np.full((2, 2), 65535, np.uint16)).save(folder / "deep.png")
    assert read_picture(resolve_picture("deep.png", folder)).getpixel((0, 0)) == (255, 255, 255)
    Image.new("P", (2, 2)).save(folder / "frames.gif", save_all=True, append_images=[Image.new("P", (2, 2), 9)])
    assert read_picture(resolve_picture("frames.gif", folder)).mode == "RGB"


def test_rows_are_told_apart_by_what_their_pictures_show(folder: Path) -> None:
    Image.new("RGB", (8, 6), (0, 0, 255)).save(folder / "blue.png")
    red, blue = read(folder, *(ask({"type": "image", "image": f"{name}.png"}, TEXT) for name in ("red", "blue")))
    assert red.id != blue.id
    assert prompt_key(red) != prompt_key(blue)
    assert message_text(red.prompt) != message_text(blue.prompt)
    other = folder / "elsewhere"
    other.mkdir()
    for name in ("red", "blue"):
        (folder / f"{name}.png").rename(other / f"{name}-moved.png")
    moved = read(other, *(ask({"type": "image", "image": f"{name}-moved.png"}, TEXT) for name in ("red", "blue")))
    assert [row.id for row in moved] == [red.id, blue.id]
    assert fingerprint_rows(moved) == fingerprint_rows([red, blue]), "a folder may be moved"
    assert prompt_key(moved[0]) == prompt_key(red)


def test_large_files_are_read_anew_where_pictures_may_have_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.data.reading.readers.IN_MEMORY", 10)
    monkeypatch.setenv("HOLDFAST_CACHE", str(folder / "cache"))
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(ask({"type": "image", "image": "red.png"}, TEXT)) + "\n", encoding="utf-8")
    first = open_rows(path)
    assert not isinstance(first, list)
    red = first[0].id
    Image.new("RGB", (8, 6), (0, 0, 255)).save(folder / "red.png")
    again = open_rows(path)
    assert again[0].id != red
    assert read_picture(pictures_of(again[0].messages)[0]).getpixel((0, 0)) == (0, 0, 255)


def test_drawings_are_functions_of_their_keys() -> None:
    keys = ["lab:cards/3S.JD.7H.KC", "lab:cards/3C.JH.7D.KS", "lab:cards/3S.JD/blue", "lab:map/shop.bank.mill",
            "lab:map/shop.bank.mill/night"]  # fmt: skip
    pixels = [np.asarray(draw_picture(key)) for key in keys]
    for key, one in zip(keys, pixels, strict=True):
        assert one.shape == (64, 64, 3)
        assert np.array_equal(one, np.asarray(draw_picture(key)))
    assert len({one.tobytes() for one in pixels}) == len(keys)
    black, red = (np.asarray(draw_picture(f"lab:cards/8{suit}"), dtype=int) for suit in "SH")
    assert (red[..., 0] > red[..., 1] + 100).any()
    assert not (black[..., 0] > black[..., 1] + 100).any()


def test_skills_with_pictures_ask_what_the_picture_shows() -> None:
    for name, style in (("cards", ""), ("cards-blue", "/blue"), ("places", ""), ("places-night", "/night")):
        for row in load_skill(name).generate_rows(5, "test", 0):
            (key,) = pictures_of(row.messages)
            shown = key.partition("/")[2].removesuffix(style).split(".")
            expected = [card[:-1] for card in shown] if name.startswith("cards") else shown
            assert row.answer == " ".join(row.reference) == " ".join(expected)
    for name, suits in (("points-cards-black", "SC"), ("points-cards-red", "HD")):
        for row in load_skill(name).generate_rows(5, "train", 0):
            (key,) = pictures_of(row.messages)
            assert row.prompt[0]["content"].startswith("Cards: <image>. J Q K count 10.")
            assert all(card[-1] in suits for card in key.removeprefix("lab:cards/").split("."))
    row = load_skill("route-map-night").generate_rows(1, "train", 0)[0]
    assert "You pass: <image>." in row.prompt[0]["content"]
    assert pictures_of(row.prompt)[0].endswith("/night")
