"""Scores a finished run: `python -m hero_lightning.evaluate run=RUN`; or a prediction file or suite (`score_file`).

Data flow: run folder -> its config as data, this machine's paths -> corpus, model -> test -> evaluation folder.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hero_lightning.cli import command

log = logging.getLogger(__name__)


@command("evaluate")
def main(cfg: Any) -> None:
    """One evaluation; its tables and figures lie in the command's own run folder."""
    if cfg.predictions is None and cfg.suite is None:
        evaluate(cfg)
        return
    from hero_lightning.score_file import score

    score(cfg)


def evaluate(cfg: Any) -> None:
    """Rebuilds the run's model, reads the corpus again and scores one split."""
    from omegaconf import OmegaConf, open_dict

    from hero_lightning import build, checkpoint, runfolder
    from hero_lightning.errors import ConfigError
    from hero_lightning.module import describe
    from hero_lightning.targets import Target

    folder = build.run_folder()
    stored, path, state = build.load_run(cfg.run, cfg.paths)
    with open_dict(stored):
        stored.trainer, stored.logger = cfg.trainer, {}
        stored.callbacks = {"record": stored.callbacks.get("record")}
        if "_target_" in cfg.dataset:
            stored.dataset = cfg.dataset
            for name, node in stored.modalities.items():  # where features lie belongs to the corpus
                if "source" in cfg.modalities[name]:
                    node.source = cfg.modalities[name].source
    OmegaConf.save(build.stored_config(stored), folder / "config.yaml")
    unknown = [s for s in cfg.drop if s not in state[checkpoint.FACTS]["dims"]]
    if unknown:
        raise ConfigError(
            "A stream to drop is not one of the run's.",
            expected=", ".join(state[checkpoint.FACTS]["dims"]),
            got=unknown[0],
            where="drop",
        )
    facts = state[checkpoint.FACTS]
    corpus = build.corpus(stored)
    targets = {name: Target.from_state(t) for name, t in facts["targets"].items()}
    # words outside its vocabulary are no error to an open Target, and a corpus of test clips gives it none
    opened = {n: t for n, t in targets.items() if t.kind == "open" and n in corpus.targets}
    corpus.targets = {**corpus.targets, **opened}
    corpus.prepare_data()
    same = all(set(corpus.targets[n].classes) <= set(t.classes) for n, t in targets.items() if n in corpus.targets)
    if cfg.label_map or same:  # the run's own Targets code this corpus' labels, by name
        corpus = build.corpus(stored, targets=targets, label_map=cfg.label_map)
        corpus.prepare_data()
    corpus.plan.write(folder)
    checkpoint.check_facts(facts, describe(corpus.streams, corpus.targets, corpus.dims), path)
    lm = checkpoint.run_folder(path) / checkpoint.LM
    module = build.module(
        stored, corpus.streams, corpus.targets, facts["dims"], lambda r: r.restore(facts["reasoner"], lm)
    )
    checkpoint.restore(module, state["state_dict"], path, strict=True)
    module.drop = tuple(cfg.drop)
    if not corpus.plan.samples.get(cfg.split):
        raise ConfigError(
            "The corpus has no such split.",
            expected=", ".join(k for k, v in corpus.plan.samples.items() if v),
            got=cfg.split,
            where="split",
        )
    if cfg.split == "test":
        runfolder.note_test(checkpoint.run_folder(path))
    trainer = build.trainer(stored, folder)
    trainer.test(module, dataloaders=corpus.loader(cfg.split), verbose=False)
    if cfg.robustness:
        _robustness(trainer, module, corpus, stored, cfg.split)


def _robustness(trainer: Any, module: Any, corpus: Any, stored: Any, split: str) -> None:
    """Scores the split again without each stream, next to the figures of the whole, on the same samples."""
    from hero_lightning import build, runfolder
    from hero_lightning.callbacks import RunRecord

    def record(of: Any) -> Any:
        return next(c for c in of.callbacks if isinstance(c, RunRecord))

    whole, always = record(trainer), module.drop
    reports: dict[str, Any] = {name: {**r, "baselines": {}} for name, r in whole.reports[split].items()}
    for stream in (s for s in corpus.dims if s not in always):
        module.drop = (*always, stream)
        again = build.trainer(stored, Path(trainer.default_root_dir) / f"without_{stream}")
        again.test(module, dataloaders=corpus.loader(split), verbose=False)
        for name, found in record(again).records[split].predictions.items():
            theirs, ours = found.prediction, whole.records[split].predictions[name]
            reports[name]["baselines"][f"{name} without {stream}"] = runfolder.compare(
                module.targets[name], ours, theirs, resamples=whole.resamples
            )
    module.drop = always
    runfolder.write_json(Path(trainer.default_root_dir) / "robustness.json", {"split": split, "targets": reports})
    runfolder.show_results("what a missing stream costs", {split: reports})


if __name__ == "__main__":
    main()
