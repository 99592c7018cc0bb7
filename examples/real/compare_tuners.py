"""Compare seven tuners on SNIPS under one budget: `python compare_tuners.py MODEL [OUT]`, where `prepare.py` wrote."""

from __future__ import annotations

import sys
from pathlib import Path

from holdfast import compare
from holdfast.recipe.loader import read_recipe

TUNERS = {
    "full": [],
    "lora": [],
    "ia3": [],
    "bitfit": ["tuner.add=true", "optimizer.learning_rate=4e-4"],  # Llama's maps have no biases: they get zeros
    "half": [],
    "adapter": [],
    "prompt": ["tuner.tokens=20"],
}
"""Settings beside the tuner's own defaults; others have the learning rate that `holdfast check` derives for them."""


def main() -> None:
    """Run what is not finished yet, and write `compare.json`."""
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    recipe = read_recipe(Path(__file__).with_name("smollm2-snips-tuners.yaml"), [f"model={sys.argv[1]}"])
    arms = {name: [f"tuner={name}", *settings] for name, settings in TUNERS.items()}
    compare(recipe, arms, out=sys.argv[2] if len(sys.argv) == 3 else None, progress=True)


if __name__ == "__main__":
    main()
