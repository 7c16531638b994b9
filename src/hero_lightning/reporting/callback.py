"""ResultsWriter: the files of a run beside its checkpoints.

Data flow: validation or test pass -> rows of all ranks -> SplitRecord -> (rank 0) predictions.csv, metrics.json,
pictures, loggers, closing table.

Shapes: N samples of a split, C outputs of a Task, E experts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor

from hero_lightning.errors import DataError, in_range
from hero_lightning.evaluation import scoring
from hero_lightning.evaluation.scoring import SplitRecord
from hero_lightning.reporting import loggers, plots, run_folder, tables, wandb_run
from hero_lightning.tasks import ClassTask, Task
from hero_lightning.training.module import EmotionModule
from hero_lightning.types import Batch, Sample, file_name


class ResultsWriter(pl.Callback):
    """Writes the best validation pass and every test pass into the run folder (Trainer.default_root_dir).

    predictions.csv and metrics.json hold all splits; pictures are confusion_<split>_<task>.png, gates_<split>.png,
    gates_by_channel_<split>.png (datasets that know the informative channels) and curves.png. Where a language model
    answers, its written answers go to answers.jsonl and the linear head is compared as a baseline.

    Args:
        resamples: of the bootstrap, at least 100.
        by_dialogue: draw whole dialogues instead of samples: wider intervals, which allow for turns of one dialogue
            that depend on each other.
        wandb_rows: most rows of the tables of predictions and answers sent to W&B.

    Attributes:
        records, reports: split -> what was gathered, and its report by Task name.
    """

    def __init__(self, resamples: int = 1000, by_dialogue: bool = False, wandb_rows: int = 500) -> None:
        self.resamples, self.by_dialogue, self.wandb_rows = resamples, by_dialogue, wandb_rows
        in_range("callbacks.record.resamples", resamples, "[100, inf)")
        self.best: SplitRecord | None = None
        self.best_score = float("-inf")
        self.records: dict[str, SplitRecord] = {}
        self.reports: dict[str, dict[str, dict[str, Any]]] = {}
        self._seen: dict[int, Sample] = {}
        self._unshown: dict[str, dict[str, dict[str, Any]]] = {}

    def state_dict(self) -> dict[str, Any]:
        """The best validation score, so that a resumed run does not record a worse epoch."""
        return {"best_score": self.best_score}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the best validation score."""
        self.best_score = state["best_score"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Chooses anew where the best checkpoint of a resumed run is lost."""
        if trainer.checkpoint_callback is not None and trainer.checkpoint_callback.best_model_score is None:  # type: ignore[attr-defined]
            self.best_score = float("-inf")

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Remembers the sample of every row."""
        for row, sample in zip(batch.index.tolist(), batch.samples, strict=True):
            if self._seen.setdefault(row, sample).id != sample.id:
                raise DataError(
                    "Two samples share a row number, so one would count as the other.",
                    expected="one split per evaluation pass",
                    got=f"{self._seen[row].id} ({self._seen[row].split}) and {sample.id} ({sample.split}) in row {row}",
                    hint="call Trainer.test once per split",
                )

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps the pass if it is the best so far by `val/score`, as the checkpoint is chosen."""
        if trainer.sanity_checking:
            self._seen = {}
            return
        record = self._gather(pl_module)
        if trainer.state.fn != "fit":
            self._write(trainer, pl_module, record)
            return
        score = float(trainer.callback_metrics.get("val/score", torch.nan))
        if score > self.best_score:
            self.best, self.best_score = record, score

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the best validation pass and the training curves."""
        if self.best is not None:
            self._write(trainer, pl_module, self.best)
        logger = next((x for x in trainer.loggers if isinstance(x, pl.loggers.CSVLogger)), None)
        if logger is not None and trainer.is_global_zero:
            logger.save()
            log = Path(logger.log_dir) / "metrics.csv"
            module = cast(EmotionModule, pl_module)
            names = [f"val/{n}/{f}" for n, t in module.tasks.items() for f in _first(t)]
            if log.exists():
                plots.training_curves(log, _folder(trainer) / "curves.png", names, f"seed {module.seed}")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the pass."""
        self._write(trainer, pl_module, self._gather(pl_module))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Shows the closing table, when no progress bar holds the screen any more."""
        if self._unshown:
            dataset = run_folder.index_facts(_folder(trainer)).get("dataset", "results")
            tables.show_results(f"{dataset}, seed {cast(EmotionModule, pl_module).seed}", self._unshown)
            self._unshown = {}

    def _gather(self, pl_module: pl.LightningModule) -> SplitRecord:
        """The pass over all ranks; every rank must call it."""
        module, seen, self._seen = cast(EmotionModule, pl_module), self._seen, {}
        answers = dict(module.answers)
        if pl_module.trainer.world_size > 1:
            parts: list[Any] = [None] * pl_module.trainer.world_size
            torch.distributed.all_gather_object(parts, (seen, answers))
            seen = {row: sample for part, _ in parts for row, sample in part.items()}
            answers = {row: answer for _, part in parts for row, answer in part.items()}
        samples = [sample for _, sample in sorted(seen.items())]
        predictions = {name: module.predictions[name].compute() for name in module.tasks}
        linear = module.linear.compute() if module.linear.update_called else None
        explanations = module.explanations.compute()
        return SplitRecord(samples[0].split, samples, predictions, explanations, linear, dict(sorted(answers.items())))

    def score(
        self, tasks: Mapping[str, Task], record: SplitRecord, others: Mapping[str, Mapping[str, Tensor]]
    ) -> dict[str, dict[str, Any]]:
        """Reports of a split by Task name; others: Task name -> name -> predictions [N, C] of another system."""
        dialogues = [s.dialogue if s.dialogue is not None else s.id for s in record.samples]
        groups = dialogues if self.by_dialogue else None
        reports = scoring.scores(tasks, record.predictions, groups, self.resamples, others)
        if record.answers:
            main = next(iter(tasks))
            reports[f"{main}_written"] = scoring.written(tasks[main], record, groups, self.resamples)
        return reports

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule, record: SplitRecord) -> None:
        if not trainer.is_global_zero:
            return
        module, folder, split = cast(EmotionModule, pl_module), _folder(trainer), record.split
        folder.mkdir(parents=True, exist_ok=True)
        linear = {} if record.linear is None else {"linear head": record.linear.prediction}
        others = linear | (module.baselines if split == "test" else {})
        self.records[split] = record
        by_task = {next(iter(module.tasks)): others}
        self.reports[split] = self._unshown[split] = self.score(module.tasks, record, by_task)
        run_folder.write_predictions(folder / "predictions.csv", self.records.values(), module.tasks)
        answers = [answer for r in self.records.values() for answer in r.answers.values()]
        if answers:
            lines = (json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
            (folder / "answers.jsonl").write_text("".join(lines), encoding="utf-8")
        best = getattr(trainer.checkpoint_callback, "best_model_path", "") or None
        parameters = list(pl_module.parameters())
        run_folder.write_metrics(
            folder, self.reports, self.resamples, "whole dialogues" if self.by_dialogue else "single samples",
            seed=module.seed,
            tasks={name: task.state() for name, task in module.tasks.items()},
            weights=Path(best).name if best else None,
            parameters=sum(p.numel() for p in parameters),
            trainable=sum(p.numel() for p in parameters if p.requires_grad),
        )  # fmt: skip
        self._send(trainer, module, record, self._draw(folder, module, record))

    def _draw(self, folder: Path, module: EmotionModule, record: SplitRecord) -> dict[str, Path]:
        """Pictures of a split by name."""
        split, out = record.split, {}
        for name, report in self.reports[split].items():
            if report.get("confusion"):
                primary = module.tasks[name].primary
                title = f"{name}, {split}: {primary.replace('_', ' ')} {report['metrics'][primary]['value']:.3f}"
                path = folder / f"{file_name(f'confusion_{split}_{name}')}.png"
                out[f"confusion_{name}"] = plots.confusion(
                    torch.tensor(report["confusion"]), report["classes"], path, title
                )
        experts, gate = record.explanations.matrix("gate")
        if experts:
            path = folder / f"{file_name(f'gates_{split}')}.png"
            out["gates"] = plots.gates(gate, experts, _by_class(module, record), path, f"mean gate weight, {split}")
        channels = {c for s in record.samples for c in s.truth.get("informative", ())}
        if experts and channels:
            carried = {
                f"{c} informative": torch.tensor([c in s.truth.get("informative", ()) for s in record.samples])
                for c in sorted(channels, key=lambda c: (c not in experts, experts.index(c) if c in experts else 0))
            }
            path = folder / f"{file_name(f'gates_by_channel_{split}')}.png"
            title = f"mean gate weight by the channel that carries the emotion, {split}"
            out["gates_by_channel"] = plots.gates(gate, experts, carried, path, title)
        return out

    def _send(self, trainer: pl.Trainer, module: EmotionModule, record: SplitRecord, pictures: dict[str, Path]) -> None:
        """The results to every logger, to W&B also tables and pictures."""
        reports = self.reports[record.split]
        experts, gate = record.explanations.matrix("gate")
        gates = loggers.gate_means(gate, experts, _by_class(module, record))
        # the best epoch's pass must not follow the last epoch's values in one curve
        prefix = f"best_{record.split}" if trainer.state.fn != "test" else record.split
        found = loggers.results(prefix, reports, gates)
        loggers.log_results(trainer.loggers, found, trainer.global_step)
        for logger in trainer.loggers:
            if isinstance(logger, pl.loggers.WandbLogger):
                wandb_run.send_split(logger, record, module.tasks, reports, gates, pictures, self.wandb_rows)


def _folder(trainer: pl.Trainer) -> Path:
    return Path(trainer.default_root_dir)


def _first(task: Task) -> tuple[str, ...]:
    """Metrics of the training curves: the selecting one, and for classes the mean recall."""
    return (task.primary, "uar") if isinstance(task, ClassTask) else (task.primary,)


def _by_class(module: EmotionModule, record: SplitRecord) -> dict[str, Tensor]:
    """Class name -> [N] True where it is the truth of the first class Task; empty without one."""
    for name, task in module.tasks.items():
        if isinstance(task, ClassTask):
            label = record.predictions[name].label
            return {c: label.mask & (label.value == i) for i, c in enumerate(task.classes)}
    return {}
