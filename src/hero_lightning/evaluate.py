"""Scores a finished run, a prediction file, or a folder of them: `python -m hero_lightning.evaluate run=RUN`.

Data flow: run folder -> its config as data, this machine's paths -> dataset, model -> test -> evaluation folder.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hero_lightning.config.cli import command

log = logging.getLogger(__name__)

CHOICES = {"answers": ("labels", "open", "caption"), "suite": (None, "unibench")}
KINDS = {"class": "hit", "score": "sentiment", "open": "open"}
"""Kind of a Task -> how answers in words are scored."""


@command("evaluate")
def main(cfg: Any) -> None:
    """One evaluation; its tables and metrics lie in the command's own run folder."""
    if cfg.predictions is None and cfg.suite is None:
        evaluate(cfg)
        return
    score_predictions(cfg)


def evaluate(cfg: Any) -> None:
    """Rebuilds the run's model, reads the dataset again and scores one split."""
    from omegaconf import OmegaConf, open_dict

    from hero_lightning.config import build
    from hero_lightning.errors import ConfigError
    from hero_lightning.reporting import run_folder
    from hero_lightning.tasks import Task
    from hero_lightning.training import checkpoint
    from hero_lightning.training.module import describe

    folder = build.run_folder()
    stored, path, state = build.load_run(cfg.run, cfg.paths)
    with open_dict(stored):
        stored.trainer, stored.logger = cfg.trainer, {}
        stored.callbacks = {"record": stored.callbacks.get("record")}
        if "_target_" in cfg.dataset:
            stored.dataset = cfg.dataset
            for name, node in stored.modality.items():  # where features lie belongs to the dataset
                if "source" in cfg.modality[name]:
                    node.source = cfg.modality[name].source
    OmegaConf.save(build.stored_config(stored), folder / "config.yaml")
    unknown = [s for s in cfg.drop if s not in state[checkpoint.FACTS]["dims"]]
    if unknown:
        raise ConfigError(
            "A modality to drop is not one of the run's.",
            expected=", ".join(state[checkpoint.FACTS]["dims"]),
            got=unknown[0],
            where="drop",
        )
    facts = state[checkpoint.FACTS]
    dataset = build.dataset(stored)
    tasks = {name: Task.from_state(t) for name, t in facts["tasks"].items()}
    # words outside its vocabulary are no error to an open Task, and a dataset of test clips gives it none
    opened = {n: t for n, t in tasks.items() if t.kind == "open" and n in dataset.tasks}
    dataset.tasks = {**dataset.tasks, **opened}
    dataset.prepare_data()
    same = all(set(dataset.tasks[n].classes) <= set(t.classes) for n, t in tasks.items() if n in dataset.tasks)
    if cfg.label_map or same:  # the run's own Tasks code this dataset' labels, by name
        dataset = build.dataset(stored, tasks=tasks, label_map=cfg.label_map)
        dataset.prepare_data()
    dataset.index.write(folder)
    checkpoint.check_facts(facts, describe(dataset.modalities, dataset.tasks, dataset.dims), path)
    lm = checkpoint.run_folder(path) / checkpoint.LM
    module = build.module(
        stored, dataset.modalities, dataset.tasks, facts["dims"], lambda r: r.restore(facts["reasoner"], lm)
    )
    checkpoint.restore(module, state["state_dict"], path, strict=True)
    module.drop = tuple(cfg.drop)
    if not dataset.index.samples.get(cfg.split):
        raise ConfigError(
            "The dataset has no such split.",
            expected=", ".join(k for k, v in dataset.index.samples.items() if v),
            got=cfg.split,
            where="split",
        )
    if cfg.split == "test":
        run_folder.note_test(checkpoint.run_folder(path))
    trainer = build.trainer(stored, folder)
    trainer.test(module, dataloaders=dataset.loader(cfg.split), verbose=False)
    if cfg.robustness:
        _robustness(trainer, module, dataset, stored, cfg.split)


def _robustness(trainer: Any, module: Any, dataset: Any, stored: Any, split: str) -> None:
    """Scores the split again without each modality, next to the metrics of the whole, on the same samples."""
    from hero_lightning.config import build
    from hero_lightning.evaluation import scoring
    from hero_lightning.reporting import run_folder, tables
    from hero_lightning.reporting.callback import ResultsWriter

    def record(of: Any) -> Any:
        return next(c for c in of.callbacks if isinstance(c, ResultsWriter))

    whole, always = record(trainer), module.drop
    reports: dict[str, Any] = {name: {**r, "baselines": {}} for name, r in whole.reports[split].items()}
    for modality in (s for s in dataset.dims if s not in always):
        module.drop = (*always, modality)
        again = build.trainer(stored, Path(trainer.default_root_dir) / f"without_{modality}")
        again.test(module, dataloaders=dataset.loader(split), verbose=False)
        for name, found in record(again).records[split].predictions.items():
            theirs, ours = found.prediction, whole.records[split].predictions[name]
            reports[name]["baselines"][f"{name} without {modality}"] = scoring.compare(
                module.tasks[name], ours, theirs, resamples=whole.resamples
            )
    module.drop = always
    run_folder.write_json(Path(trainer.default_root_dir) / "robustness.json", {"split": split, "tasks": reports})
    tables.show_results("what a missing modality costs", {split: reports})


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
    if cfg.suite or cfg.answers == "open":
        wheels = Wheels(cfg.wheels)
        lexicon = str(cfg.extractor._target_).endswith(".Lexicon")
        extract = instantiate.make(cfg.extractor, "extractor", **({"wheels": wheels} if lexicon else {}))

        def words(dataset: Any, file: Path, split: str, kind: str, label: str) -> dict[str, Any]:
            # labels as the dataset words them, from the official parts: no Task need know them, no train part be there
            rows, own, missing = read_rows(file, columns, dataset.samples(), split)
            found = unibench.score_words(own, kind, label, rows, columns, extract, wheels, cfg.resamples)
            return {**found, "missing": missing}

    if cfg.suite:

        def one(test: Any, file: Path) -> dict[str, Any]:
            dataset = build.dataset(build.beside("evaluate", f"dataset={test.dataset}", *test.options))
            return words(dataset, file, test.split, test.kind, test.label)

        found = unibench.run_suite(one, path)
        reports = {name: {"open vocabulary": report} for name, report in found.pop("sets").items()}
        title, extra = f"MER-UniBench, mean of {len(reports)} of 9 test sets: {found['mean']:.4f}", found
    else:
        dataset = build.dataset(cfg, **({"label_map": instantiate.plain(cfg.label_map)} if cfg.label_map else {}))
        title = f"{dataset.name}, {path.name}"
        if cfg.answers == "open":
            task = next(iter(dataset.tasks.values()))
            if task.kind not in KINDS:
                expected = "a first task of kind " + ", ".join(KINDS)
                raise ConfigError("No answer in words fits.", expected=expected, got=task.kind, where="dataset.tasks")
            found = {task.name: words(dataset, path, cfg.split, KINDS[task.kind], task.name)}
        else:
            rows, own, missing = read_rows(path, columns, dataset.gathered, cfg.split)
            if cfg.answers == "caption":
                embed = SentenceVectors(cfg.sentence_encoder) if cfg.sentence_encoder else None
                found = unibench.score_captions(own, rows, columns, embed, cfg.resamples)
            else:
                said = answered(own, dataset.tasks, rows, columns, cfg.label_map or {})
                found = scoring.scores(dataset.tasks, said, resamples=cfg.resamples)
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
