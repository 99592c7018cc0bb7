"""Match regular expressions against texts, for `core.bounded`: whether it ends is the answer. Never imported."""

import json
import re
import sys


def main() -> None:
    """Match every expression as PEFT does: the whole of a text, and what stands at its end behind a dot."""
    request = json.load(sys.stdin)
    for text in request["patterns"]:
        try:
            patterns = [re.compile(text), re.compile(rf"(.*\.)?({text})$")]
        except (re.error, RecursionError, OverflowError):
            continue  # whoever uses it says what is wrong with it
        for pattern in patterns:
            for name in request["texts"]:
                pattern.fullmatch(name)
    print("null")


if __name__ == "__main__":
    main()
