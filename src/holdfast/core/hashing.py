"""Fingerprints of what is in memory."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def tensor_fingerprint(model: PreTrainedModel | PeftModel) -> str:
    """SHA-256 of a model's configuration and weights as they are in memory."""
    import torch

    # What saving writes into the configuration says nothing that class, names and dtypes of the weights do not.
    volatile_keys = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
    settings = {k: v for k, v in model.config.to_dict().items() if k not in volatile_keys}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
