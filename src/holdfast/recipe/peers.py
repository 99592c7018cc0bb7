"""Other tools' settings: which mean the same here, which have no effect, and what to use instead of the rest.

Names are those of the trainers of Hugging Face (transformers, TRL, PEFT), LLaMA-Factory and Axolotl.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from holdfast.recipe.tree import Path, format_path

Convert = Callable[[Any], Any]


def _map_values(names: Mapping[str | int, str | None]) -> Convert:
    """A word or a switch as what it means here; other values as they are."""
    return lambda value: names.get(value, value) if isinstance(value, (str, int)) else value


PACKED = _map_values({True: "packed", False: "padded"})
PISSA = _map_values({True: "pissa", False: "default"})
SCHEDULES = _map_values({"constant_with_warmup": "constant", "cosine_with_min_lr": "cosine"})


def _parse_modules(value: Any) -> Any:
    """`q_proj,v_proj` as a list, `all` as PEFT's own word for it."""
    if not isinstance(value, str):
        return value
    names = [name.strip() for name in value.split(",") if name.strip()]
    return "all-linear" if names == ["all"] else names[0] if len(names) == 1 else names


def _list_paths(value: Any) -> Any:
    """Axolotl's list of data sets as their paths; how their rows are written is seen from the rows."""
    if not isinstance(value, list):
        return value
    paths = [part.get("path") if isinstance(part, dict) else part for part in value]
    return paths[0] if len(paths) == 1 else paths


SHOWN_BY = ("use_wandb", "use_mlflow", "use_tensorboard", "use_trackio")
"""Switches of trackers."""


SAME: dict[str, tuple[str, Convert | None]] = {
    "finetuning_type": ("tuner.name", None),
    "adapter": ("tuner.name", None),
    "stage": ("method", _map_values({"pt": "sft"})),
    "rl": ("method", None),
    "datasets": ("data.train", _list_paths),
    "eval_dataset": ("data.test", None),
    "validation_file": ("data.test", None),
    "val_set_size": ("data.test", None),
    "default_system": ("data.system", None),
    "max_samples": ("data.limit", None),
    "sample_packing": ("train.layout", PACKED),
    "neat_packing": ("train.layout", PACKED),
    "lr_scheduler": ("optimizer.schedule", SCHEDULES),
    "lora_target": ("tuner.target_modules", _parse_modules),
    "lisa_activated_layers": ("tuner.layers", None),
    "lisa_n_layers": ("tuner.layers", None),
    "lisa_interval_steps": ("tuner.every", None),
    "lisa_step_interval": ("tuner.every", None),
    "lora_modules_to_save": ("tuner.modules_to_save", None),
    "peft_use_dora": ("tuner.dora", None),
    "use_dora": ("tuner.dora", None),
    "use_rslora": ("tuner.rslora", None),
    "use_pissa": ("tuner.init", PISSA),
    "pissa_init": ("tuner.init", PISSA),
    "neftune_noise_alpha": ("objective.alpha", None),
    "beta": ("objective.beta", None),
    "pref_beta": ("objective.beta", None),
    "rl_beta": ("objective.beta", None),
    "label_smoothing": ("objective.label_smoothing", None),
    "report_to": ("track", None),
    **{key: ("track", _map_values({True: key.removeprefix("use_")})) for key in SHOWN_BY},
    "max_completion_length": ("sampling.max_tokens", None),
}
"""Names of which only those in their own place are read: at the top, in `train`, or in the part they speak of."""

ALIASES: dict[str, tuple[str, Convert | None]] = {
    "model_name_or_path": ("model", None),
    "base_model": ("model", None),
    "output_dir": ("output", None),
    "dataset": ("data.train", None),
    "dataset_name": ("data.train", None),
    "train_file": ("data.train", None),
    "test_file": ("data.test", None),
    "val_size": ("data.test", None),
    "system_prompt": ("data.system", None),
    "max_train_samples": ("data.limit", None),
    "on_long": ("data.too_long", _map_values({"truncate": "cut"})),
    "num_train_epochs": ("train.epochs", None),
    "num_epochs": ("train.epochs", None),
    "max_steps": ("train.max_steps", _map_values({-1: None})),
    "max_length": ("train.max_length", None),
    "max_seq_length": ("train.max_length", None),
    "cutoff_len": ("train.max_length", None),
    "sequence_len": ("train.max_length", None),
    "packing": ("train.layout", PACKED),
    "bf16": ("train.precision", _map_values({True: "bf16", False: "fp32"})),
    "save_total_limit": ("train.keep_checkpoints", None),
    "gradient_checkpointing": ("train.gradient_checkpointing", None),
    "torch_compile": ("train.compile", None),
    "seed": ("train.seed", None),
    "data_seed": ("train.seeds.order", None),
    "optim": (
        "optimizer.name",
        _map_values(
            {
                "adamw_torch": "adamw",
                "adamw_torch_fused": "adamw",
                "adamw_hf": "adamw",
                "adamw_bnb_8bit": "adamw_8bit",
                "rmsprop": "torch.optim.RMSprop",
                "adagrad": "torch.optim.Adagrad",
            }
        ),
    ),
    "learning_rate": ("optimizer.learning_rate", None),
    "lr": ("optimizer.learning_rate", None),
    "lr_scheduler_type": ("optimizer.schedule", SCHEDULES),
    "warmup_ratio": ("optimizer.warmup", None),
    "weight_decay": ("optimizer.weight_decay", None),
    "max_grad_norm": ("optimizer.max_grad_norm", None),
    "adam_epsilon": ("optimizer.eps", None),
    "lora_r": ("tuner.r", None),
    "lora_rank": ("tuner.r", None),
    "lora_alpha": ("tuner.alpha", None),
    "lora_dropout": ("tuner.dropout", None),
    "lora_target_modules": ("tuner.target_modules", None),
    **SAME,
}
"""Names that mean the same: where they live here, and how the value is translated."""

IMPLIED = {
    "lora_": ("tuner", "lora"),
    "lisa_": ("tuner", "lisa"),
    "peft_use_dora": ("tuner", "lora"),
    "use_dora": ("tuner", "lora"),
    "use_rslora": ("tuner", "lora"),
    "use_pissa": ("tuner", "lora"),
    "pissa_init": ("tuner", "lora"),
    "neftune_noise_alpha": ("objective", "neftune"),
}
"""Beginnings of names that speak of one method only: the axis it is chosen on, and the method."""

SWITCHES = frozenset({"report_to", *SHOWN_BY})
"""Names that are left out, not moved, where their value (`none`, say) switches something off."""

TEXT_ONLY = frozenset({"stage", "rl", "finetuning_type", "adapter"})
"""Names that are only those of the peers when their value is a text: a list at `stage` is meant for `stages`."""

BY_SIZE = "batches are sized by themselves to fit the memory"
SHARE = "counts in shares of the run, not in steps"
NO_UPLOAD = "nothing is uploaded; OUTPUT/model is a plain model: hf upload USER/NAME OUTPUT/model"
TRACKERS = "track knows tensorboard, wandb, mlflow and trackio; and every step is in OUTPUT/events.jsonl"
LAUNCHER = "several GPUs are used by `accelerate launch -m holdfast train`, with DDP or FSDP2"
BASE_BITS = "the frozen base of lora is held in so many bits by tuner.base_bits"
ONE_LOSS = "the preference losses are methods: dpo (objective.loss chooses among its losses), ipo, simpo, orpo, kto"

NO_EFFECT: dict[str, str] = {
    **dict.fromkeys(["do_train", "do_eval", "do_predict"], "train does both"),
    **dict.fromkeys(["overwrite_cache", "preprocessing_num_workers", "dataloader_num_workers", "dataset_num_proc",
                     "dataset_processes", "dataloader_pin_memory", "dataset_prepared_path"],
                    "rows are tokenised fast enough in one process"),
    **dict.fromkeys(["per_device_eval_batch_size", "eval_batch_size"], BY_SIZE),
    **dict.fromkeys(["logging_steps", "logging_strategy", "logging_first_step", "logging_dir"],
                    "every step is in OUTPUT/log.jsonl"),
    **dict.fromkeys(["eval_strategy", "evaluation_strategy"], "evaluate.every says when"),
    "save_strategy": "train.save_every says when",
    "save_safetensors": "models are always written so",
    "resume_from_checkpoint": "the same command goes on where it was",
    "plot_loss": "the report plots it",
    **dict.fromkeys(["flash_attention", "flash_attn", "attn_implementation", "sdp_attention"],
                    "torch's own fused attention is used"),
    **dict.fromkeys(["tf32", "use_liger_kernel", "liger_kernel", "enable_liger_kernel",
                     "use_unsloth", "group_by_length", "eval_sample_packing", "pad_to_sequence_len",
                     "gradient_checkpointing_kwargs", "remove_unused_columns", "ddp_timeout",
                     "ddp_find_unused_parameters", "use_cache", "fp16_full_eval", "bf16_full_eval"],
                    "speed is looked after here"),
    **dict.fromkeys(["model_type", "tokenizer_type", "is_llama_derived_model", "use_fast_tokenizer"],
                    "it is read from the model"),
    "lora_target_linear": "all linear maps are the default",
    "strict": "recipes are read strictly",
}  # fmt: skip
"""Names whose value changes no result: what takes care of it. They are left out, which is said."""

INSTEAD: dict[str, str] = {
    **dict.fromkeys(["load_in_4bit", "use_4bit", "quantization_bit"], f"{BASE_BITS}: 4"),
    **dict.fromkeys(["load_in_8bit", "use_8bit"], f"{BASE_BITS}: 8"),
    **dict.fromkeys(["bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant",
                     "double_quantization"], "tuner.base_bits: 4 is NF4 with quantized scales, computed with in bf16"),
    **dict.fromkeys(["quantization_method", "gptq"], "not supported: tuner.base_bits is 4 or 8, by bitsandbytes"),
    "wandb_project": "track: wandb shows the run, in the project that WANDB_PROJECT names in the environment",
    "wandb_entity": "track: wandb shows the run, under the name that WANDB_ENTITY has in the environment",
    **dict.fromkeys(["wandb_run_id", "wandb_name", "run_name"], "a run is called as its output directory is"),
    **dict.fromkeys(["wandb_watch", "wandb_log_model"], "not supported: track: wandb sends figures, and no weights"),
    "mlflow_tracking_uri": "track: mlflow shows the run, where MLFLOW_TRACKING_URI says in the environment",
    "mlflow_experiment_name": "track: mlflow shows it, in the experiment of MLFLOW_EXPERIMENT_NAME in the environment",
    **dict.fromkeys(["comet_project_name", "use_comet", "use_swanlab"], f"not supported: {TRACKERS}"),
    **dict.fromkeys(["push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo"],
                    f"not supported: {NO_UPLOAD}"),
    **dict.fromkeys(["deepspeed", "fsdp", "fsdp_config"], f"not supported: {LAUNCHER}"),
    "fp16": "not supported: 16-bit floats overflow in training; train.precision is auto, fp32 or bf16",
    "eval_steps": f"evaluate.every {SHARE}: 0.25 measures four times",
    "evals_per_epoch": f"evaluate.every {SHARE}: 0.25 measures four times",
    "save_steps": f"train.save_every {SHARE}: 0.25 saves four times",
    "saves_per_epoch": f"train.save_every {SHARE}: 0.25 saves four times",
    "warmup_steps": "optimizer.warmup is the share of the steps: 0.03",
    "adam_beta1": "optimizer.betas holds both: [0.9, 0.999]",
    "adam_beta2": "optimizer.betas holds both: [0.9, 0.999]",
    "lr_scheduler_kwargs": "optimizer.min_ratio is the last rate as a share of the peak",
    "overwrite_output_dir": "--restart begins anew and keeps the old run beside it",
    "template": "not supported: the model's own chat template is used; leave it out",
    "chat_template": "not supported: the model's own chat template is used; leave it out",
    "special_tokens": "not supported: the tokenizer of the model is used as it is",
    "resize_vocab": "not supported: the tokenizer of the model is used as it is",
    "dataset_dir": "data.train is the path of the file itself",
    "train_on_inputs": "not supported: only answers are trained on; of rows that are plain text, all of it",
    "mask_history": "not supported: every answer of a conversation is trained on, but those with `weight: 0`",
    "dataset_text_field": "data.columns says which column is what: {text: NAME}",
    "prompt_column": "data.columns says which column is what: {prompt: NAME, answer: NAME}",
    "response_column": "data.columns says which column is what: {prompt: NAME, answer: NAME}",
    "text_column": "data.columns says which column is what: {text: NAME}",
    "column_mapping": "data.columns says which column is what: {prompt: NAME, answer: NAME}",
    "pref_loss": ONE_LOSS,
    "loss_type": ONE_LOSS,
    "num_generations": "the curators say how many answers they draw: holdfast show s3ft",
    "max_prompt_length": "train.max_length is for prompt and answer together",
    "trust_remote_code": "not supported: no code of a model's repository is ever run",
    "torch_dtype": "train.precision is auto, fp32 or bf16",
    "freeze_trainable_layers": "tuner: {name: freeze, layers: N} trains the last N; below 0 means side: first",
    "freeze_trainable_modules": "tuner: {name: surgical, modules: [...], layers: [...]} trains some modules of layers",
    "freeze_extra_modules": "tuner: freeze has embeddings and head; surgical trains whatever it names",
    "unfrozen_parameters": "tuner: {name: surgical, modules: ...} trains what a list or an expression names",
    "shift_attn": "tuner: longlora trains with attention in shifted groups",
    "lora_model_dir": "model may be an adapter's folder, once it is merged: holdfast export RUN MERGED --merge",
    "use_galore": "not supported: lomo is the optimizer that holds no states",
    "loraplus_lr_ratio": "not supported as a rate: tuner lora_plus is the ratio 16 (any other is tuner.alpha)",
    "pissa_iter": "tuner.init is pissa, or pissa_niter_16",
    "pissa_convert": "an adapter is always stored as plain LoRA for the untouched base",
    "val_file": "data.test is a file or a share of the rows",
    "test_datasets": "data.test is a file or a share of the rows",
    "load_best_model_at_end": "train.keep: best ends with the weights of the best evaluation",
    "metric_for_best_model": "train.keep: best goes by the held-out loss, without one by the target",
    "early_stopping_patience": "train.patience is the number of evaluations without progress",
}  # fmt: skip
"""Names that mean something else here, or nothing: what to do instead. One switched off is left out, which is said."""


LLAMA_FACTORY = {
    "stage", "finetuning_type", "lora_target", "dataset_dir", "template", "cutoff_len", "overwrite_cache", "do_train",
    "preprocessing_num_workers", "plot_loss", "pref_beta", "pref_loss", "max_samples", "val_size", "quantization_bit",
}  # fmt: skip
AXOLOTL = {
    "base_model", "datasets", "val_set_size", "adapter", "sequence_len", "sample_packing", "micro_batch_size",
    "lora_target_linear", "evals_per_epoch", "saves_per_epoch", "flash_attention", "pad_to_sequence_len",
    "train_on_inputs", "dataset_prepared_path", "rl",
}  # fmt: skip
TRAINERS = {
    "model_name_or_path", "output_dir", "per_device_train_batch_size", "gradient_accumulation_steps",
    "num_train_epochs",
    "dataset_name", "lr_scheduler_type", "logging_steps", "save_steps", "report_to", "push_to_hub", "save_strategy",
    "eval_strategy", "dataset_text_field", "max_seq_length", "overwrite_output_dir",
}  # fmt: skip


def introduce_problems(data: Mapping[str, Any], moves: Mapping[Path, Path], name: str) -> list[str]:
    """A first line above what is wrong with another tool's recipe: what of it was understood, and as what.

    Args:
        data: The recipe as it was written; its top-level keys say whose it is.
        moves: New path to old path of every name that was understood.
        name: What the recipe is called in messages.
    """
    keys = set(data)
    counts = {"a LLaMA-Factory": len(keys & LLAMA_FACTORY), "an Axolotl": len(keys & AXOLOTL)}
    origin = max(counts, key=counts.__getitem__)
    if counts[origin] < 3:
        origin = "a Hugging Face" if len(keys & TRAINERS) >= 4 else ""
    if not origin:
        return []
    aliases_read = ", ".join(f"{format_path(old)} ({format_path(new)})" for new, old in moves.items())
    return [f"{name}: this is {origin} recipe; understood: {aliases_read or 'nothing'}; the rest is to be changed:"]


def is_switched_off(value: Any) -> bool:
    """Whether a setting's value says that it is not wanted."""
    return value is None or value is False or value in ("", "none", "no", "null", [], {})
