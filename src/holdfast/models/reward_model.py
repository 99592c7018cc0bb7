"""Reward models: a language model with a number in the place of its next token, written and read without pickles.

A run with objective `reward` leaves its language model in `model/`, the number's head beside it, and both together in
`reward_model/`, which transformers loads by `AutoModelForSequenceClassification` (one label). The reward of an answer
stands on its last token, the one that ends the turn.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from holdfast.core.files import fresh_directory
from holdfast.data.batching.batches import EncodedSequence, collate_sequences
from holdfast.data.chat.encoder import Chat
from holdfast.data.chat.settings import ChatSettings, settings_of, write_settings
from holdfast.data.rows import fingerprint_json
from holdfast.errors import UserError
from holdfast.models.files import explain_load_errors
from holdfast.models.loading import (
    context_length,
    fingerprint_of,
    load_model,
    load_tokenizer,
    locate_model,
    own_dtype,
)
from holdfast.models.merging import merged_copy
from holdfast.models.placement import choose_device, weights_dtype
from holdfast.models.policy import Policy
from holdfast.models.saving import give_rights
from holdfast.models.value_head import load_value_head, save_value_head

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from holdfast.axes.tuner import Tuner
    from holdfast.data.rows import Message
    from holdfast.models.loading import Model

FOLDER, FILE = "reward_model", "reward_head.safetensors"
"""Names in a run's directory: of both together, and of the head alone."""
MICRO_TOKENS = 8192
"""Positions of one forward pass, padding included."""


class RewardModel:
    """Says what answers are worth.

    Args:
        chat: Writes conversations as it was trained to read them.
        score_lines: From right-padded ids [B, L] and lengths [B] to rewards [B], fp32.
        context: Most tokens it reads; `None` where nothing limits them.
        fingerprint: Of its weights, the head included.
    """

    def __init__(
        self, chat: Chat, score_lines: Callable[[Tensor, Tensor], Tensor], context: int | None, fingerprint: str = ""
    ) -> None:
        self.chat, self.score_lines, self.context, self.fingerprint = chat, score_lines, context, fingerprint

    @torch.no_grad()
    def score_conversations(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        """The reward of the last answer of each conversation; of one that is too long, of its last tokens."""
        ids = [encoding[0] if self.context is None else encoding[0][-self.context :]
               for encoding in self.chat.encode_many([list(messages) for messages in conversations])]  # fmt: skip
        rewards = [0.0] * len(ids)
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        begin = 0
        while begin < len(order):
            numbers = order[begin : begin + max(1, MICRO_TOKENS // max(1, len(ids[order[begin]])))]
            lengths = torch.tensor([len(ids[i]) for i in numbers])
            lines = torch.full((len(numbers), int(lengths.max())), self.chat.pad_id)
            for line, i in zip(lines, numbers, strict=True):
                line[: len(ids[i])] = torch.from_numpy(ids[i].astype("int64"))
            for i, reward in zip(numbers, self.score_lines(lines, lengths).tolist(), strict=True):
                rewards[i] = reward
            begin += len(numbers)
        return rewards


def find_reward_problem(name: str) -> str | None:
    """Why what is called so is no reward model, and what to do; `None` where it is one."""
    path = locate_model(name)
    if _head_directory(Path(name), path) is not None or is_classifier(path):
        return None
    return (
        f"{name} is no reward model: it has neither a {FILE} of a run with objective reward, nor one label of a "
        "ForSequenceClassification; train one with objective reward"
    )


def reward_fingerprint(name: str) -> str:
    """Names the weights, the head included."""
    path = locate_model(name)
    head = _head_directory(Path(name), path)
    return fingerprint_json([fingerprint_of(path), (head / FILE).read_bytes().hex() if head else ""])


def load_reward_model(name: str, device: torch.device | str = "auto") -> RewardModel:
    """Read a reward model: a run of ours, or any `ForSequenceClassification` with one label.

    Raises:
        UserError: If it is none.
    """
    if problem := find_reward_problem(name):
        raise UserError(problem)
    model = _read_reward_model(name, choose_device(device) if isinstance(device, str) else device)
    model.fingerprint = reward_fingerprint(name)
    return model


def _read_reward_model(name: str, device: torch.device) -> RewardModel:
    path = locate_model(name)
    if (head := _head_directory(Path(name), path)) is None:
        return _read_classifier(path, device)
    loaded_model = load_model(path, device=device)
    policy = Policy(loaded_model.model)
    policy.value_head = load_value_head(head, device, FILE)
    chat = (settings_of(path) or ChatSettings()).build_chat(loaded_model.tokenizer)
    return build_reward_model(policy, chat, device)


def build_reward_model(policy: Policy, chat: Chat, device: torch.device) -> RewardModel:
    """The reward model of a policy with a value head, as it stands in memory."""

    def score_lines(lines: Tensor, lengths: Tensor) -> Tensor:
        sequences = [
            EncodedSequence(ids=line[:n].numpy().astype("int32"), label_mask=torch.arange(n).numpy() == n - 1, row=row)
            for row, (line, n) in enumerate(zip(lines, lengths.tolist(), strict=True))
        ]
        batch = collate_sequences(sequences, "padded", chat.pad_id)
        assert batch is not None
        return policy.predict_values_at(batch.to(device), last_positions(batch).to(device)).cpu()

    return RewardModel(chat, score_lines, context_length(policy.config, policy.virtual))


def last_positions(batch: Any) -> Tensor:
    """Where the last label of each sequence itself stands, flat [S]; `label_positions` are of what predicts it."""
    counts = torch.bincount(batch.sequence, minlength=batch.n_sequences)
    return batch.label_positions[counts.cumsum(0) - 1] + 1


def is_classifier(path: Path) -> bool:
    """Whether a folder holds a `ForSequenceClassification` with one label."""
    config = _read_config(path)
    names = config.architectures or []
    return config.num_labels == 1 and any(name.endswith("ForSequenceClassification") for name in names)


def save_reward_model(
    run: Path, model: Model, tuner: Tuner, head: nn.Linear, tokenizer: PreTrainedTokenizerBase, chat: Chat
) -> str:
    """Write the head into a run's directory, and `reward_model/` where that can be; a sentence about both."""
    save_value_head(head, run, FILE)
    if tuner.adapter and not tuner.mergeable:
        why = "what its tuner trains cannot be folded into the weights"
    elif write_classifier(run / FOLDER, merged_copy(model, tuner), head, tokenizer, chat):
        return f"the reward model is {run / FOLDER}, for AutoModelForSequenceClassification too"
    else:
        why = "transformers has no classifier of this architecture"
    return f"the reward model is {run} ({FILE}) for judge reward_model alone: {why}"


def write_classifier(
    directory: Path, model: PreTrainedModel, head: nn.Linear, tokenizer: PreTrainedTokenizerBase, chat: Chat
) -> bool:
    """Write body and head as transformers' own class; `False`, and nothing written, where it has none.

    Args:
        model: A plain causal language model; the body of what is written.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as MAPPING

    config = copy.deepcopy(model.config)
    if type(config) not in MAPPING:
        return False
    tokenizer = copy.copy(tokenizer)
    tokenizer.chat_template = chat.template.text
    # transformers looks for the last token that is no padding: what ends an answer must not be taken for it.
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in chat.stop_ids:
        spare = [(t, tokenizer.convert_tokens_to_ids(t)) for t in (tokenizer.unk_token, tokenizer.bos_token) if t]
        tokenizer.pad_token = next((token for token, number in spare if number not in chat.stop_ids), None)
    config.num_labels, config.pad_token_id = 1, tokenizer.pad_token_id
    with torch.device("meta"):
        classifier = cast("type[PreTrainedModel]", MAPPING[type(config)])(config)
    score = getattr(classifier, "score", None)
    if not isinstance(score, nn.Linear) or score.weight.shape != head.weight.shape:
        return False
    body = {name: p.detach().cpu() for name, p in model.base_model.state_dict().items()}
    classifier.base_model.load_state_dict(body, assign=True)
    score.weight = nn.Parameter(head.weight.detach().cpu().to(model.dtype))
    if score.bias is not None:
        score.bias = nn.Parameter(head.bias.detach().cpu().to(model.dtype))
    with fresh_directory(directory) as side:
        classifier.save_pretrained(side)
        tokenizer.save_pretrained(side)
        write_settings(side, chat)
        give_rights(side)
    return True


def _read_classifier(path: Path, device: torch.device) -> RewardModel:
    from transformers import AutoModelForSequenceClassification

    with explain_load_errors(path):
        config = _read_config(path)
        model = AutoModelForSequenceClassification.from_pretrained(
            path,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=weights_dtype(own_dtype(path), device),
        )
    model = model.to(device).eval()
    chat = (settings_of(path) or ChatSettings()).build_chat(load_tokenizer(path))
    score = getattr(model, "score", None)

    def score_lines(lines: Tensor, lengths: Tensor) -> Tensor:
        if not isinstance(score, nn.Linear):  # another kind of head: it looks at each line as it thinks right
            lone_lines = [line[None, :n].to(device) for line, n in zip(lines, lengths.tolist(), strict=True)]
            return torch.cat([model(line).logits[:, 0] for line in lone_lines]).float().cpu()
        mask = torch.arange(lines.shape[1]) < lengths[:, None]
        states = model.base_model(lines.to(device), attention_mask=mask.long().to(device)).last_hidden_state
        last = states[torch.arange(len(lines), device=device), lengths.to(device) - 1]  # [B, D]
        return score(last)[:, 0].float().cpu()

    return RewardModel(chat, score_lines, context_length(config))


def _read_config(path: Path) -> PreTrainedConfig:
    from transformers import AutoConfig

    with explain_load_errors(path):
        return AutoConfig.from_pretrained(path, trust_remote_code=False)


def _head_directory(name: Path, path: Path) -> Path | None:
    """Where the head of a run lies: in the run's directory, which was given, or whose `model/` was."""
    places = (name.expanduser(), path.parent) if path.name == "model" else (name.expanduser(),)
    return next((place for place in places if (place / FILE).is_file()), None)
