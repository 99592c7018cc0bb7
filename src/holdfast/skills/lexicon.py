"""The closed vocabulary of the laboratory: every word is one token of its model, so that questions stay short."""

from __future__ import annotations

PEOPLE = [
    "Anna",
    "Ben",
    "Cara",
    "Dan",
    "Eva",
    "Finn",
    "Gina",
    "Hugo",
    "Iris",
    "Jack",
    "Kate",
    "Leo",
    "Mia",
    "Noah",
    "Olga",
    "Paul",
    "Rosa",
    "Sam",
    "Tina",
    "Vera",
    "Will",
    "Zoe",
    "Max",
    "Lily",
]
THINGS = [
    "apples",
    "pears",
    "books",
    "coins",
    "cards",
    "shells",
    "stones",
    "pens",
    "cups",
    "eggs",
    "cakes",
    "balls",
    "keys",
    "maps",
    "rings",
    "seeds",
    "stars",
    "boats",
    "bells",
    "hats",
]
ANIMALS = ["cat", "dog", "fox", "owl", "cow", "pig", "hen", "bee", "ant", "bat", "frog", "crab"]
FOODS = ["rice", "soup", "bread", "cheese", "honey", "corn", "beans", "plums", "nuts", "figs", "milk", "tea"]
COLORS = ["red", "blue", "green", "black", "white", "brown", "pink", "gray", "gold", "purple"]
TOOLS = ["hammer", "saw", "drill", "axe", "spade", "rope", "nail", "brush", "knife", "fork"]
TOWNS = ["Arlen", "Boro", "Corin", "Delmar", "Elden", "Farro", "Galen", "Harlow", "Ivern", "Jarrow", "Kelso", "Lorne"]
JOBS = ["baker", "pilot", "nurse", "judge", "farmer", "singer", "tailor", "miner", "writer", "guard"]
PLACES = ["shop", "bank", "park", "mill", "school", "church", "bridge", "tower", "market", "station"]
LABELS = ["zig", "zag", "foo", "bar", "dax", "wug", "blick", "toma"]
LETTERS = ["a", "b", "c", "d", "e", "f", "g", "h", "j", "k", "m", "n", "p", "r", "s", "t"]
CATEGORIES = {"animal": ANIMALS, "food": FOODS, "color": COLORS, "tool": TOOLS}

_ONSETS = ["B", "D", "F", "G", "K", "L", "M", "N", "P", "R", "S", "T", "V", "Z"]
_ENDINGS = ["abor", "eldin", "ikan", "oreth", "umar", "avix"]
SUBJECTS = [onset + ending for ending in _ENDINGS for onset in _ONSETS]
"""84 invented people, known only through the facts the model was shown (`skills/facts.py`)."""

CONCEPTS = {
    "noun": ["cat", "dog", "fox", "owl", "cow", "pig", "hen", "bee", "frog", "crab", "boat", "stone"],
    "adjective": ["red", "blue", "green", "black", "white", "small", "big", "old"],
    "verb": ["sees", "takes", "finds", "likes", "eats", "holds"],
}
_LUM = ["bo", "da", "fi", "gu", "ka", "le", "mo", "ne", "pu", "ra", "so", "ti", "vu", "wa", "ze", "yo"]
_TAVI = ["esk", "orm", "ulf", "ish", "ank", "elt", "ord", "usk", "irn", "amp", "ott", "ewl", "ifs", "osh", "urb", "akt"]


def _add_suffix(stems: list[str], suffix: str) -> list[str]:
    return [stem + suffix for stem in stems]


LUM = {
    kind: dict(zip(words, _add_suffix(_LUM, {"noun": "", "adjective": "l", "verb": "x"}[kind]), strict=False))
    for kind, words in CONCEPTS.items()
}
TAVI = {
    kind: dict(zip(words, _add_suffix(_TAVI, {"noun": "", "adjective": "i", "verb": "u"}[kind]), strict=False))
    for kind, words in CONCEPTS.items()
}
"""Two invented languages with one word for each concept; they differ in word order (`skills/cipher.py`)."""
