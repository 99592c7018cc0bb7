"""A client: it has rows of its own, trains on them for a round, and keeps what is its own in its folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.core.files import fresh_directory, read_json
from holdfast.errors import RunError
from holdfast.pipeline.federated.exchange import PAYLOAD, ClientReply, client_folder, write_tensors
from holdfast.pipeline.run_dir import replace_json

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.core.events import StepFinished
    from holdfast.data.batching.batches import TokenTable
    from holdfast.pipeline.federated.aggregation import Aggregation
    from holdfast.recipe.schema import Recipe
    from holdfast.training.trainer import Trainer

ROWS, WEIGHTS, REPLY = "rows.jsonl", "weights.safetensors", "reply.json"
TEMPLATE = "chat_template.jinja"


@dataclass(slots=True)
class Client:
    """Trains any of the clients whose folders are below `root`, one at a time: an ordinary training on its rows.

    All that a client knows is in its folder: `rows.jsonl`, and of each of its rounds what it was sent, what it had
    afterwards and its reply. A round that is there is not trained again, and one that was killed goes on from its last
    checkpoint, so that a repeated round ends bit for bit alike.

    Args:
        root: The federation's folder.
        recipe: Of every client.
        aggregation: What travels, and what a round begins with.
        rate_decay: Factor of the learning rate from round to round.
    """

    root: Path
    recipe: Recipe
    aggregation: Aggregation
    rate_decay: float = 1.0

    def train_round(self, name: str, number: int, payload: dict[str, Tensor]) -> ClientReply:
        """The reply to round `number`, from 0, which begins with what the server sent."""
        folder = client_folder(self.root, name)
        done = folder / f"round-{number:04d}"
        if read_json(done / REPLY) is None:
            trainer, metrics, units = self._train_model(name, number, self.prepare_weights(name, number, payload))
            weights = {key: p.detach().to("cpu", copy=True) for key, p in trainer.state.stored_parameters.items()}
            with fresh_directory(done) as side:
                write_tensors(side / WEIGHTS, weights)
                write_tensors(side / PAYLOAD, payload)
                replace_json(side / REPLY, {"units": units, "metrics": metrics})
            shutil.rmtree(folder / "train", ignore_errors=True)
            self._forget_rounds(folder, number)
        return self.read_reply(name, number)

    def read_reply(self, name: str, number: int) -> ClientReply:
        """The reply to a round that was trained."""
        from safetensors.torch import load_file

        done = client_folder(self.root, name) / f"round-{number:04d}"
        about = read_json(done / REPLY)
        if about is None:
            raise RunError(f"{done}: holds no reply of its client; run the same command again")
        own = load_file(done / WEIGHTS)
        tensors = {key: tensor for key, tensor in own.items() if self.aggregation.does_travel(key)}
        return ClientReply(name, tensors, about["units"], about["metrics"])

    def prepare_weights(self, name: str, number: int, payload: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a client begins round `number` with, of what it had after its last before that."""
        from safetensors.torch import load_file

        last = self._last_round(client_folder(self.root, name), number)
        own, then = ({}, {}) if last is None else (load_file(last / WEIGHTS), load_file(last / PAYLOAD))
        return self.aggregation.prepare_weights(own, then, payload)

    def _last_round(self, folder: Path, number: int) -> Path | None:
        """The client's last round before `number`."""
        earlier = [path for path in folder.glob("round-*") if path.name < f"round-{number:04d}"]
        return max((path for path in earlier if (path / REPLY).exists()), default=None)

    def _forget_rounds(self, folder: Path, number: int) -> None:
        """Remove the weights of rounds that no later one begins with."""
        last = self._last_round(folder, number)
        for path in folder.glob("round-*"):
            if last is not None and path.name < last.name:
                shutil.rmtree(path, ignore_errors=True)

    def _train_model(self, name: str, number: int, start: dict[str, Tensor]) -> tuple[Trainer, dict[str, float], float]:
        """Train on the client's rows; the trainer, what is told of it, and the units of its loss."""
        from holdfast.models.loading import load_model
        from holdfast.models.placement import choose_device
        from holdfast.models.row_thresholds import compute_density
        from holdfast.training.callbacks import Hooks, StartingPoint
        from holdfast.training.trainer import Trainer

        recipe = self._recipe_of_round(name, number)
        base = load_model(recipe.model, device=choose_device(recipe.device))
        table, pad_id = self._encode_table(name)
        steps: list[StepFinished] = []
        trainer = Trainer(
            recipe, base.model, table, client_folder(self.root, name) / "train" / f"{number:04d}",
            pad_id=pad_id, base=base.fingerprint,
            start=StartingPoint(start, self.recipe.train.init_seed), hooks=Hooks(on_step=steps.append),
        )  # fmt: skip
        result = trainer.fit()
        metrics = {
            "steps": float(result.steps), "loss": _rows_loss(steps, result.loss), "tokens": float(result.tokens),
            "trained_tokens": float(result.trained_tokens), "seconds": result.seconds,
            "density": compute_density(trainer.state.stored_parameters),
        }  # fmt: skip
        return trainer, metrics, _count_units(trainer)

    def _recipe_of_round(self, name: str, number: int) -> Recipe:
        """The recipe with seeds of its own, the recipe's for the first client's first round, and the round's rate."""
        recipe, train, more = self.recipe, self.recipe.train, 1_000_003 * number + int(name)
        seeds = {key: seed + more for key, seed in train.list_given_seeds().items() if key != "init"}
        rate = recipe.optimizer.learning_rate * self.rate_decay**number
        return recipe.model_copy(
            update={
                "train": train.model_copy(
                    update={"seed": train.seed + more, "seeds": train.seeds.model_copy(update=seeds)}
                ),
                "optimizer": recipe.optimizer.model_copy(update={"learning_rate": rate}),
                "evaluate": recipe.evaluate.model_copy(update={"every": 0.0}),
            }
        )

    def _encode_table(self, name: str) -> tuple[TokenTable, int]:
        """The client's rows as tokens, and the token that fills lines up."""
        from holdfast.data.chat.settings import settings_of
        from holdfast.data.row_store import RowFile
        from holdfast.models.loading import load_context, load_tokenizer
        from holdfast.pipeline.phases import encode_rows, rows_for_objective

        recipe, folder = self.recipe, client_folder(self.root, name)
        settings = settings_of(self.root)
        assert settings is not None, "the driver writes them before any client trains"
        template = (self.root / TEMPLATE).read_text(encoding="utf-8")
        chat = replace(settings, template=template).build_chat(load_tokenizer(recipe.model))
        rows = rows_for_objective(recipe, RowFile(folder / ROWS))
        context = load_context(recipe.model)
        return encode_rows(recipe, rows, chat, context)[0], chat.pad_id


def _rows_loss(steps: list[StepFinished], loss: float) -> float:
    """The last step's loss on rows, without the tuner's penalty; `loss` where all steps were done before."""
    from holdfast.training.setup import PENALTY

    return sum(value for term, value in steps[-1].terms.items() if term != PENALTY) if steps else loss


def _count_units(trainer: Trainer) -> float:
    """What the first term of the loss is divided by over all rows."""
    batches = trainer.state.all_batches()()
    return sum(next(iter(trainer.recipe.objective.normalizers(batch).values())) for batch in batches)
