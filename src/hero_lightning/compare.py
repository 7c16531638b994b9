"""One table of models under one protocol: `python -m hero_lightning.compare experiment=ravdess`.

Data flow: experiment -> table x model -> the same random settings, scored on validation of the first fold -> the best one
on every fold and seed, scored once on test -> results (a json each, so that a restart goes on) -> table.md, table.json.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hero_lightning.cli import command

log = logging.getLogger(__name__)

QUIET = (
    "name=compare", "logger=none", "trainer=cpu", "trainer.enable_progress_bar=false", "callbacks.checkpoint=null",
    "+trainer.enable_checkpointing=false", "callbacks.last=null", "callbacks.progress=null", "callbacks.record=null",
)  # fmt: skip
"""A fit leaves its result and nothing else."""


@dataclass(frozen=True, slots=True)
class Job:
    """One fit.

    Attributes:
        table, model: the row it belongs to.
        setting: which of the drawn settings; -1 = the experiment's own.
        fold, seed: numbers.
        final: also score the test split.
        config: resolved train config.
        path: where its result lies, or will lie.
    """

    table: str
    model: str
    setting: int
    fold: int
    seed: int
    final: bool
    config: dict[str, Any]
    path: Path


@command("compare")
def main(cfg: Any) -> None:
    """The whole experiment; results and tables lie in one folder per experiment, where a restart finds them."""
    compare(cfg)


def compare(cfg: Any) -> None:
    """Tunes, fits, scores, writes the tables."""
    from omegaconf import OmegaConf

    from hero_lightning import build, comparison, runfolder

    folder = build.run_folder()
    plan: Any = OmegaConf.to_container(cfg, resolve=False)  # overrides keep their interpolations for `train`
    settings = comparison.draw(plan["space"], cfg.settings, cfg.settings_seed)
    rows = list(_rows(cfg, plan))
    folds = list(range(len(plan["folds"])))[: cfg.max_folds]
    for table in dict.fromkeys(name for name, *_ in rows):  # stores are filled once, before processes share them
        _corpus(_data_key(_job(folder, plan, next(r for r in rows if r[0] == table), {}, -1, 0, 0, False).config))
    tune = [
        [_job(folder, plan, row, s, n, folds[0], cfg.seeds[0], False) for n, s in enumerate(settings)] for row in rows
    ]
    tuned = _run([job for jobs in tune for job in jobs] if len(settings) > 1 else [], cfg.workers, "tuning")
    final: list[Job] = []
    for row, jobs in zip(rows, tune, strict=True):
        scores = [tuned[job.path]["score"] for job in jobs if job.path in tuned] or [0.0]
        best = scores.index(max(scores))
        final += [_job(folder, plan, row, settings[best], best, f, s, True) for f in folds for s in cfg.seeds]
    found = _run(final, cfg.workers, "fitting")
    report: dict[str, Any] = {"settings": settings, "tables": {}}
    texts = []
    for table in dict.fromkeys(job.table for job in final):
        own = {(j.model, j.fold, j.seed): j for j in final if j.table == table}
        text, told = _table(cfg, table, own, found)
        texts.append(text)
        report["tables"][table] = {**told, "chosen": {m: settings[j.setting] for (m, *_), j in own.items()}}
    (folder / "table.md").write_text("\n".join(texts), encoding="utf-8")
    runfolder.write_json(folder / "table.json", {**report, **runfolder.provenance()})
    log.info("%s\n%s", "\n".join(texts), folder / "table.md")


def _rows(cfg: Any, plan: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Table, model and its train config, not resolved."""
    from hero_lightning import build
    from hero_lightning.errors import ConfigError

    for key in ("tables", "models"):
        asked = cfg[f"only_{key}"] or []
        if unknown := [name for name in asked if name not in plan[key]]:
            raise ConfigError(f"No such {key[:-1]}.", expected=list(plan[key]), got=unknown[0], where=f"only_{key}")
    for table, node in plan["tables"].items():
        for model, own in plan["models"].items():
            if table in (cfg.only_tables or [table]) and model in (cfg.only_models or [model]):
                overrides = [*QUIET, *plan["train"], *node["train"], *own]
                yield table, model, build.beside("train", *overrides)


def _job(
    folder: Path,
    plan: Mapping[str, Any],
    row: tuple[str, str, Any],
    setting: Mapping[str, Any],
    number: int,
    fold: int,
    seed: int,
    final: bool,
) -> Job:
    """A fit's config and place; a setting that a model does not know is none of its settings."""
    from omegaconf import OmegaConf

    table, model, base = row
    config = deepcopy(base)
    known = {k: v for k, v in setting.items() if OmegaConf.select(config, k) is not None}
    for key, value in {**plan["folds"][fold], **known, "seed": seed}.items():
        OmegaConf.update(config, key, value)
    shown: Any = OmegaConf.to_container(config, resolve=False)
    told = json.dumps({k: v for k, v in shown.items() if k != "paths"}, sort_keys=True)  # moved data is the same data
    stamp = hashlib.sha256(told.encode()).hexdigest()[:12]
    kind = "test" if final else "tune"
    path = folder / "fits" / table / model / f"{kind}-setting{number}-fold{fold}-seed{seed}-{stamp}.json"
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    return Job(table, model, number, fold, seed, final, resolved, path)


def _run(jobs: Sequence[Job], workers: int, what: str) -> dict[Path, dict[str, Any]]:
    """Results of all jobs; those that lie there already are read, the others computed and written."""
    out = {job.path: json.loads(job.path.read_text(encoding="utf-8")) for job in jobs if job.path.is_file()}
    todo = [job for job in {job.path: job for job in jobs}.values() if job.path not in out]
    log.info("%s: %d fits, %d of them lie there", what, len(jobs), len(jobs) - len(todo))
    start = time.monotonic()
    for count, (job, result) in enumerate(_computed(todo, workers), start=1):
        out[job.path] = result
        left = (time.monotonic() - start) / count * (len(todo) - count) / 60
        place = f"{job.table} {job.model} setting {job.setting} fold {job.fold} seed {job.seed}"
        took = f"{result['seconds']:.0f} s, {result['epochs']} epochs"
        log.info("[%d/%d] %s: val %.4f, %s; %.0f min left", count, len(todo), place, result["score"], took, left)
    return out


def _computed(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Jobs as they end; 0 workers = in this process."""
    if not workers:
        yield from ((job, fit(job)) for job in jobs)
        return
    import multiprocessing

    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_worker)
    try:
        running: dict[Future[dict[str, Any]], Job] = {pool.submit(fit, job): job for job in jobs}
        for done in as_completed(running):
            yield running[done], done.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _worker() -> None:
    """Ends with its parent, however that ends; one thread, since as many workers as cores are at work."""
    import multiprocessing
    import threading

    import torch

    from hero_lightning.cli import _quiet

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    torch.set_num_threads(1)
    logging.getLogger("hero_lightning").setLevel(logging.WARNING)
    _quiet()


def _data_key(config: Mapping[str, Any]) -> str:
    """What of a config decides the samples and their features."""
    data = {k: config[k] for k in ("modalities", "streams", "paths", "dataset")}
    data["dataset"] = {k: v for k, v in config["dataset"].items() if k not in ("batch_size", "num_workers")}
    return json.dumps(data)


class Kept:
    """A split whose clips are read once and stay in memory.

    Args:
        dataset: reads them.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset, self.items = dataset, {}  # type: Any, dict[int, Any]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: tuple[int, int]) -> Any:
        if draw[1] not in self.items:
            self.items[draw[1]] = self.dataset[0, draw[1]]
        return self.items[draw[1]]


@functools.lru_cache(maxsize=2)
def _corpus(key: str) -> tuple[Any, dict[str, Kept]]:
    """An indexed corpus with filled stores, and its splits as they are read."""
    from omegaconf import OmegaConf

    from hero_lightning import build

    corpus = build.corpus(OmegaConf.create(json.loads(key) | {"seed": 0}), num_workers=0)
    corpus.prepare_data()
    return corpus, {}


def _loader(corpus: Any, kept: dict[str, Kept], split: str, shuffle: bool = False) -> Any:
    from hero_lightning.data.collate import BatchLoader

    made = corpus.loader(split, shuffle=shuffle)
    dataset: Any = kept.setdefault(split, Kept(made.loader.dataset))
    return BatchLoader(dataset, made.loader.collate_fn, made.batch_sampler, 0, made.plan, made.policy)


def fit(job: Job) -> dict[str, Any]:
    """Trains one model in this process and writes its result.

    Returns:
        score and figures of the best epoch on validation, its answers, those on test of a final fit, the fitted
        Target, epochs, parameters, seconds, commit.
    """
    import pytorch_lightning as pl
    from omegaconf import OmegaConf

    from hero_lightning import build, runfolder

    start = time.monotonic()
    cfg = OmegaConf.create(job.config)
    pl.seed_everything(job.seed, workers=True, verbose=False)
    corpus, kept = _corpus(_data_key(job.config))
    corpus.seed, corpus.batch_size = job.seed, cfg.dataset.batch_size
    module = build.module(cfg, corpus.streams, corpus.targets, corpus.dims, lambda r: None)
    trainer = build.trainer(cfg, job.path.parent)

    class Best(pl.Callback):
        """Keeps weights and answers of the best epoch in memory."""

        score, epoch, state, answers = float("-inf"), 0, {}, {}  # type: float, int, dict[str, Any], dict[str, Any]

        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            score = float(trainer.callback_metrics["val/score"])
            if score > self.score:
                self.score, self.epoch, self.answers = score, trainer.current_epoch, answers("val")
                self.state = {k: v.detach().clone() for k, v in module.state_dict().items()}

    def answers(split: str) -> dict[str, Any]:
        found = module.predictions[module.main.name].compute()
        mask, samples = found.label.mask, corpus.plan.samples[split]
        numbers = found.prediction[mask].round(decimals=6).tolist()
        ids = [samples[i].id for i, m in zip(found.index.tolist(), mask.tolist(), strict=True) if m]
        return {"ids": ids, "truth": found.label.value[mask].tolist(), "prediction": numbers}

    best = Best()
    trainer.callbacks.append(best)  # type: ignore[attr-defined]
    train, val = _loader(corpus, kept, "train", shuffle=True), _loader(corpus, kept, "val")
    trainer.fit(module, train_dataloaders=train, val_dataloaders=val)
    result: dict[str, Any] = {"score": best.score, "val": best.answers}
    if job.final:
        module.load_state_dict(best.state)
        trainer.test(module, dataloaders=_loader(corpus, kept, "test"), verbose=False)
        result |= {"test": answers("test"), "target": module.main.state(), "splits": corpus.plan.split_origin}
    result |= {"best_epoch": best.epoch, "epochs": trainer.current_epoch, "commit": runfolder.provenance()["commit"]}
    result["parameters"] = sum(p.numel() for p in module.model.parameters())
    result["seconds"] = time.monotonic() - start
    job.path.parent.mkdir(parents=True, exist_ok=True)
    part = job.path.with_suffix(f".{os.getpid()}.part")
    runfolder.write_json(part, result)
    part.replace(job.path)  # whole or not at all: a killed fit is made anew
    return result


def _table(
    cfg: Any, name: str, jobs: Mapping[tuple[str, int, int], Job], results: Mapping[Path, Any]
) -> tuple[str, Any]:
    """A table of the experiment as markdown and as builtins."""
    from hero_lightning import build, comparison
    from hero_lightning.comparison import Answers
    from hero_lightning.targets import Target

    node = cfg.tables[name]
    made = {place: results[job.path] for place, job in jobs.items()}
    targets = {fold: Target.from_state(r["target"]) for (_, fold, _), r in made.items()}
    target = next(iter(targets.values()))
    found: dict[str, dict[tuple[int, int], Answers]] = {}
    for (model, fold, seed), r in made.items():
        found.setdefault(model, {})[fold, seed] = Answers.of(r["test"], target)
    facts: dict[str, Any] = {}
    if node.get("late"):
        late = build.plain(node.late)
        outside = [build.make(s, f"tables.{name}.late.sources") for s in late["sources"]]
        facts["late"] = {}
        for (model, fold, seed), r in made.items():
            inner, test = Answers.of(r["val"], target), found[model][fold, seed]
            weights = comparison.calibrate(inner.prediction, _outside(outside, inner.ids), inner.truth)
            found[model][fold, seed] = comparison.joined(test, _outside(outside, test.ids), weights)
            facts["late"][f"{model} fold {fold} seed {seed}"] = weights
        for (fold, seed), test in list(found[next(iter(found))].items()):
            alone = Answers(test.ids, test.truth, _outside(outside, test.ids).softmax(dim=1))
            found.setdefault(late["name"], {})[fold, seed] = alone
    for other, file in (cfg.external or {}).items():
        for (_, fold, seed), job in jobs.items():
            if (fold, seed) not in found.setdefault(other, {}):
                found[other][fold, seed] = _foreign(job, Path(file), target)
    lines = comparison.rows(target, found, cfg.against, cfg.resamples)
    first = {fold: (targets[fold], a) for fits in found.values() for (fold, _), a in fits.items()}
    plain = comparison.constants(first)
    sizes = [len(a.ids) for _, a in first.values()]
    commits = sorted({str(r["commit"]) for r in made.values()})
    fits = (
        f"{len(first)} folds x {len({s for *_, s in made})} seeds"
        if len(first) > 1
        else f"{len({s for *_, s in made})} seeds"
    )
    origin = "; ".join(f"{k}: {v}" for k, v in next(iter(made.values()))["splits"].items())
    head = [
        f"## {node.title}", "",
        f"Test clips: {sum(sizes)}. {fits}; +- is the standard deviation over fits, intervals are paired bootstraps over",
        f"clips ({cfg.resamples} resamples). {cfg.settings} settings per model, chosen on validation of the first fold. {origin}.",
        f"Commit {', '.join(commits)}.", "",
        comparison.markdown(lines, plain, list(cfg.figures)), "",
        *(f"Published: {k}: {v}" for k, v in (node.get("published") or {}).items()), "",
    ]  # fmt: skip
    rows = [
        {
            "model": line.name, "fits": line.fits, "values": line.values, "spread": line.spread, "interval": line.bounds,
            "minus": {r: {k: asdict(p) for k, p in pairs.items()} for r, pairs in line.against.items()},
        }
        for line in lines
    ]  # fmt: skip
    return "\n".join(head), {"title": node.title, "rows": rows, "constants": plain, "commits": commits, **facts}


def _outside(sources: Sequence[Any], ids: Sequence[str]) -> Any:
    """Logits [N, C] of clips, each from the first source that has it."""
    import torch

    from hero_lightning.data.types import Sample
    from hero_lightning.errors import DataError

    out = []
    for sample in (Sample(i, "test") for i in ids):
        source = next((s for s in sources if s.has(sample)), None)
        if source is None:
            raise DataError(
                "No outside logits of a clip.", expected="a row per clip", got=sample.id, where="late.sources"
            )
        out.append(source.read(sample).x[0])
    return torch.stack(out)


def _foreign(job: Job, path: Path, target: Any) -> Any:
    """Answers of a prediction file to the clips of a job's test split."""
    from hero_lightning.comparison import Answers
    from hero_lightning.prediction_file import read_rows
    from hero_lightning.score_file import answered

    corpus, _ = _corpus(_data_key(job.config))
    rows, samples, _ = read_rows(path, {}, corpus.gathered, "test")
    found = answered(samples, {target.name: corpus.targets[target.name]}, rows, {}, {})[target.name]
    told = {
        "ids": [s.id for s in samples],
        "truth": found.label.value.tolist(),
        "prediction": found.prediction.tolist(),
    }
    return Answers.of(told, target)


if __name__ == "__main__":
    main()
