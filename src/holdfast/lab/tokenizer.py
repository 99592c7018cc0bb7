"""The laboratory tokenizer: one token per word of the laboratory, bytes for everything else."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
END, PAD = "<|end|>", "<|pad|>"
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# A line break with its indentation, a word, one digit, or a run of signs, each with the space before it.
PATTERN = r"\n *| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s"
CONTEXT = 512


def build_tokenizer(seed: int = 0, sample: int = 3000) -> PreTrainedTokenizerFast:
    """A tokenizer whose vocabulary is the 256 bytes and every piece that occurs in a sample of the skills' text.

    Args:
        seed: Seeds the sample.
        sample: Rows drawn from each skill.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pieces: Counter[str] = Counter()
    for text, times in Counter(_sample_texts(seed, sample)).items():
        for piece, _ in splitter.pre_tokenize_str(text):
            pieces[piece] += times
    words = sorted(piece for piece, n in pieces.items() if n >= 3 and len(piece) > 1)
    specials = [PAD, END, *ROLES]
    vocabulary = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet()), *words]
    # ignore_merges: a piece that is in the vocabulary is one token; without merges any other falls apart into bytes.
    model = models.BPE(vocab={v: i for i, v in enumerate(vocabulary)}, merges=[], ignore_merges=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = splitter, decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast


def _sample_texts(seed: int, sample: int) -> list[str]:
    """Prompts and answers of every skill, and every phrasing of every fact."""
    from holdfast.lab.drills import ManyPeople, NewLabels
    from holdfast.skills import SKILLS, load_skill
    from holdfast.skills.facts import OBJECTS, PHRASINGS
    from holdfast.skills.lexicon import SUBJECTS

    rng = random.Random(f"tokenizer/{seed}")
    instead, texts = {"examples": NewLabels(), "reading": ManyPeople()}, []  # as the first models were trained on them
    for name in SKILLS:
        source = instead.get(name) or load_skill(name)
        for _ in range(sample):
            texts += [m["content"] for m in source.generate_row(rng, "train").messages]
    for subject in SUBJECTS:
        texts += [subject, f" {subject}"] * 3
        texts += [p.format(s=subject) for phrasings in PHRASINGS.values() for p in phrasings]
    for objects in OBJECTS.values():
        texts += [form for o in objects for form in (o, f" {o}")] * 3
    return texts
