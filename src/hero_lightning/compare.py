"""One table of models under one protocol: `python -m hero_lightning.compare protocol=ravdess`.

Data flow: protocol -> tables x models -> the same random settings, scored on validation of the first fold -> the best
on every fold and seed, trained on train + validation, scored once on test -> a json per fit (a restart goes on from
them) -> table.md, table.json.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hero_lightning.config.cli import command

log = logging.getLogger(__name__)

QUIET = (
    "name=compare", "logger=none", "trainer=cpu", "trainer.enable_progress_bar=false",
    "+trainer.enable_checkpointing=false", "callbacks.record=null", "callbacks.stop=null",
)  # fmt: skip
"""A fit leaves its result and nothing else; how many epochs it has is one of the settings."""
BOTH = "train+val"
"""What a fit that is scored on test learns from."""


@dataclass(frozen=True, slots=True)
class Job:
    """One fit.

    Attributes:
        row: table and model.
        place: fold and seed.
        final: learns from train + validation and is scored on test; else from train, scored on validation.
        config: resolved train config.
        path: where its result lies, or will lie.
    """

    row: tuple[str, str]
    place: tuple[int, int]
    final: bool
    config: dict[str, Any]
    path: Path


@command("compare")
def main(cfg: Any) -> None:
    """The whole protocol; results and tables lie in one folder per protocol, where a restart finds them."""
    compare(cfg)


def compare(cfg: Any) -> None:
    """Tunes, fits, scores, writes the tables."""
    from omegaconf import OmegaConf

    from hero_lightning.config import build
    from hero_lightning.evaluation import comparison
    from hero_lightning.reporting import run_folder

    folder = build.run_folder()
    protocol: Any = OmegaConf.to_container(cfg, resolve=False)  # overrides keep their interpolations for `train`
    settings = comparison.draw(protocol["search_space"], cfg.num_trials, cfg.search_seed)
    rows = dict(_rows(cfg, protocol))
    folds = protocol["folds"][: cfg.max_folds]

    def job(row: tuple[str, str], number: int, fold: int, seed: int, final: bool = False) -> Job:
        changes = {**folds[fold], **settings[number], "seed": seed}
        return _job(folder / "fits", row, rows[row], changes, f"setting{number}", (fold, seed), final)

    for row in rows:  # stores are filled before processes share them
        _dataset(_data_key(job(row, 0, 0, 0).config))
    tune = {row: [job(row, n, 0, cfg.seeds[0]) for n in range(len(settings))] for row in rows}
    tuned = _run([j for jobs in tune.values() for j in jobs] if len(settings) > 1 else [], cfg.workers, "tuning")
    scores = {row: [tuned[j.path]["score"] for j in jobs if tuned] or [0.0] for row, jobs in tune.items()}
    best = {row: s.index(max(s)) for row, s in scores.items()}
    places = [(f, s) for f in range(len(folds)) for s in cfg.seeds]
    final = [job(row, best[row], *place, True) for row in rows for place in places]
    # what a model says of clips it has not seen: late fusion weighs it by that
    held = [job(row, best[row], *place) for row in rows if cfg.tables[row[0]].get("late") for place in places]
    found = _run([*final, *held], cfg.workers, "fitting")
    made: dict[tuple[str, bool], dict[tuple[str, int, int], tuple[Job, Any]]] = {}
    for j in (*final, *held):
        made.setdefault((j.row[0], j.final), {})[j.row[1], *j.place] = j, found[j.path]
    texts, report = [], {}
    for table in dict.fromkeys(table for table, _ in rows):
        text, lines = _table(cfg, table, made)
        texts.append(text)
        report[table] = {**lines, "chosen": {m: settings[best[t, m]] for t, m in rows if t == table}}
    (folder / "table.md").write_text("\n".join(texts), encoding="utf-8")
    run_folder.write_json(folder / "table.json", {"tables": report, "settings": settings, **run_folder.provenance()})
    log.info("%s\n%s", "\n".join(texts), folder / "table.md")


def _rows(cfg: Any, protocol: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Any]]:
    """(table, model) and its train config, not resolved."""
    from hero_lightning.config import build
    from hero_lightning.errors import ConfigError

    for key in ("tables", "models"):
        if unknown := [name for name in cfg[f"only_{key}"] or [] if name not in protocol[key]]:
            raise ConfigError(
                f"Not one of the {key}.", expected=list(protocol[key]), got=unknown[0], where=f"only_{key}"
            )
    for table in cfg.only_tables or protocol["tables"]:
        node = protocol["tables"][table]
        for model in (m for m in node.get("models", protocol["models"]) if m in (cfg.only_models or [m])):
            overrides = [*protocol["train"], *node["train"], *protocol["models"][model], *protocol["overrides"]]
            yield (table, model), build.compose_again("train", *QUIET, *overrides)


def _job(
    folder: Path,
    row: tuple[str, str],
    base: Any,
    changes: Mapping[str, Any],
    name: str,
    place: tuple[int, int],
    final: bool,
) -> Job:
    """A fit's config and place; a setting that a model does not know is none of its settings."""
    from omegaconf import OmegaConf

    config = deepcopy(base)
    for key, value in changes.items():
        if OmegaConf.select(config, key) is not None:
            OmegaConf.update(config, key, value)
    content: Any = OmegaConf.to_container(config, resolve=False)
    content.pop("paths")  # moved data is the same data
    stamp = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    file = f"{'test' if final else 'tune'}-{name}-fold{place[0]}-seed{place[1]}-{stamp}.json"
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    return Job(row, place, final, resolved, folder / row[1] / file)  # tables share equal fits


def _run(jobs: Sequence[Job], workers: int, what: str) -> dict[Path, dict[str, Any]]:
    """Results of all jobs; those that lie there already are read, the others computed and written."""
    out = {job.path: json.loads(job.path.read_text(encoding="utf-8")) for job in jobs if job.path.is_file()}
    todo = [job for path, job in {job.path: job for job in jobs}.items() if path not in out]
    log.info("%s: %d fits, %d of them lie there", what, len(out) + len(todo), len(out))
    start = time.monotonic()
    for count, (job, result) in enumerate(_computed(todo, workers), start=1):
        out[job.path] = result
        left = (time.monotonic() - start) / count * (len(todo) - count) / 60
        name = f"{' '.join(job.row)} {job.path.stem}" + (f": {result['score']:.4f}" if "score" in result else "")
        took = f"{result['seconds']:.0f} s, {result['epochs']} epochs"
        log.info("[%d/%d] %s, %s; %.0f min left", count, len(todo), name, took, left)
    return out


def _computed(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Jobs as they end; 0 workers = in this process."""
    if not workers or not jobs:
        yield from ((job, fit(job)) for job in jobs)
        return
    import multiprocessing

    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_worker)
    try:
        running = {pool.submit(fit, job): job for job in jobs}
        for done in as_completed(running):
            yield running[done], done.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _worker() -> None:
    """Ends with its parent, however that ends; one thread, since as many workers as cores are at work."""
    import multiprocessing
    import threading

    import torch

    from hero_lightning.config.cli import silence_libraries

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    torch.set_num_threads(1)
    logging.getLogger("hero_lightning").setLevel(logging.WARNING)
    silence_libraries()


class Kept:
    """A split whose clips are read once and stay in memory.

    Args:
        dataset: reads them.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.items: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: tuple[int, int]) -> Any:
        if draw[1] not in self.items:
            self.items[draw[1]] = self.dataset[0, draw[1]]
        return self.items[draw[1]]


def _data_key(config: Mapping[str, Any]) -> str:
    """What of a config decides the samples and their features."""
    data = {k: config[k] for k in ("modality", "modalities", "paths", "dataset")}
    return json.dumps({**data, "dataset": {k: v for k, v in config["dataset"].items() if k != "batch_size"}, "seed": 0})


@functools.lru_cache(maxsize=2)
def _dataset(key: str) -> tuple[Any, dict[str, Kept]]:
    """An indexed dataset with filled stores, and its splits as they are read."""
    from omegaconf import OmegaConf

    from hero_lightning.config import build

    dataset = build.dataset(OmegaConf.create(json.loads(key)))
    dataset.prepare_data()
    return dataset, {}


def fit(job: Job) -> dict[str, Any]:
    """Trains one model in this process and writes its result.

    Returns:
        Of a final fit answers on test, the fitted Task and where the splits come from; else score and answers on
        validation; epochs, parameters, commit, seconds.
    """
    import pytorch_lightning as pl
    from omegaconf import OmegaConf

    from hero_lightning.config import build
    from hero_lightning.reporting import run_folder

    start = time.monotonic()
    cfg = OmegaConf.create(job.config)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    dataset, kept = _dataset(_data_key(job.config))
    dataset.seed, dataset.batch_size = cfg.seed, cfg.dataset.batch_size
    module = build.module(cfg, dataset.modalities, dataset.tasks, dataset.dims, lambda reasoner: None)
    trainer = build.trainer(cfg, job.path.parent)
    trainer.fit(module, _loader(dataset, kept, BOTH if job.final else "train"))
    result: dict[str, Any] = {"epochs": trainer.current_epoch, "commit": run_folder.provenance()["commit"]}
    if job.final:
        trainer.test(module, _loader(dataset, kept, "test"), verbose=False)
        result |= {"test": _answers(module, dataset, "test"), "task": module.main.state()}
        result["splits"] = dataset.index.split_origin
    else:
        trainer.validate(module, _loader(dataset, kept, "val"), verbose=False)
        result |= {"score": float(trainer.callback_metrics["val/score"]), "val": _answers(module, dataset, "val")}
    result |= {"parameters": sum(p.numel() for p in module.model.parameters()), "seconds": time.monotonic() - start}
    job.path.parent.mkdir(parents=True, exist_ok=True)
    run_folder.write_json(job.path, result)  # atomic: a killed fit is repeated
    return result


def _loader(dataset: Any, kept: dict[str, Kept], split: str) -> Any:
    """Batches of a split, its clips from memory."""
    from hero_lightning.data.collate import BatchLoader

    parts = dataset.index.samples
    parts.setdefault(BOTH, [*parts["train"], *parts["val"]])
    made = dataset.loader(split, shuffle=split in ("train", BOTH))
    clips: Any = kept.setdefault(split, Kept(made.dataset))
    return BatchLoader(clips, made.collate, made.batch_sampler, 0, made.index, made.missing)


def _answers(module: Any, dataset: Any, split: str) -> dict[str, Any]:
    """Ids, truth and prediction of the split that was scored last, in builtins."""
    found = module.predictions[module.main.name].compute()
    mask, samples = found.label.mask, dataset.index.samples[split]
    numbers = found.prediction[mask].round(decimals=6).tolist()
    ids = [samples[i].id for i in found.index[mask].tolist()]
    return {"ids": ids, "truth": found.label.value[mask].tolist(), "prediction": numbers}


Made = Mapping[tuple[str, int, int], tuple[Job, Any]]
"""Model, fold and seed -> job and result."""


def _table(cfg: Any, name: str, tables: Mapping[tuple[str, bool], Made]) -> tuple[str, dict[str, Any]]:
    """A table of the protocol as markdown and as builtins; tables: name and whether its fits are final -> Made."""
    from hero_lightning.config import instantiate
    from hero_lightning.evaluation import comparison
    from hero_lightning.tasks import Task

    node, made = cfg.tables[name], tables[name, True]
    tasks = {fold: Task.from_state(r["task"]) for (_, fold, _), (_, r) in made.items()}

    def gather(table: str, final: bool = True) -> dict[str, comparison.Fits]:
        results = {place: result for place, (_, result) in tables[table, final].items()}
        return comparison.gather(results, tasks[0], "test" if final else "val")

    found = gather(name)
    facts: dict[str, Any] = {"commits": sorted({str(r["commit"]) for _, r in made.values()})}
    if node.get("late"):
        sources = [instantiate.make(s, "late.sources") for s in instantiate.plain(node.late)["sources"]]
        outside = functools.partial(comparison.outside, sources)
        facts["late"] = comparison.add_late(found, gather(name, False), node.late.name, outside)
    for theirs, file in (cfg.external or {}).items():
        found[theirs] = {job.place: _foreign(job, Path(file)) for job, _ in made.values()}
    others = {t: gather(t) for t in node.get("compare_with") or () if (t, True) in tables}
    lines = comparison.rows(tasks[0], found, cfg.against, cfg.resamples, others)
    plain = comparison.constants(tasks, next(iter(found.values())))
    splits = "; ".join(f"{k} {v}" for k, v in next(iter(made.values()))[1]["splits"].items())
    text = [
        f"## {node.title}\n",
        f"{len(tasks)} folds x {len(cfg.seeds)} seeds; +- is the standard deviation over these fits. Intervals:",
        f"(paired) bootstrap over clips, {cfg.resamples} resamples; n.s. = the interval holds zero. {cfg.num_trials}",
        "settings per model, chosen on validation of the first fold; scored after training on train + validation.",
        f"Splits: {splits}.\n",
        f"Commit {', '.join(facts['commits'])}.\n",
        comparison.markdown(lines, plain, list(cfg.metrics)) + "\n",
        *(f"Elsewhere: {k}: {v}\n" for k, v in (node.get("published") or {}).items()),
    ]  # fmt: skip
    return "\n".join(text), {"title": node.title, "rows": lines, "constants": plain, **facts}


def _foreign(job: Job, path: Path) -> Any:
    """Answers of a prediction file to the test clips of a job."""
    from hero_lightning.evaluation.comparison import Answers
    from hero_lightning.evaluation.prediction_file import predictions, read_rows

    dataset, _ = _dataset(_data_key(job.config))
    name, task = next(iter(dataset.tasks.items()))
    rows, samples, _ = read_rows(path, {}, dataset.gathered, "test")
    found = predictions(samples, {name: task}, rows, {}, {})[name]
    mask = found.label.mask
    ids = [s.id for s, m in zip(samples, mask.tolist(), strict=True) if m]
    return Answers.sorted(ids, found.label.value[mask], found.prediction[mask].float())


if __name__ == "__main__":
    main()
