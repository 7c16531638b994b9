"""FusionModel: what training, auxiliary losses, the reasoner and reports may ask of any model.

Data flow: feature widths and Tasks of a dataset + auxiliary heads that the losses require -> a model;
Features by modality -> model -> Outputs.

Shapes: B rows, E experts, D feature width, d width, C outputs of a Task.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from hero_lightning.errors import ConfigError, DataError, FeatureError, in_range, one_of
from hero_lightning.models.outputs import Outputs
from hero_lightning.types import MODALITIES, Features


@dataclass(frozen=True)
class Shape:
    """Widths and depths of a model.

    Attributes:
        width: d, an even multiple of `num_heads`.
        queries: Q, query tokens of each Q-Former.
        layers: blocks of each Q-Former.
        num_heads: attention heads of every block.
        context_tokens: O, tokens of the context.
        dropout: of every block.
    """

    width: int = 768
    queries: int = 32
    layers: int = 2
    num_heads: int = 8
    context_tokens: int = 64
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for key in ("num_heads", "queries", "context_tokens"):
            in_range(f"model.{key}", getattr(self, key), "[1, inf)")
        in_range("model.dropout", self.dropout, "[0, 1)")
        if self.width < 1 or self.width % self.num_heads or self.width % 2:
            expected = f"an even multiple of num_heads={self.num_heads}"
            raise ConfigError(
                "The width does not fit the heads.", expected=expected, got=self.width, where="model.width"
            )


class FusionModel(nn.Module):
    """Base class of every model that `EmotionModule` trains.

    A subclass takes the arguments below and options of its own, and defines `forward`. `model._target_` names it in a
    config. Everything else has a default.

    Args:
        dims: modality -> feature width D.
        outputs: Task name -> number of outputs C.
        auxiliary_heads: heads that the auxiliary losses read; they are built only on request, so that no parameter
            lacks a gradient.

    Attributes:
        offers: auxiliary heads that the class can build.
        groups: constructor arguments that are dataclasses; a config has their fields among its other options.
        dims: the argument, in canonical order of the modalities.
        modalities: names of `dims`.
        auxiliary_heads: those built. A model whose modalities do not allow one removes it, and the losses that require
            it are left out.
        width: d of the context tokens; a language model needs to know it.
        pair: the sound and the movement that `match` compares.
        moments: steps over which `match` rotates the sound.

    Raises:
        ConfigError: unknown modality, no modality, no outputs, or a head that the class does not offer.
    """

    offers: ClassVar[frozenset[str]] = frozenset()
    groups: ClassVar[Mapping[str, type]] = {}
    dims: Mapping[str, int]
    outputs: Mapping[str, int]
    auxiliary_heads: Collection[str]
    width: int
    pair: tuple[str, str]
    moments: int

    def __init__(
        self, dims: Mapping[str, int], outputs: Mapping[str, int], auxiliary_heads: Collection[str] = ()
    ) -> None:
        super().__init__()
        for name in dims or ("none",):
            one_of("modality", name, MODALITIES)
        if min(outputs.values(), default=0) < 1:
            raise ConfigError("A model needs a Task with outputs.", got=dict(outputs), where="dataset.tasks")
        if missing := sorted(set(auxiliary_heads) - self.offers):
            raise ConfigError(
                "The model lacks a head that an auxiliary loss requires.",
                expected=f"losses that require {' or '.join(sorted(self.offers)) or 'no head'}",
                got=", ".join(missing),
                where="losses",
                hint=" ".join(f"loss@losses.{head}=none" for head in missing),
            )
        self.dims = {name: dims[name] for name in MODALITIES if name in dims}
        self.outputs, self.modalities = dict(outputs), tuple(self.dims)
        self.auxiliary_heads = frozenset(auxiliary_heads)

    def forward(
        self, features: Mapping[str, Features], explain: bool = False, items: tuple[Tensor, Tensor] | None = None
    ) -> Outputs:
        """Features by modality -> predictions and what explains them.

        Args:
            features: modality -> Features; a missing modality is absent in every row, one that is not in `dims` is
                ignored.
            explain: also compute `Outputs.time_attention`, where the model can.
            items: [B] item of the batch (e.g. a dialogue) that a row belongs to, and [B] its place in the item.

        Raises:
            DataError: none of the model's modalities is given, so that the number of rows is unknown.
            FeatureError: a modality has another width than the model was built for.
        """
        raise TypeError(f"{type(self).__name__} does not define forward")

    def complete(self, features: Mapping[str, Features]) -> dict[str, Features]:
        """Features of every modality of `dims`, each with at least one step; what is not given is absent in all rows.

        Raises: see `forward`.
        """
        given = next((features[name] for name in self.modalities if name in features), None)
        if given is None:
            known = list(self.modalities)
            raise DataError("The batch has none of the model's modalities.", expected=known, got=list(features))
        out: dict[str, Features] = {}
        for name, dim in self.dims.items():
            found = features.get(name)
            if found is not None and found.x.shape[-1] != dim:
                raise FeatureError(
                    f"Features of modality {name} do not fit the model.",
                    expected=f"width {dim}",
                    got=f"width {found.x.shape[-1]}",
                    where=f"modality.{name}",
                    hint="use the features the model was trained on, or train it again",
                )
            if found is None or not found.x.shape[1]:
                found = Features(given.x.new_zeros(len(given.x), 1, dim), given.mask.new_zeros(len(given.x), 1))
            out[name] = found
        return out

    def named_axes(self) -> Mapping[str, Mapping[int, Sequence[str]]]:
        """Parameter -> axis -> names of its equal blocks, for weights that start another run.

        Any submodule may define it. Rows of task heads need no declaration. Axis -1: one block, which is valid for
        exactly these names.
        """
        return {}

    def match(self, outputs: Outputs, donors: Tensor, shift: Tensor) -> Tensor:
        """Match logits [B] of recombined pairs, for the loss `Sync`; a model that offers `sync` defines it.

        Args:
            outputs: of this batch.
            donors: [B] row whose sound is put under the row's movement.
            shift: [B] steps (of `moments`) by which that sound is rotated.

        Raises:
            ConfigError: the model was built without the head `sync`.
        """
        raise ConfigError(
            "The model has no sync head.", expected="sync among its auxiliary_heads", where="model.auxiliary_heads"
        )

    def own_scores(self, outputs: Outputs, score: Tensor, labelled: Tensor) -> Tensor | None:
        """Labels [B, E] of each modality alone, for the loss `SelfLabels`; None = those of the clip.

        Args:
            outputs: of this batch.
            score: [B] label of the clip; zero is the border between the sides.
            labelled: [B] rows with a label.
        """
        return None
