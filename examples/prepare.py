"""Makes the examples' files from a folder of public data sets: `REAL=/path/to/data python examples/prepare.py`."""

from __future__ import annotations

import json
import os
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """SNIPS utterances with their intent as prompt and completion; held-out stories as plain text."""
    real = Path(os.environ["REAL"])
    folder = real / "data" / "snips" / "snips" / "train"
    rows = zip((folder / "seq.in").read_text().splitlines(), (folder / "label").read_text().splitlines(), strict=True)
    with open(HERE / "snips.jsonl", "w", encoding="utf-8") as handle:
        for text, label in list(rows)[:3000]:
            # A prompt that ended in a full stop would be answered with the end of the story at once.
            handle.write(json.dumps({"prompt": f"{text.strip()} : ", "completion": label.strip()}) + "\n")
    stories = real / "data" / "tinystories_text" / "tinystories_valid_30K.txt"
    (HERE / "stories.txt").write_text(stories.read_text(encoding="utf-8"), encoding="utf-8")


if __name__ == "__main__":
    main()
