"""Every sentence of the board in every language it speaks; the catalogue is `texts.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

LANGUAGES = {"en": "English", "ja": "日本語"}
DEFAULT = "en"


@cache
def read_catalogue() -> Mapping[str, Mapping[str, str]]:
    """Key to language to text."""
    text = files("holdfast.board").joinpath("texts.json").read_text(encoding="utf-8")
    return json.loads(text)  # type: ignore[no-any-return]


def choose_language(chosen: str, accept: str) -> str:
    """The language of a page.

    Args:
        chosen: What the reader chose, "" for nothing.
        accept: The browser's Accept-Language.
    """
    if chosen in LANGUAGES:
        return chosen
    codes = (part.partition(";")[0].strip().partition("-")[0].lower() for part in accept[:200].split(","))
    return next((code for code in codes if code in LANGUAGES), DEFAULT)


class Texts:
    """The catalogue in one language; called with a key, it gives the text.

    Args:
        language: Of the texts.
    """

    def __init__(self, language: str) -> None:
        self.language = language

    def has_text(self, key: str) -> bool:
        """Whether there is such a text: names that the toolkit gives may be new."""
        return key in read_catalogue()

    def __call__(self, key: str, **values: object) -> str:
        return read_catalogue()[key][self.language].format(**values)
