"""One table of models under one protocol: `python -m hero_lightning.compare protocol=ravdess`.

Data flow: protocol -> tables x models -> the same random trials, scored on validation of the first fold -> the best one
on every fold and seed, trained on train + validation, scored once on test -> a JSON file per fit (a restart reads them)
-> the tables of `report`, with every row whose fits are there.

A launcher runs parts of it side by side: `-m only_models=[linear],[hero] launcher=joblib`.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
"""Overrides of every fit: its result is its only file, and the number of epochs is a setting of the search."""
BOTH = "train+val"
"""The split that a fit trains on which is scored on test."""


@dataclass(frozen=True, slots=True)
class Job:
    """One fit.

    Attributes:
        row: table and model.
        place: fold and seed.
        final: trained on train + validation and scored on test; else trained on train, scored on validation.
        config: resolved train config.
        path: file of its result.
    """

    row: tuple[str, str]
    place: tuple[int, int]
    final: bool
    config: dict[str, Any]
    path: Path


def compare(cfg: Any) -> None:
    """Tunes, fits and scores what `only_tables` and `only_models` ask for, and writes the tables of all finished rows.

    Fits lie in one folder per protocol, tables in one per budget: a partial run adds its rows to those of the others.
    """
    from omegaconf import OmegaConf

    from hero_lightning.evaluation import comparison
    from hero_lightning.reporting import run_folder

    out = Path(cfg.out)
    protocol: Any = OmegaConf.to_container(cfg, resolve=False)  # overrides keep their interpolations for `train`
    settings = comparison.draw(protocol["search_space"], cfg.num_trials, cfg.search_seed)
    folds = protocol["folds"][: cfg.max_folds]
    places = [(f, s) for f in range(len(folds)) for s in cfg.seeds]
    asked = _asked(cfg, protocol)
    rows = {row: _config(protocol, row) for row in asked}

    def job(row: tuple[str, str], number: int, place: tuple[int, int], final: bool = False) -> Job:
        changes = {**folds[place[0]], **settings[number], "seed": place[1]}
        return _job(out / "fits", row, rows[row], changes, f"setting{number}", place, final)

    def tune(row: tuple[str, str]) -> list[Job]:
        return [job(row, n, (0, cfg.seeds[0])) for n in range(len(settings))] if len(settings) > 1 else []

    def chosen(row: tuple[str, str]) -> int:
        scores = [_result(j)["score"] for j in tune(row)] or [0.0]
        return scores.index(max(scores))

    def fits(row: tuple[str, str]) -> list[Job]:
        final = [job(row, chosen(row), place, True) for place in places]
        # predictions on validation clips: late fusion fits its weights on them
        held = [job(row, chosen(row), place) for place in places] if cfg.tables[row[0]].get("late") else []
        return [*final, *held]

    for row in asked:
        _dataset(_data_key(job(row, 0, (0, cfg.seeds[0])).config))  # fills the stores
    _run([j for row in asked for j in tune(row)], "tuning")
    _run([j for row in asked for j in fits(row)], "fitting")
    folder = out / f"{len(settings)}-trials_{len(folds)}-folds_{len(cfg.seeds)}-seeds"
    with _locked(folder):  # parts of one comparison can end at the same time
        begun = [row for row in _every(protocol) if row in rows or (out / "fits" / row[1]).is_dir()]
        rows.update({row: _config(protocol, row) for row in begun if row not in rows})
        done = [row for row in begun if all(j.path.is_file() for j in tune(row))]
        done = [row for row in done if all(j.path.is_file() for j in fits(row))]
        made: dict[tuple[str, bool], dict[tuple[str, int, int], tuple[Job, Any]]] = {}
        for j in (j for row in done for j in fits(row)):
            made.setdefault((j.row[0], j.final), {})[j.row[1], *j.place] = j, _result(j)
        before = _read(folder / "table.json")
        texts, report = [], {}
        for table in (t for t in protocol["tables"] if (t, True) in made or t in before):
            content = _content(cfg, table, made) if (table, True) in made else {}
            content["chosen"] = {m: settings[chosen((t, m))] for t, m in done if t == table}
            report[table] = _extended(before.get(table, {}), content)
            texts.append(_written(cfg, folder / table, report[table], len(folds)))
        (folder / "table.md").write_text("\n".join(texts), encoding="utf-8")
        run_folder.write_json(
            folder / "table.json", {"tables": report, "settings": settings, **run_folder.provenance()}
        )
    log.info("%s\n%s", "\n".join(texts), folder / "table.md")


def _every(protocol: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(table, model) of every row of a protocol, in its order."""
    return [(t, m) for t, node in protocol["tables"].items() for m in node.get("models", protocol["models"])]


def _asked(cfg: Any, protocol: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(table, model) of the rows that this run computes."""
    from hero_lightning.errors import one_of

    tables, models = (cfg[f"only_{key}"] or list(protocol[key]) for key in ("tables", "models"))
    for key, names in (("tables", tables), ("models", models)):
        for name in names:
            one_of(f"only_{key}", name, protocol[key])
    return [(table, model) for table, model in _every(protocol) if table in tables and model in models]


def _config(protocol: Mapping[str, Any], row: tuple[str, str]) -> Any:
    """The train config of a row, not resolved."""
    from hero_lightning.config import build

    node = protocol["tables"][row[0]]
    overrides = [*protocol["train"], *node["train"], *protocol["models"][row[1]], *protocol["overrides"]]
    return build.compose_again("train", *QUIET, *overrides)


def _job(
    folder: Path,
    row: tuple[str, str],
    base: Any,
    changes: Mapping[str, Any],
    name: str,
    place: tuple[int, int],
    final: bool,
) -> Job:
    """A fit's config and file; a setting whose key the model's config does not have is left out."""
    from omegaconf import OmegaConf

    config = deepcopy(base)
    for key, value in changes.items():
        if OmegaConf.select(config, key) is not None:
            OmegaConf.update(config, key, value)
    hashed: Any = OmegaConf.to_container(config, resolve=False)
    hashed.pop("paths")  # data in another folder is the same data
    digest = hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:12]
    file = f"{'test' if final else 'tune'}-{name}-fold{place[0]}-seed{place[1]}-{digest}.json"
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    return Job(row, place, final, resolved, folder / row[1] / file)  # equal fits of two tables share a file


def _run(jobs: Sequence[Job], what: str) -> None:
    """Computes the fits that have no file yet."""
    every = {job.path: job for job in jobs}
    todo = [job for path, job in every.items() if not path.is_file()]
    log.info("%s: %d fits, %d of them done before", what, len(every), len(every) - len(todo))
    start = time.monotonic()
    for count, job in enumerate(todo, start=1):
        result = fit(job)
        left = (time.monotonic() - start) / count * (len(todo) - count) / 60
        name = f"{' '.join(job.row)} {job.path.stem}" + (f": {result['score']:.4f}" if "score" in result else "")
        took = f"{result['seconds']:.0f} s, {result['epochs']} epochs"
        log.info("[%d/%d] %s, %s; %.0f min left", count, len(todo), name, took, left)


def _result(job: Job) -> dict[str, Any]:
    return json.loads(job.path.read_text(encoding="utf-8"))


class Cached:
    """A split whose clips are read once and stay in memory.

    Args:
        dataset: ItemDataset that reads them.
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
    """The parts of a config that decide samples and features, as JSON."""
    data = {k: config[k] for k in ("modality", "modalities", "paths", "dataset")}
    return json.dumps({**data, "dataset": {k: v for k, v in config["dataset"].items() if k != "batch_size"}, "seed": 0})


@functools.lru_cache(maxsize=2)
def _dataset(key: str) -> tuple[Any, dict[str, Cached]]:
    """An indexed data module with filled stores, and a cache of its splits."""
    from omegaconf import OmegaConf

    from hero_lightning.config import build

    datamodule = build.dataset(OmegaConf.create(json.loads(key)))
    datamodule.prepare_data()
    return datamodule, {}


def fit(job: Job) -> dict[str, Any]:
    """Trains one model in this process and writes its result.

    Returns:
        A final fit: predictions on test, the fitted Task and the origin of the splits. Another: score and predictions
        on validation. Both: epochs, parameters, commit, seconds.
    """
    import pytorch_lightning as pl
    from omegaconf import OmegaConf

    from hero_lightning.config import build
    from hero_lightning.reporting import run_folder

    start = time.monotonic()
    cfg = OmegaConf.create(job.config)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    datamodule, cached = _dataset(_data_key(job.config))
    loader = functools.partial(_loader, datamodule, cached, seed=cfg.seed, batch_size=cfg.dataset.batch_size)
    module = build.module(cfg, datamodule.modalities, datamodule.tasks, datamodule.dims, lambda reasoner: None)
    trainer = build.trainer(cfg, job.path.parent)
    trainer.fit(module, loader(split=BOTH if job.final else "train"))
    result: dict[str, Any] = {"epochs": trainer.current_epoch, "commit": run_folder.provenance()["commit"]}
    if job.final:
        trainer.test(module, loader(split="test"), verbose=False)
        result |= {"test": _answers(module, datamodule, "test"), "task": module.main.state()}
        result["splits"] = datamodule.index.split_origin
    else:
        trainer.validate(module, loader(split="val"), verbose=False)
        result |= {"score": float(trainer.callback_metrics["val/score"]), "val": _answers(module, datamodule, "val")}
    result |= {"parameters": sum(p.numel() for p in module.model.parameters()), "seconds": time.monotonic() - start}
    job.path.parent.mkdir(parents=True, exist_ok=True)
    run_folder.write_json(job.path, result)  # atomic: a killed fit leaves no file, and a restart repeats it
    return result


def _loader(datamodule: Any, cached: dict[str, Cached], split: str, seed: int, batch_size: int) -> Any:
    """Batches of a split, its clips from memory."""
    from hero_lightning.data.collate import BatchLoader

    parts = datamodule.index.samples
    parts.setdefault(BOTH, [*parts["train"], *parts["val"]])
    made = datamodule.loader(split, split in ("train", BOTH), seed=seed, batch_size=batch_size)
    clips: Any = cached.setdefault(split, Cached(made.dataset))
    return BatchLoader(clips, made.collate, made.batch_sampler, 0, made.index, made.missing)


def _answers(module: Any, datamodule: Any, split: str) -> dict[str, Any]:
    """Ids, truth and predictions of the split that was scored last, in builtins."""
    found = module.predictions[module.main.name].compute()
    mask, samples = found.label.mask, datamodule.index.samples[split]
    numbers = found.prediction[mask].round(decimals=6).tolist()
    ids = [samples[i].id for i in found.index[mask].tolist()]
    return {"ids": ids, "truth": found.label.value[mask].tolist(), "prediction": numbers}


Made = Mapping[tuple[str, int, int], tuple[Job, Any]]
"""Model, fold and seed -> job and result."""


def _content(cfg: Any, name: str, tables: Mapping[tuple[str, bool], Made]) -> dict[str, Any]:
    """A table of the protocol as builtins; tables: name and whether its fits are final -> Made."""
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
        external = functools.partial(comparison.external_logits, sources)
        facts["late"] = comparison.add_late(found, gather(name, False), node.late.name, external)
    for name_of_file, file in (cfg.external or {}).items():
        found[name_of_file] = {job.place: _from_file(job, Path(file)) for job, _ in made.values()}
    compared = {t: gather(t) for t in node.get("compare_with") or () if (t, True) in tables}
    lines = comparison.rows(tasks[0], found, cfg.against, cfg.resamples, compared)
    constants = comparison.constants(tasks, next(iter(found.values())))
    splits = next(iter(made.values()))[1]["splits"]
    return {"title": node.title, "rows": lines, "constants": constants, "splits": splits, **facts}


def _extended(before: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """A table with the rows that it had before and that this run did not compute again."""
    again = {line["model"] for line in content.get("rows", ())}
    kept = [line for line in before.get("rows", ()) if line["model"] not in again]
    return {
        **before,
        **content,
        "rows": [*content.get("rows", ()), *kept],
        "chosen": before.get("chosen", {}) | content["chosen"],
        "commits": sorted({*before.get("commits", ()), *content.get("commits", ())}),
    }


def _written(cfg: Any, folder: Path, content: Mapping[str, Any], folds: int) -> str:
    """Writes a table in every form of `report`; returns it as markdown."""
    from hero_lightning.reporting import summary

    lines, node = content["rows"], cfg.tables[folder.name]
    references = list(dict.fromkeys(r for line in lines for r in line["minus"]))
    cells = summary.cells(lines, list(cfg.metrics), references, content["constants"])
    note = (
        f"{folds} folds x {len(cfg.seeds)} seeds; ± is the standard deviation over these fits. [95 % interval]: "
        f"(paired) bootstrap over clips, {cfg.resamples} resamples; p-values adjusted by Holm's method. "
        f"{cfg.num_trials} settings per model, chosen on validation of the first fold; scored after training on "
        "train + validation."
    )
    summary.write(folder, cells, lines, {**content, "metrics": list(cfg.metrics)}, note)
    text = [
        f"## {node.title}\n",
        f"{note} Splits: {'; '.join(f'{k} {v}' for k, v in content['splits'].items())}.\n",
        f"Commit {', '.join(content['commits'])}.\n",
        summary.markdown(cells),
        *(f"Elsewhere: {k}: {v}\n" for k, v in (node.get("published") or {}).items()),
    ]
    return "\n".join(text)


def _read(path: Path) -> dict[str, Any]:
    """The tables of an earlier run; empty without one."""
    return json.loads(path.read_text(encoding="utf-8"))["tables"] if path.is_file() else {}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _from_file(job: Job, path: Path) -> Any:
    """The predictions of a file for the test clips of a job."""
    from hero_lightning.evaluation.comparison import Answers
    from hero_lightning.evaluation.prediction_file import predictions, read_rows

    datamodule, _ = _dataset(_data_key(job.config))
    name, task = next(iter(datamodule.tasks.items()))
    rows, samples, _ = read_rows(path, {}, datamodule.gathered, "test")
    found = predictions(samples, {name: task}, rows, {}, {})[name]
    mask = found.label.mask
    ids = [s.id for s, m in zip(samples, mask.tolist(), strict=True) if m]
    return Answers.sorted(ids, found.label.value[mask], found.prediction[mask].float())


main = command("compare")(compare)

if __name__ == "__main__":
    main()
