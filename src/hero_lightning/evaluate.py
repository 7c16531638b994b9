"""Scores a finished run, a prediction file, or a folder of them: `python -m hero_lightning.evaluate run=RUN`.

Data flow: run folder -> its config as data, this machine's paths -> corpus, model -> test -> evaluation folder.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hero_lightning.config.cli import command

log = logging.getLogger(__name__)

CHOICES = {"task": ("targets", "open", "caption"), "suite": (None, "unibench")}
KINDS = {"class": "hit", "score": "sentiment", "open": "open"}
"""Kind of a Target -> how answers in words are scored."""


@command("evaluate")
def main(cfg: Any) -> None:
    """One evaluation; its tables and figures lie in the command's own run folder."""
    if cfg.predictions is None and cfg.suite is None:
        evaluate(cfg)
        return
    score_predictions(cfg)


def evaluate(cfg: Any) -> None:
    """Rebuilds the run's model, reads the corpus again and scores one split."""
    from omegaconf import OmegaConf, open_dict

    from hero_lightning.config import build
    from hero_lightning.errors import ConfigError
    from hero_lightning.reporting import run_folder
    from hero_lightning.tasks import Target
    from hero_lightning.training import checkpoint
    from hero_lightning.training.module import describe

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
        run_folder.note_test(checkpoint.run_folder(path))
    trainer = build.trainer(stored, folder)
    trainer.test(module, dataloaders=corpus.loader(cfg.split), verbose=False)
    if cfg.robustness:
        _robustness(trainer, module, corpus, stored, cfg.split)


def _robustness(trainer: Any, module: Any, corpus: Any, stored: Any, split: str) -> None:
    """Scores the split again without each stream, next to the figures of the whole, on the same samples."""
    from hero_lightning.config import build
    from hero_lightning.evaluation import scoring
    from hero_lightning.reporting import run_folder, tables
    from hero_lightning.reporting.callback import RunRecord

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
            reports[name]["baselines"][f"{name} without {stream}"] = scoring.compare(
                module.targets[name], ours, theirs, resamples=whole.resamples
            )
    module.drop = always
    run_folder.write_json(Path(trainer.default_root_dir) / "robustness.json", {"split": split, "targets": reports})
    tables.show_results("what a missing stream costs", {split: reports})


def score_predictions(cfg: Any) -> None:
    """Scores what `cfg.predictions` names; tables and metrics.json lie in the command's run folder."""
    from hero_lightning.config import build, instantiate
    from hero_lightning.errors import ConfigError
    from hero_lightning.evaluation import scoring, unibench
    from hero_lightning.evaluation.prediction_file import answered, read_rows
    from hero_lightning.metrics.captions import SentenceVectors
    from hero_lightning.metrics.wheels import Wheels
    from hero_lightning.reporting import run_folder, tables

    for key, values in CHOICES.items():
        if cfg[key] not in values:
            raise ConfigError(f"Unknown {key}.", expected=", ".join(map(str, values)), got=cfg[key], where=key)
    if cfg.predictions is None:
        raise ConfigError("A suite scores prediction files.", expected="predictions=FOLDER", where="predictions")
    path, columns, extra = Path(cfg.predictions), instantiate.plain(cfg.columns) if cfg.columns else {}, {}
    words: Any = None
    if cfg.suite or cfg.task == "open":
        wheels = Wheels(cfg.wheels)
        lexicon = str(cfg.extractor._target_).endswith(".Lexicon")
        extract = instantiate.make(cfg.extractor, "extractor", **({"wheels": wheels} if lexicon else {}))

        def words(corpus: Any, file: Path, split: str, kind: str, label: str) -> dict[str, Any]:
            # labels as the corpus words them, from the official parts: no Target need know them, no train part be there
            rows, own, missing = read_rows(file, columns, corpus.samples(), split)
            found = unibench.score_words(own, kind, label, rows, columns, extract, wheels, cfg.resamples)
            return {**found, "missing": missing}

    if cfg.suite:

        def one(test: Any, file: Path) -> dict[str, Any]:
            corpus = build.corpus(build.beside("evaluate", f"dataset={test.dataset}", *test.options))
            return words(corpus, file, test.split, test.kind, test.label)

        found = unibench.run_suite(one, path)
        reports = {name: {"open vocabulary": report} for name, report in found.pop("sets").items()}
        title, extra = f"MER-UniBench, mean of {len(reports)} of 9 test sets: {found['mean']:.4f}", found
    else:
        corpus = build.corpus(cfg, **({"label_map": instantiate.plain(cfg.label_map)} if cfg.label_map else {}))
        title = f"{corpus.name}, {path.name}"
        if cfg.task == "open":
            target = next(iter(corpus.targets.values()))
            if target.kind not in KINDS:
                expected = "a first target of kind " + ", ".join(KINDS)
                raise ConfigError(
                    "No answer in words fits.", expected=expected, got=target.kind, where="dataset.targets"
                )
            found = {target.name: words(corpus, path, cfg.split, KINDS[target.kind], target.name)}
        else:
            rows, own, missing = read_rows(path, columns, corpus.gathered, cfg.split)
            if cfg.task == "caption":
                embed = SentenceVectors(cfg.sentence_encoder) if cfg.sentence_encoder else None
                found = unibench.score_captions(own, rows, columns, embed, cfg.resamples)
            else:
                said = answered(own, corpus.targets, rows, columns, cfg.label_map or {})
                found = scoring.scores(corpus.targets, said, resamples=cfg.resamples)
            extra = {"missing": missing}
        reports = {cfg.split: found}
    facts = {
        "predictions": str(path),
        "intervals": f"95 % percentile bootstrap, {cfg.resamples} resamples of single samples",
        **extra,
        **run_folder.provenance(),
    }
    run_folder.write_json(build.run_folder() / "metrics.json", {**facts, "splits": reports})
    tables.show_results(title, reports)
    for name, reason in extra.get("missing", {}).items() if cfg.suite else ():
        log.warning("%s is not in the mean: %s", name, reason)


if __name__ == "__main__":
    main()
