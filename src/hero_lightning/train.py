"""Trains a model and scores it once on the test split: `python -m hero_lightning.train`.

Data flow: config -> data module with its index -> EmotionModule -> fit -> best checkpoint -> test -> run folder.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hero_lightning.config.cli import command
from hero_lightning.config.signals import Stopped

log = logging.getLogger(__name__)


@command("train")
def main(cfg: Any) -> float | None:
    """Returns the best validation score (`val/score`), for sweepers."""
    from hero_lightning.config import launch

    try:
        with launch.wandb_closed(), launch.gpu_lease(cfg.get("gpu_lease", False)):
            return train(cfg)
    except Stopped as stop:
        stop.hint = _continue()
        raise


def _continue() -> str:
    """How a run that was stopped goes on."""
    from hero_lightning.config.build import run_folder
    from hero_lightning.training import resume

    folder = run_folder()
    if not (folder / "checkpoints" / "last.ckpt").is_file():
        return "No epoch was finished: the same command starts again."
    return f"All finished epochs are kept. Continue with:\n{resume.again(_overrides(), folder)}"


def _overrides() -> list[str]:
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task)


def train(cfg: Any) -> float | None:
    """The whole run; all its files lie in the run folder."""
    import pytorch_lightning as pl
    from omegaconf import OmegaConf

    from hero_lightning.config import build
    from hero_lightning.evaluation.probes import modality_probes
    from hero_lightning.reporting import loggers, progress, robustness, tables, wandb_run
    from hero_lightning.training import checkpoint, resume, transfer

    robustness.check(cfg.robustness, cfg.callbacks)
    folder = build.run_folder()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    config = build.stored_config(cfg)
    start, state = resume.point(cfg.resume, build.plain(config)) if cfg.resume else (None, {})
    OmegaConf.save(config, folder / "config.yaml")
    datamodule = build.dataset(cfg)
    datamodule.prepare_data()
    datamodule.index.write(folder)
    tables.show_index(datamodule.index)
    lm = checkpoint.copy_lm(cfg.resume or cfg.init_from, folder)

    def prepare(reasoner: Any) -> None:
        batches = datamodule.loader("train")
        reasoner.prepare(((s, m) for b in batches for s, m in zip(b.samples, b.measures, strict=True)), lm)

    facts = {"config": OmegaConf.to_yaml(config), "dataset": str(datamodule.name), resume.OVERRIDES: _overrides()}
    module = build.module(cfg, datamodule.modalities, datamodule.tasks, datamodule.dims, prepare, facts=facts)
    if cfg.init_from and start is None:
        transfer.initialise(module, cfg.init_from)
    trainer = build.trainer(cfg, folder)
    if start is not None:
        checkpoint.check_facts(state[checkpoint.FACTS], module.facts, start)
        resume.take_over(start, state, folder)
        resume.continue_history(trainer.loggers, *resume.history(checkpoint.run_folder(start), state["global_step"]))
    loggers.log_config(trainer.loggers, build.plain(config))
    log.info("run folder %s", folder)
    trainer.fit(module, datamodule=datamodule, ckpt_path=None if start is None else str(start), weights_only=True)
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    score = getattr(trainer.checkpoint_callback, "best_model_score", None)
    chosen = checkpoint.load(Path(best)) if best else None
    if chosen is not None:
        checkpoint.restore(module, chosen["state_dict"], Path(best))
    if start is not None and chosen is not None and not recorded(trainer):  # the best epoch was before the restart
        trainer.validate(module, dataloaders=datamodule.loader("val"), verbose=False)
    if cfg.test and cfg.probes:
        module.baselines.update(modality_probes(module, datamodule))
    for split in datamodule.test_splits if cfg.test else ():
        trainer.test(module, dataloaders=datamodule.loader(split), verbose=False)
    if cfg.test and cfg.robustness and not datamodule.test_splits:
        log.warning("robustness: the dataset has no test split")
    elif cfg.test and cfg.robustness:
        _score_without(cfg, module, datamodule, trainer, folder)
    for logger in trainer.loggers:
        if isinstance(logger, pl.loggers.WandbLogger) and trainer.is_global_zero:
            wandb_run.send_files(logger, folder)
    log.info("%s", progress.ending(trainer, folder, chosen))
    return None if score is None else float(score)


def recorded(trainer: Any) -> bool:
    """Whether the validation pass of the best epoch was recorded in this process, or nothing records."""
    from hero_lightning.reporting.callback import ResultsWriter

    writers = [c for c in trainer.callbacks if isinstance(c, ResultsWriter)]
    return not writers or any(w.best is not None for w in writers)


def _score_without(cfg: Any, module: Any, datamodule: Any, trainer: Any, folder: Path) -> None:
    """Scores the first test split without some modalities, and gives the loggers the curve."""
    from hero_lightning.config import build
    from hero_lightning.reporting import loggers, robustness
    from hero_lightning.reporting.callback import ResultsWriter

    split, tester = datamodule.test_splits[0], build.trainer(build.bare(cfg), folder, ())
    whole = next(c for c in trainer.callbacks if isinstance(c, ResultsWriter))
    loader = datamodule.loader(split)
    curve = robustness.score_without(whole, split, module, tester, loader, cfg.robustness, folder)
    loggers.log_curve(trainer.loggers, curve)


if __name__ == "__main__":
    main()
