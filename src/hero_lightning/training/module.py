"""EmotionModule: the LightningModule of every model: encode, predict, sum of weighted losses, metrics by sample.

Data flow: Batch -> ModalityEncoder per modality -> Features -> FusionModel -> Outputs -> Task losses + auxiliary losses
(+ Reasoner: a language model's answers) -> loss; in validation and test: Outputs -> PredictionTable per Task,
ExplanationTable, written answers -> metrics.

Shapes: B rows, C outputs of a Task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from hero_lightning.errors import TrainingError
from hero_lightning.features import Modality, ModalityEncoder
from hero_lightning.metrics import classification
from hero_lightning.metrics.table import ExplanationTable, PredictionTable
from hero_lightning.models.base import FusionModel
from hero_lightning.models.llm.reasoner import Reasoner
from hero_lightning.models.outputs import Outputs
from hero_lightning.tasks import Task
from hero_lightning.training import checkpoint, finite, transfer
from hero_lightning.training.augment import Augmentation, between
from hero_lightning.training.losses import AuxiliaryLoss
from hero_lightning.training.optimizers import AdamWWithCosine
from hero_lightning.types import Batch, Features, Label


def describe(modalities: Mapping[str, Modality], tasks: Mapping[str, Task], dims: Mapping[str, int]) -> dict[str, Any]:
    """What a checkpoint must agree with, in builtins: widths, feature identities and classes."""
    return {
        "dims": dict(dims),
        "identities": {name: modalities[name].identity() for name in dims},
        "tasks": {name: task.state() for name, task in tasks.items()},
    }


class EmotionModule(pl.LightningModule):
    """Trains and scores a model on the Tasks of a dataset.

    Args:
        model: Features by modality -> Outputs.
        modalities: the modalities the model reads, in canonical order.
        tasks: Task name -> Task; the first one selects checkpoints (`val/score`).
        auxiliary_losses: further loss terms by name.
        optimizer: builds optimizer and schedule.
        reasoner: a prepared language model; it, not the linear head, then answers for the first Task.
        augmentation: modality dropout and mixup in training.
        seed: with rank, epoch and batch number it decides every random draw of a step, so that a resumed run
            repeats an uninterrupted one bit for bit.
        facts: kept in every checkpoint with classes, widths and identities (the resolved config).
        drop: modalities withheld from the model.
    """

    strict_loading = False  # frozen encoders are not in the checkpoint

    def __init__(
        self,
        model: FusionModel,
        modalities: Mapping[str, Modality],
        tasks: Mapping[str, Task],
        auxiliary_losses: Mapping[str, AuxiliaryLoss],
        optimizer: AdamWWithCosine,
        reasoner: Reasoner | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        facts: Mapping[str, Any] | None = None,
        drop: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({n: ModalityEncoder(m, model.dims[n]) for n, m in modalities.items()})
        self.model, self.reasoner = model, reasoner
        self.tasks = dict(tasks)
        self.auxiliary_losses: Mapping[str, AuxiliaryLoss] = nn.ModuleDict(auxiliary_losses)  # type: ignore[assignment]
        teachers = [loss.teacher for loss in auxiliary_losses.values() if loss.teacher is not None]
        self.teacher = max(teachers, key=lambda teacher: teacher.decay, default=None)
        self.optimizer, self.seed, self.augmentation = optimizer, seed, augmentation or Augmentation()
        self.main = next(iter(self.tasks.values()))
        known = {} if reasoner is None else {"reasoner": reasoner.state()}
        self.facts = {**describe(modalities, self.tasks, model.dims), **known, **(facts or {})}
        self.predictions: dict[str, PredictionTable] = {n: PredictionTable() for n in self.tasks}
        self.linear = PredictionTable()  # the linear head, where a language model answers
        self.written = PredictionTable()  # its written answers; a row of zeros has no label
        self._tables = nn.ModuleList([*self.predictions.values(), self.linear, self.written])  # move to the device
        self.explanations = ExplanationTable()
        self.answers: dict[int, dict[str, Any]] = {}  # by row number in the split
        self.baselines: dict[str, Tensor] = {}
        self.drop = drop
        self.ids: list[str] = []  # of the training batch, for messages

    def encode(self, batch: Batch) -> dict[str, Features]:
        """Features of the modalities a batch has; those in `drop` are withheld."""
        seen = [name for name in self.encoders if name in batch.modalities and name not in self.drop]
        return {name: self.encoders[name](batch.modalities[name]) for name in seen}

    def forward(self, batch: Batch, explain: bool = False) -> Outputs:
        """Outputs of a batch."""
        return self.model(self.encode(batch), explain, (batch.group, batch.order))

    def losses(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Every unweighted loss term by name; their weighted sum under `loss`."""
        scored = {name: t for name, t in self.tasks.items() if t.weight}
        terms = {n: t.loss(outputs.logits[n], batch.labels[n], batch.group) for n, t in scored.items()}
        weights = {name: t.weight for name, t in self.tasks.items()}
        for name, auxiliary in self.auxiliary_losses.items():
            terms[name], weights[name] = auxiliary(outputs, batch, self.model), auxiliary.weight
        if self.reasoner is not None and self.reasoner.weight:
            terms["generation"], weights["generation"] = self.reasoner.loss(outputs, batch), self.reasoner.weight
        if self.reasoner is not None and (decoder := self.reasoner.decoder) is not None and decoder.weight:
            terms["evidence"], weights["evidence"] = decoder.loss(outputs, batch), decoder.weight
        return {
            "loss": sum((weights[n] * v for n, v in terms.items()), start=torch.zeros((), device=self.device)),
            **terms,
        }

    def on_fit_start(self) -> None:
        """Checks that validation can select a checkpoint."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is not None:
            finite.check_labels(self.main, datamodule.index.samples.get("val", ()), "val")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seeds the step by its number, so that earlier draws (before a restart, in a worker) have no effect on it."""
        step = (self.seed * 1_000_003 + self.current_epoch) * 1_000_003 + batch_idx * 1009 + self.global_rank
        torch.manual_seed(step % 2**63)
        self.ids = batch.ids

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Weighted loss of a batch."""
        encoded, items = self.encode(batch), (batch.group, batch.order)
        features, partners, share = self.augmentation(encoded, batch, self.current_epoch)
        outputs = self.model(features, items=items)
        if self.teacher is not None and self.augmentation.withholds(self.current_epoch):
            outputs.full = self.teacher(self.model, encoded, items)
        terms = self.losses(outputs, batch)
        if share < 1:
            terms = between(terms, self.losses(outputs, partners), share)
        finite.check_loss(terms, outputs.logits.values(), batch.ids, self._place(), self.optimizer.lr)
        # logging a value takes 0.2 ms: only where the logger writes one
        every = max(1, self.trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if (self.global_step + 1) % every == 0:
            self.log_dict({f"train/{k}": v.detach() for k, v in terms.items()}, batch_size=len(batch))
        return terms["loss"]

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Checks the gradients; fp16 leaves that to its loss scaler, which skips such a step."""
        if self.trainer.precision != "16-mixed":
            finite.check_gradients(self.named_parameters(), self.ids, self._place(), self.optimizer.lr)

    def _place(self) -> str:
        return f"epoch {self.current_epoch}, step {self.global_step}"

    def _evaluate(self, batch: Batch, testing: bool) -> None:
        """Keeps predictions and explanations."""
        outputs = self(batch)
        found = {name: task.predict(outputs.logits[name]) for name, task in self.tasks.items()}
        if self.reasoner is not None:
            self.linear.update(batch.index, found[self.main.name], batch.labels[self.main.name])
            found[self.main.name] = self._reason(self.reasoner, outputs, batch, testing)
        finite.check_predictions(found, batch.ids, self._place(), self.optimizer.lr)
        for name, prediction in found.items():
            self.predictions[name].update(batch.index, prediction, batch.labels[name])
        self.explanations.update(batch.index, outputs)

    def _reason(self, reasoner: Reasoner, outputs: Outputs, batch: Batch, testing: bool) -> Tensor:
        """Class probabilities [B, C] of the language model; keeps its written answers to the first clips.

        Validation uses uncalibrated scores: the temperature is fitted on them.
        """
        scores = reasoner.score(outputs, batch)
        probability = reasoner.llm.probabilities(scores) if testing else scores.softmax(dim=-1)
        index, limit = batch.index.tolist(), reasoner.explain if testing else reasoner.explain_val
        rows = [b for b, i in enumerate(index) if limit is None or i < limit]
        answers = reasoner.answer(outputs, batch, probability, rows)
        for b, answer in zip(rows, answers, strict=True):
            sample = batch.samples[b]
            self.answers[index[b]] = {**answer, "split": sample.split, "truth": sample.labels.get(self.main.name)}
        label, chosen = batch.labels[self.main.name], torch.tensor(rows, dtype=torch.long, device=probability.device)
        votes = classification.votes([a["generated"] for a in answers], self.main.classes).to(probability.device)
        self.written.update(batch.index[chosen], votes, Label(label.value[chosen], label.mask[chosen]))
        return probability

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, testing=False)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, testing=True)

    def metrics(self) -> dict[str, dict[str, float]]:
        """Task -> metric -> value over everything kept since the last reset.

        Where a language model answers, <task>_linear has the metrics of the linear head and <task>_written those of
        the written answers (an answer without a label is wrong).
        """
        tables = {name: (task, self.predictions[name]) for name, task in self.tasks.items()}
        written = f"{self.main.name}_written"
        if self.reasoner is not None:
            tables |= {f"{self.main.name}_linear": (self.main, self.linear), written: (self.main, self.written)}
        kept = {name: (task, table.compute()) for name, (task, table) in tables.items()}
        found = {name: task.metrics(table.prediction, table.label) for name, (task, table) in kept.items()}
        if found.get(written):
            answered, scored = kept[written][1], kept[self.main.name][1]
            best = scored.prediction[torch.isin(scored.index, answered.index)].argmax(dim=1)
            same = answered.prediction.any(dim=1) & (best == answered.prediction.argmax(dim=1))
            agreement = float(same.float().mean())
            found[written] = {k: found[written][k] for k in ("weighted_f1", "accuracy")} | {"agreement": agreement}
        return found

    def on_validation_epoch_start(self) -> None:
        """Resets predictions, explanations and answers."""
        for table in (*self.predictions.values(), self.linear, self.written, self.explanations):
            table.reset()
        self.answers = {}

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics; `val/score` selects the checkpoint, higher is better.

        A language model is selected by its primary metric times the share of its written answers that name the label
        it scores highest: labels are learnt long before readable reasons, and a validation pass writes too few answers
        for a metric of their own.
        """
        found, fitting = self.metrics(), self.trainer.state.fn == "fit"  # a later pass is no epoch of the history
        self.log_dict({f"val/{t}/{k}": v for t, f in found.items() for k, v in f.items()}, logger=fitting)
        if self.reasoner is not None:
            table = self.predictions[self.main.name].compute()
            seen = table.label.mask  # log softmax = scores minus a constant, which no temperature changes
            self.reasoner.llm.calibrate(table.prediction[seen].clamp(min=1e-30).log(), table.label.value[seen])
        score = found[self.main.name].get(self.main.primary, float("nan"))
        score *= found.get(f"{self.main.name}_written", {}).get("agreement", 1.0)
        if math.isnan(score) and fitting and not self.trainer.sanity_checking:
            name = f"val/{self.main.name}/{self.main.primary}"
            raise TrainingError(
                f"{name} is no number, so no epoch can be better than another.",
                expected="validation labels and predictions for which it is defined",
                got=score,
                where=self._place(),
            )
        self.log("val/score", score if self.main.higher_is_better else -score, prog_bar=True, logger=fitting)

    def on_test_epoch_end(self) -> None:
        """Logs the metrics of the test split."""
        self.log_dict({f"test/{t}/{k}": v for t, f in self.metrics().items() for k, v in f.items()})

    def configure_optimizers(self) -> Any:
        """AdamWWithCosine groups and a schedule by optimizer step."""
        steps, fused = int(self.trainer.estimated_stepping_batches), self.trainer.precision != "16-mixed"
        optimizer, schedule = self.optimizer.build(self.named_parameters(), steps, fused)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, state: dict[str, Any]) -> None:
        """Keeps what training can change, and the facts; weights that are no finite numbers are not written."""
        state["state_dict"] = checkpoint.trainable_state(self, state["state_dict"])
        weights = ((n, p) for n, p in self.named_parameters() if n in state["state_dict"])
        finite.check_weights(weights, self._place(), self.optimizer.lr)
        state[checkpoint.FACTS] = {**self.facts, transfer.AXES: transfer.named_axes(self)}
        if "optimizer_states" in state:  # not in checkpoints of weights alone
            state["auxiliary_losses"] = {name: loss.state() for name, loss in self.auxiliary_losses.items()}

    def on_load_checkpoint(self, state: dict[str, Any]) -> None:
        """Goes on with what losses have learnt beside their parameters."""
        for name, kept in state.get("auxiliary_losses", {}).items():
            if name in self.auxiliary_losses:
                self.auxiliary_losses[name].resume(kept)
