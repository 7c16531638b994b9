"""Scores a finished run, a prediction file, or a folder of them: `python -m hero_lightning.evaluate run=RUN`.

Data flow: run folder -> its config, this machine's paths -> data module, model -> test -> metrics.json, predictions.csv
of the command's run folder; or prediction file + labels -> metrics.json.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hero_lightning.config.cli import command

log = logging.getLogger(__name__)

LABEL_KINDS = {"class": "hit", "score": "sentiment", "open": "open"}
"""Kind of a Task -> how answers in words are scored (`unibench.score_words`)."""


@command("evaluate")
def main(cfg: Any) -> None:
    """One evaluation; its tables and metrics lie in the command's own run folder."""
    if cfg.predictions is None and cfg.suite is None:
        evaluate(cfg)
    else:
        score_predictions(cfg)


def evaluate(cfg: Any) -> None:
    """Rebuilds the run's model, reads the dataset again and scores one split."""
    from omegaconf import OmegaConf

    from hero_lightning import api
    from hero_lightning.config import build, gate
    from hero_lightning.errors import one_of
    from hero_lightning.reporting import robustness, run_folder
    from hero_lightning.reporting.callback import ResultsWriter

    folder = build.run_folder()
    run = api.load(cfg.run, overrides=gate.moved(), paths=cfg.paths, trust=cfg.trust or ()).finished
    _set_dataset(run.config, cfg)
    robustness.check(cfg.robustness, run.config.callbacks)
    OmegaConf.save(build.stored_config(run.config), folder / "config.yaml")
    for name in cfg.drop:
        one_of("drop", name, run.facts["dims"])
    datamodule = _datamodule(cfg, run)
    datamodule.index.write(folder)
    one_of("split", cfg.split, [split for split, samples in datamodule.index.samples.items() if samples])
    modalities, tasks = datamodule.modalities, datamodule.tasks
    if cfg.split == "test":
        run_folder.note_test(run.folder)

    module, loader = run.module(modalities, tasks, drop=tuple(cfg.drop)), datamodule.loader(cfg.split)
    trainer: Any = build.trainer(run.config, folder)
    trainer.test(module, dataloaders=loader, verbose=False)
    if cfg.robustness:
        whole = next(c for c in trainer.callbacks if isinstance(c, ResultsWriter))
        tester = build.trainer(build.bare(run.config), folder, ())
        robustness.score_without(whole, cfg.split, module, tester, loader, cfg.robustness, folder)


def _set_dataset(stored: Any, cfg: Any) -> None:
    """Sets trainer, callbacks and, where one is chosen, another dataset in the config of a run."""
    from omegaconf import open_dict

    with open_dict(stored):
        stored.trainer, stored.logger = cfg.trainer, {}
        stored.callbacks = {"record": stored.callbacks.get("record")}
        if "_target_" in cfg.dataset:
            stored.dataset = cfg.dataset
            for name, node in stored.modality.items():  # sources of stored features belong to the dataset
                if "source" in cfg.modality[name]:
                    node.source = cfg.modality[name].source


def _datamodule(cfg: Any, run: Any) -> Any:
    """The data module with filled stores; labels are encoded by the run's Tasks where those know all its classes.

    Raises:
        CheckpointError: features or classes differ from the run's.
    """
    from hero_lightning.config import build
    from hero_lightning.training import checkpoint
    from hero_lightning.training.module import describe

    tasks = run.tasks()
    own = build.tasks(run.config)
    # an open Task takes words outside its vocabulary, and a dataset of test clips alone cannot give it one
    own |= {n: t for n, t in tasks.items() if t.kind == "open" and n in own}
    datamodule = build.dataset(run.config, tasks=own)
    datamodule.prepare_data()
    found = datamodule.tasks
    same = all(set(found[n].classes) <= set(t.classes) for n, t in tasks.items() if n in found)
    if cfg.label_map or same:
        datamodule = build.dataset(run.config, tasks=tasks, label_map=cfg.label_map)
        datamodule.prepare_data()
    checkpoint.check_facts(run.facts, describe(datamodule.modalities, datamodule.tasks, datamodule.dims), run.path)
    return datamodule


def score_predictions(cfg: Any) -> None:
    """Scores what `cfg.predictions` names; tables and metrics.json lie in the command's run folder."""
    from hero_lightning.config import build, instantiate
    from hero_lightning.errors import ConfigError, one_of
    from hero_lightning.evaluation import unibench
    from hero_lightning.reporting import run_folder, tables

    one_of("answers", cfg.answers, ("labels", "open", "caption"))
    one_of("suite", cfg.suite, (None, "unibench"))
    if cfg.predictions is None:
        raise ConfigError("A suite scores prediction files.", expected="predictions=FOLDER", where="predictions")
    path = Path(cfg.predictions)
    facts: dict[str, Any] = {}
    words: Any = _scorer_of_words(cfg) if cfg.suite or cfg.answers == "open" else None
    if cfg.suite:

        def one(test: Any, file: Path) -> dict[str, Any]:
            datamodule = build.dataset(build.compose_again("evaluate", f"dataset={test.dataset}", *test.options))
            return words(datamodule, file, test.split, test.kind, test.label)

        facts = unibench.run_suite(one, path)
        reports = {name: {"open vocabulary": report} for name, report in facts.pop("sets").items()}
        title = f"MER-UniBench, mean of {len(reports)} of 9 test sets: {facts['mean']:.4f}"
        for name, reason in facts["missing"].items():
            log.warning("%s is not in the mean: %s", name, reason)
    else:
        datamodule = build.dataset(cfg, **({"label_map": instantiate.plain(cfg.label_map)} if cfg.label_map else {}))
        found, facts["missing"] = _score_file(cfg, datamodule, path, words)
        reports, title = {cfg.split: found}, f"{datamodule.name}, {path.name}"
    run_folder.write_metrics(build.run_folder(), reports, cfg.resamples, predictions=str(path), **facts)
    tables.show_results(title, reports)


def _scorer_of_words(cfg: Any) -> Callable[..., dict[str, Any]]:
    """A function that scores a file of answers in words: (datamodule, file, split, kind, label) -> report."""
    from hero_lightning.config import instantiate
    from hero_lightning.evaluation import unibench
    from hero_lightning.evaluation.prediction_file import read_rows
    from hero_lightning.metrics.wheels import Wheels

    wheels, columns = Wheels(cfg.wheels), instantiate.plain(cfg.columns or {})
    lexicon = str(cfg.extractor._target_).endswith(".Lexicon")
    extract = instantiate.make(cfg.extractor, "extractor", **({"wheels": wheels} if lexicon else {}))

    def score(datamodule: Any, file: Path, split: str, kind: str, label: str) -> dict[str, Any]:
        # samples() needs neither a Task that knows the labels nor a train split
        rows, samples, missing = read_rows(file, columns, datamodule.samples(), split)
        report = unibench.score_words(samples, kind, label, rows, columns, extract, wheels, cfg.resamples)
        return {**report, "missing": missing}

    return score


def _score_file(cfg: Any, datamodule: Any, path: Path, words: Any) -> tuple[dict[str, Any], list[str]]:
    """Reports of one prediction file by Task name, and the ids without a row."""
    from hero_lightning.config.instantiate import plain
    from hero_lightning.errors import one_of
    from hero_lightning.evaluation import scoring, unibench
    from hero_lightning.evaluation.prediction_file import predictions, read_rows
    from hero_lightning.metrics.captions import SentenceVectors

    columns = plain(cfg.columns or {})
    if cfg.answers == "open":
        task = next(iter(datamodule.tasks.values()))
        one_of("kind of the first of dataset.tasks", task.kind, LABEL_KINDS)
        report = words(datamodule, path, cfg.split, LABEL_KINDS[task.kind], task.name)
        return {task.name: report}, report["missing"]
    rows, samples, missing = read_rows(path, columns, datamodule.gathered, cfg.split)
    if cfg.answers == "caption":
        embed = SentenceVectors(cfg.sentence_encoder) if cfg.sentence_encoder else None
        return unibench.score_captions(samples, rows, columns, embed, cfg.resamples), missing
    found = predictions(samples, datamodule.tasks, rows, columns, cfg.label_map or {})
    return scoring.scores(datamodule.tasks, found, resamples=cfg.resamples), missing


if __name__ == "__main__":
    main()
