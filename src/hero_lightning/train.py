"""Trains a model and scores it once on the test split: `python -m hero_lightning.train`.

Data flow: config -> data module with its index -> EmotionModule -> fit -> best checkpoint -> test -> run folder.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hero_lightning.config.cli import command

log = logging.getLogger(__name__)


@command("train")
def main(cfg: Any) -> float | None:
    """Returns the best validation score (`val/score`), for sweepers."""
    from hero_lightning.config import launch

    with launch.wandb_closed(), launch.gpu_lease(cfg.get("gpu_lease", False)):
        return train(cfg)


def train(cfg: Any) -> float | None:
    """The whole run; all its files lie in the run folder."""
    import pytorch_lightning as pl
    from omegaconf import OmegaConf

    from hero_lightning.config import build
    from hero_lightning.evaluation.probes import modality_probes
    from hero_lightning.reporting import loggers, robustness, tables, wandb_run
    from hero_lightning.training import checkpoint, transfer

    robustness.check(cfg.robustness, cfg.callbacks)
    folder = build.run_folder()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    config = build.stored_config(cfg)
    OmegaConf.save(config, folder / "config.yaml")
    datamodule = build.dataset(cfg)
    datamodule.prepare_data()
    datamodule.index.write(folder)
    tables.show_index(datamodule.index)
    lm = checkpoint.copy_lm(cfg.resume or cfg.init_from, folder)

    def prepare(reasoner: Any) -> None:
        batches = datamodule.loader("train")
        reasoner.prepare(((s, m) for b in batches for s, m in zip(b.samples, b.measures, strict=True)), lm)

    facts = {"config": OmegaConf.to_yaml(config), "dataset": str(datamodule.name)}
    module = build.module(cfg, datamodule.modalities, datamodule.tasks, datamodule.dims, prepare, facts=facts)
    if cfg.init_from:
        transfer.initialise(module, cfg.init_from)
    trainer = build.trainer(cfg, folder)
    loggers.log_config(trainer.loggers, build.plain(config))
    resume = checkpoint.find(cfg.resume, prefer="last") if cfg.resume else None
    if resume is not None:
        checkpoint.check_facts(checkpoint.load(resume)[checkpoint.FACTS], module.facts, resume)
    log.info("run folder %s", folder)
    trainer.fit(module, datamodule=datamodule, ckpt_path=None if resume is None else str(resume), weights_only=True)
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    score = getattr(trainer.checkpoint_callback, "best_model_score", None)
    if best:
        checkpoint.restore(module, checkpoint.load(Path(best))["state_dict"], Path(best))
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
    return None if score is None else float(score)


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
