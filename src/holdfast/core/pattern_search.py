"""Look for a regular expression in texts, for `core.bounded`. Never imported."""

import json
import re
import sys


def main() -> None:
    """Whether each text holds the expression, as a list of truth values."""
    request = json.load(sys.stdin)
    pattern = re.compile(request["pattern"])
    print(json.dumps([pattern.search(text) is not None for text in request["texts"]]))


if __name__ == "__main__":
    main()
