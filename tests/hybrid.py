"""Tiny random models whose layers are not all attention, and folders of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 256}  # fmt: skip
MAMBA = {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1}
KINDS: dict[str, dict[str, Any]] = {
    "lfm2": SIZES | {"layer_types": ["conv", "full_attention"]},
    "mamba": MAMBA,
    "mamba2": MAMBA | {"num_heads": 8, "head_dim": 8, "expand": 2, "n_groups": 1, "chunk_size": 16},
    "jamba": SIZES | EXPERTS | {
        "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
        "mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False,
    },
    "qwen3_next": SIZES | EXPERTS | {
        "num_hidden_layers": 4, "head_dim": 8, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8, "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "recurrent_gemma": SIZES | {
        "num_hidden_layers": 3, "head_dim": 8, "lru_width": 32, "attention_window_size": 64,
        "block_types": ["recurrent", "recurrent", "attention"],
    },
    "rwkv": {"hidden_size": 32, "attention_hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "context_length": 256, "rescale_every": 1},
}  # fmt: skip


def hybrid(kind: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A seeded random model in eval mode."""
    shared = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id,
              "eos_token_id": tokenizer.eos_token_id, "bos_token_id": 0, "initializer_range": 0.2}  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **shared, **KINDS[kind])
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def hybrid_dir(kind: str, tokenizer: PreTrainedTokenizerBase, directory: Path) -> Path:
    """The model and its tokenizer, saved by transformers."""
    hybrid(kind, tokenizer).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
