"""Half fine-tuning (HFT): half of every layer moves, the other half stays what it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from holdfast.axes.tuner import Tuner
from holdfast.errors import UserError
from holdfast.methods.tuners.matrix_units import units_by_category

if TYPE_CHECKING:
    import numpy as np

    from holdfast.methods.tuners.matrix_units import Units
    from holdfast.models.loading import Model


class Half(Tuner):
    """Half of each layer's matrices move, the other half stay frozen. [Hui et al. 2024, arXiv 2404.18466]

    What: a random 0/1 mask M over the matrices of the transformer layers, drawn once per round;
    theta_t = theta_{t-1} - M * update(grad L), the same as penalising ||(1 - M)(theta - theta_0)||^2 without bound.
    Per layer: 2 of W_Q, W_K, W_V, W_O; of W_gate, W_up, W_down 2 in a random half of the layers and 1 in the others;
    1 of the 2 norms. Where an MLP has two matrices, or attention one fused matrix and the output map (GPT-2, Phi-3), a
    random half of the layers moves the first and the others the second: half of the weights move, exactly, over an even
    number of layers. A fused matrix (c_attn, qkv_proj, gate_up_proj) is one unit: freezing some of its rows would leave
    them in the optimizer, behind masked gradients. With grouped-query attention K and V are smaller and the
    realised share differs (see `trainable_share`). A bias goes with its matrix. Embeddings and head move. Frozen
    weights are out of the optimizer: no decay, no momentum.

    When it helps: the paper reports target scores at or above full fine-tuning, clearly less lost knowledge and about
    30 % less time. One line, nothing to tune; shares from 0.4 to 0.6 do alike.

    When it fails: very small models, where each matrix is needed; a tied embedding (it moves, and the head with it).

    Columns needed: none beyond the objective's.

    Continual learning: every stage of a recipe draws anew, its number being the `round`; from run to run say `round: 1,
    2, ...`. `redraw: run` keeps one draw for all stages, `redraw: epoch` draws anew with every pass over the rows (who
    goes on moving keeps its optimizer state, who is drawn begins with none). `complement` moves what the same draw had
    frozen.

    Stored: all weights. Not an adapter.

    Paper: Hui, Zhang, Wang, Xu, Sun, Wu 2024, arXiv 2404.18466 (ACL 2025). Numbers there (Llama-2-7B, TRACE in
    sequence): full 45.7, model 46.9, layer 47.9, category 51.3.
    """

    paper: ClassVar[str] = "Hui et al. 2024, arXiv 2404.18466"
    counts_stages: ClassVar[str] = "round"
    formula: ClassVar[str] = "embeddings + head + share · (P - embeddings - head), as the draw comes out"

    share: float = Field(0.5, ge=0, le=1, description="Share of the matrices that move.")
    level: Literal["category", "layer", "model"] = Field(
        "category",
        description="Draw within each layer's attention, MLP and norms, within each layer, or over the model.",
    )
    embeddings: bool = Field(True, description="Whether embeddings, head and the final norm move.")
    round: int = Field(0, ge=0, description="Number of the draw in a sequence of trainings; default: the stage's.")
    redraw: Literal["run", "stage", "epoch"] = Field(
        "stage",
        description="Draw once, for every stage of a recipe, or for every pass over the rows.",
    )
    complement: bool = Field(False, description="Move exactly the layers' weights that this draw would freeze.")

    def check(self, model: Model) -> None:
        """See that the model has layers to draw from, and that some weights move.

        Raises:
            UserError: If not.
        """
        from holdfast.models.loading import build_skeleton

        skeleton = self.apply(build_skeleton(model.config), 0)
        self.apply_draw(skeleton, 0, 0)
        if not any(p.requires_grad for p in skeleton.parameters()):
            raise UserError(
                f"tuner: half with share {self.share:g} of these matrices and without the embeddings leaves nothing to "
                "train; set a larger tuner.share, or tuner.embeddings: true"
            )

    def apply(self, model: Model, seed: int) -> Model:
        """Freeze, in place, all that the draw of (`seed`, `round`) does not move; with `redraw: epoch` what no draw
        does.
        """
        self.apply_draw(model, seed, 0)
        if self.redraw == "epoch":
            for units in self._list_units(model):
                for parameter in (p for unit in units for p in unit):
                    parameter.requires_grad_(True)
        return model

    def draw_number(self, step: int, steps: int, epoch: int) -> int | None:
        """With `redraw: epoch` the number of the pass over the rows."""
        return epoch if self.redraw == "epoch" else None

    def apply_draw(self, model: Model, seed: int, draw: int) -> None:
        """Set `requires_grad` as the draw of (`seed`, `round`, `draw`) has it."""
        import numpy as np

        from holdfast.training.distributed import find_layers

        number = 0 if self.redraw == "run" else self.round
        generator = np.random.default_rng([seed, number, draw] if draw else [seed, number])
        layers = [units_by_category(layer) for layer in find_layers(model)]
        model.requires_grad_(self.embeddings)
        for pool in self._unit_pools(layers):
            for units, moving in zip(pool, self._draw_moving_units(pool, generator), strict=True):
                for index, unit in enumerate(units):
                    for parameter in unit:
                        parameter.requires_grad_((index in moving) != self.complement)

    def _list_units(self, model: Model) -> list[Units]:
        """All that is drawn from, by layer."""
        from holdfast.training.distributed import find_layers

        return [[unit for units in units_by_category(layer).values() for unit in units] for layer in find_layers(model)]

    def count_trainable(self, model: Model, seed: int = 0) -> int:
        """What the draw of `seed` moves: exactly its share where the matrices it chooses from are equally large."""
        from holdfast.models.loading import build_skeleton

        skeleton = self.apply(build_skeleton(model.config), seed)
        self.apply_draw(skeleton, seed, 0)
        return sum(p.numel() for p in skeleton.parameters() if p.requires_grad)

    def _unit_pools(self, layers: list[dict[str, Units]]) -> list[list[Units]]:
        """Lists (over the layers) of the units one draw chooses from."""
        if self.level == "category":
            return [[layer[name] for layer in layers if name in layer] for name in ("attention", "mlp", "norm")]
        layer_units = [[unit for units in layer.values() for unit in units] for layer in layers]
        return [layer_units] if self.level == "layer" else [[[unit for layer in layer_units for unit in layer]]]

    def _draw_moving_units(self, pool: list[Units], generator: np.random.Generator) -> list[set[int]]:
        """For each layer the indexes that move: round(share * all) in all, as evenly over the layers as can be."""
        if not pool:
            return []
        order = generator.permutation(len(pool))
        if self.share == 0.5 and {len(units) for units in pool} == {2}:
            first = set(order[: len(pool) // 2].tolist())
            return [{0} if layer in first else {1} for layer in range(len(pool))]
        quota = [int(self.share * len(units)) for units in pool]
        rest = round(self.share * sum(map(len, pool))) - sum(quota)
        for layer in order[:rest]:
            quota[layer] += 1
        return [set(generator.permutation(len(units))[:n].tolist()) for units, n in zip(pool, quota, strict=True)]
