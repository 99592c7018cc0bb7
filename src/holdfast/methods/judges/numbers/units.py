"""Units and scales that answers carry beside their number."""

from __future__ import annotations

SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
"""Words that multiply the number before them."""

_SPELLINGS = """
kilometer: km kilometers kilometre kilometres
meter: m meters metre metres
centimeter: cm centimeters centimetre centimetres
millimeter: mm millimeters millimetre millimetres
mile: miles mi
foot: ft feet
inch: inches
yard: yards yd
kilogram: kg kilograms kgs kilos
gram: g grams
milligram: mg milligrams
pound: lb lbs pounds
ounce: oz ounces
liter: L l liters litre litres
milliliter: ml mL milliliters millilitre millilitres
second: s sec secs seconds
minute: min mins minutes
hour: h hr hrs hours
day: days
week: weeks
month: months
year: years yr yrs
dollar: dollars usd USD
cent: cents
euro: euros EUR
degree: degrees
km/h: kmh kph
mile/h: mph
newton: N newtons
joule: J joules
watt: W watts
volt: V volts
kelvin: K
celsius: C
fahrenheit: F
"""
UNITS = {
    spelling: name
    for line in _SPELLINGS.strip().splitlines()
    for name, _, more in [line.partition(": ")]
    for spelling in (name, *more.split())
}
"""Spelling to unit. What is not here says nothing: "5 apples" is 5."""

FRACTIONS = frozenset(["half", "halves", "third", "thirds", "quarter", "quarters", "fifths"])
TAKEN_OF = FRACTIONS | {"root", "square", "cube", "fifth", "log", "logarithm", "factorial", "power", "reciprocal"}
"""Words before "of 5" that change what is meant."""
COMPARING = frozenset(["between", "than", "least", "most", "fewer", "times", "plus", "divided", "modulo"])
"""Words right before a number that change what is meant."""
ALTERING = FRACTIONS | {
    "squared", "cubed", "factorial", "times", "plus", "minus", "divided", "multiplied", "modulo", "mod", "choose",
    "or", "and", "to", "between",
}  # fmt: skip
"""Words right behind a number that change what is meant."""
