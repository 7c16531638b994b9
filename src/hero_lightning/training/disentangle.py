"""Losses that take something out of a summary: what was said (STMIL), who spoke (adversary).

Data flow: summaries of the experts -> an upper bound on their mutual information | a classifier behind reversed
gradients -> scalar.

Shapes: B rows of this rank, N rows of all ranks, d width of the summaries.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hero_lightning.errors import in_range, one_of
from hero_lightning.models.base import FusionModel
from hero_lightning.models.llm.reasoner import Reasoner
from hero_lightning.models.outputs import Outputs
from hero_lightning.training.losses import AuxiliaryLoss, zero
from hero_lightning.training.ranks import gather, ranks
from hero_lightning.types import MODALITIES, Batch

log = logging.getLogger(__name__)


class VClub(nn.Module):
    """Variational upper bound on mutual information (CLUB, Cheng et al. 2020): q(y|x) = N(mu(x), diag exp lv(x)).

    Args:
        width: of x and y.
        hidden: units of both hidden layers.
    """

    def __init__(self, width: int, hidden: int = 512) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 2 * width)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, d] -> mu and lv [B, d]; lv lies within -1 to 1."""
        mean, log_variance = self.network(x).chunk(2, dim=1)
        return mean, log_variance.tanh()

    def misfit(self, x: Tensor, y: Tensor) -> Tensor:
        """Negative log likelihood of y given x, without its constant; what the estimator minimises."""
        mean, log_variance = self(x)
        return 0.5 * ((y - mean) ** 2 / log_variance.exp() + log_variance).sum(dim=1).mean()

    def bound(self, x: Tensor, y: Tensor, others: Tensor) -> Tensor:
        """[B] log q(y_i|x_i) - mean over j of log q(others_j|x_i); its mean bounds the mutual information in nats."""
        mean, log_variance = self(x)
        precision = (-log_variance).exp()
        pos = -0.5 * ((y - mean) ** 2 * precision).sum(dim=1)
        # mean over j of sum_k p_k (y_jk - mu_k)^2, by the first two moments of the others
        first, second = others.mean(dim=0), (others**2).mean(dim=0)
        neg = -0.5 * (precision * (second - 2 * mean * first + mean**2)).sum(dim=1)
        return pos - neg


class Stmil(AuxiliaryLoss):
    """Speech-text mutual information learning (SECap, Xu et al. 2024): the sound's summary forgets what was said.

    At every step the estimator is first fitted to the batch, with an optimizer of its own and both sides detached; then
    its bound is the loss of the sound's summary, with the estimator and the text's summary fixed. All ranks fit the
    same estimator to the rows of all ranks. In float32.

    Args:
        weight: of the term.
        of: modality that forgets.
        against: modality whose content it forgets.
        hidden: width of the estimator.
        lr: of the estimator.
        steps: of the estimator for each step of the model.
    """

    def __init__(
        self,
        weight: float = 0.1,
        of: str = "audio",
        against: str = "text",
        hidden: int = 512,
        lr: float = 1e-3,
        steps: int = 1,
    ) -> None:
        super().__init__(weight)
        for key, name in (("of", of), ("against", against)):
            one_of(f"losses.stmil.{key}", name, MODALITIES)
        in_range("losses.stmil.hidden", hidden, "[1, inf)")
        in_range("losses.stmil.lr", lr, "(0, inf)")
        in_range("losses.stmil.steps", steps, "[1, 100]")
        self.of, self.against, self.hidden, self.lr, self.steps = of, against, hidden, lr, steps
        self._fitted: tuple[VClub, torch.optim.Optimizer] | None = (
            None  # not a submodule: it has an optimizer of its own
        )
        self._restored: dict[str, Any] = {}
        self._warned = False

    def build(self, model: FusionModel, reasoner: Reasoner | None) -> bool:
        return {self.of, self.against} <= set(model.modalities)

    def loss(self, outputs: Outputs, batch: Batch, model: FusionModel) -> Tensor:
        """The bound, mean over the rows that have both modalities; zero where fewer than two of all ranks do."""
        pair = [outputs.experts.index(name) for name in (self.of, self.against)]
        there = outputs.present[:, pair].all(dim=1)
        with torch.autocast(outputs.context.device.type, enabled=False):
            sides = (F.layer_norm(outputs.summaries[:, e].float(), outputs.summaries.shape[-1:]) for e in pair)
            x, y = (torch.where(there[:, None], side, 0.0) for side in sides)
            rows = gather(there)
            all_x, all_y = (gather(side.detach())[rows] for side in (x, y))
            if len(all_x) < 2:
                if not self._warned:
                    log.warning(
                        "stmil: a batch without two clips that have %s and %s gives no loss", self.of, self.against
                    )
                self._warned = True
                return zero(outputs)
            estimator = self._fit(all_x, all_y)
            bound = estimator.bound(x, y.detach(), all_y)
        return ranks() * torch.where(there, bound, 0.0).sum() / len(all_x) + zero(outputs)

    def _fit(self, x: Tensor, y: Tensor) -> VClub:
        """The estimator after its steps on detached rows of all ranks, with fixed parameters."""
        estimator, optimizer = self._fitted or self._start(x.shape[1], x.device)
        with torch.enable_grad():
            estimator.requires_grad_(True)
            for _ in range(self.steps):
                optimizer.zero_grad()
                estimator.misfit(x, y).backward()
                optimizer.step()
        return estimator.requires_grad_(False)

    def _start(self, width: int, device: torch.device) -> tuple[VClub, torch.optim.Optimizer]:
        with torch.random.fork_rng(devices=[]):  # the same on every rank; the step's own draws stay as they are
            torch.manual_seed(0)
            estimator = VClub(width, self.hidden).to(device)
        optimizer = torch.optim.Adam(estimator.parameters(), self.lr)
        if self._restored:
            estimator.load_state_dict(self._restored["estimator"])
            optimizer.load_state_dict(self._restored["optimizer"])
        self._fitted = estimator, optimizer
        return self._fitted

    def state(self) -> dict[str, Any]:
        """Estimator and its optimizer, for a run that is resumed."""
        if self._fitted is None:
            return self._restored
        estimator, optimizer = self._fitted
        return {"estimator": estimator.state_dict(), "optimizer": optimizer.state_dict()}

    def resume(self, state: dict[str, Any]) -> None:
        """Goes on with the estimator of a checkpoint."""
        self._fitted, self._restored = None, state


class _Reversed(torch.autograd.Function):
    """The identity; its gradient has the other sign (Ganin & Lempitsky 2015)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return -slope


class SpeakerAdversary(AuxiliaryLoss):
    """Summaries do not tell who spoke: a classifier of speakers learns, the experts learn against it.

    Speakers are sorted into classes by a checksum of their name, so that no list of speakers is needed.

    Args:
        weight: of the term.
        of: modalities whose summaries the classifier reads, each with a layer of its own.
        classes: of the classifier; with few speakers 256 keep nearly all apart.
    """

    def __init__(self, weight: float = 0.1, of: Sequence[str] = ("audio", "frame", "face"), classes: int = 256) -> None:
        super().__init__(weight)
        for name in of:
            one_of("losses.speaker.of", name, MODALITIES)
        in_range("losses.speaker.classes", classes, "[2, inf)")
        self.of, self.classes = tuple(of), classes

    def build(self, model: FusionModel, reasoner: Reasoner | None) -> bool:
        width = model.width
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, self.classes))
                for name in self.of
                if name in model.modalities
            }
        )
        return len(self.heads) > 0

    def loss(self, outputs: Outputs, batch: Batch, model: FusionModel) -> Tensor:
        """Cross-entropy of the speakers, mean over rows with a known one, mean over modalities."""
        names = [s.speaker for s in batch.samples]
        numbers = [crc32(name.encode()) % self.classes if name else 0 for name in names]
        device = outputs.context.device
        known, speaker = torch.tensor([bool(n) for n in names], device=device), torch.tensor(numbers, device=device)
        terms = []
        for name, head in self.heads.items():
            e = outputs.experts.index(name)
            rows = known & outputs.present[:, e]
            logits = head(_Reversed.apply(outputs.summaries[:, e])).float()
            each = F.cross_entropy(logits, speaker, reduction="none")
            terms.append(torch.where(rows, each, 0.0).sum() / rows.sum().clamp(min=1))
        return torch.stack(terms).mean()
