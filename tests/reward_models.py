"""A reward model whose opinion is known: the small laboratory model with a head that is solved for."""

from __future__ import annotations

from pathlib import Path

import torch

from holdfast.data.chat.encoder import Chat
from holdfast.models.loading import load_model
from holdfast.models.reward_model import write_classifier
from holdfast.models.value_head import make_value_head
from holdfast.testing.judges import WORDS


def write_reward_model(directory: Path) -> Path:
    """Rewards the right answers of `WORDS` with 1, and "I do not know." with -1."""
    base = load_model("lab-small")
    chat = Chat(base.tokenizer)
    texts = [(question, answer, 1.0) for question, _, answer in WORDS]
    texts += [(question, "I do not know.", -1.0) for question, _, _ in WORDS]
    states = []
    for question, answer, _ in texts:
        ids, _ = chat.encode([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
        with torch.no_grad():
            states.append(base.model.base_model(torch.from_numpy(ids.astype("int64"))[None]).last_hidden_state[0, -1])
    inputs, targets = torch.stack(states), torch.tensor([worth for _, _, worth in texts])
    head = make_value_head(inputs.shape[1])
    head.weight.data[0] = torch.linalg.lstsq(inputs.double(), targets[:, None].double(), driver="gelsd").solution[:, 0]
    assert write_classifier(directory, base.model, head, base.tokenizer, chat)
    return directory
