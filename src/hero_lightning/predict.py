"""Predicts clips: `python -m hero_lightning.predict run=RUN video=clip.mp4` prints JSON, of many clips a line each.

Data flow: run folder -> model with the run's classes; clips, feature file or dataset sample (-> words by ASR) -> rows
-> Outputs (-> a language model's answers) -> JSON per clip, and reports to read.

Legend: B rows of a batch, T steps.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hero_lightning.config.cli import command

if TYPE_CHECKING:
    from hero_lightning.config.build import FinishedRun
    from hero_lightning.features import Availability, Modality
    from hero_lightning.models.outputs import Outputs
    from hero_lightning.training.module import EmotionModule
    from hero_lightning.types import Features, Sample

log = logging.getLogger(__name__)


@command("predict")
def main(cfg: Any) -> None:
    """Prints the prediction as JSON; with `out=` also writes it, with a report and a picture of the time attention.

    A folder or pattern gives JSON lines, and predictions.jsonl in `out`; a clip that cannot be read has `error`.
    """
    many = cfg.video is not None and not Path(cfg.video).is_file()
    out = Path(cfg.out) if cfg.out else None
    name = "predictions.jsonl" if many else "prediction.json"
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("")
    for found in predict(cfg, many):
        text = json.dumps(found, indent=None if many else 1, ensure_ascii=False) + "\n"
        sys.stdout.write(text)
        sys.stdout.flush()
        if out is not None:
            with (out / name).open("a", encoding="utf-8") as file:
                file.write(text)
            if "error" not in found:
                _explain(found, out / found["id"] if many else out)


def predict(cfg: Any, many: bool = False) -> Iterator[dict[str, Any]]:
    """The prediction of each clip, in builtins.

    Args:
        cfg: of conf/predict.yaml.
        many: whether a clip that no modality can read gives {id, error}; else it is an error.

    Raises:
        DataError: the clip cannot be read, unless `many`.
    """
    import torch

    from hero_lightning.config import build
    from hero_lightning.data.availability import check_all
    from hero_lightning.errors import DataError
    from hero_lightning.features import Availability

    run = build.restore(cfg.run, cfg.paths, cfg.trust)
    if cfg.video is not None:
        _compute_features(run.config)
    modalities = {n: m for n, m in build.modalities(run.config).items() if n in run.facts["dims"]}
    samples = _samples(cfg, run, modalities)
    module = run.module(modalities, run.tasks())
    device = "cuda" if cfg.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"
    module = module.to(device).eval()
    found = check_all(modalities, samples)
    for name in [n for n, m in modalities.items() if cfg.video is not None and m.encoder is None]:
        for row in found.values():
            row[name] = Availability("absent", "the run reads it from stored features and names no encoder")
    predicted = set()
    for loaded in _loader(cfg, samples, modalities, found):
        batch = loaded.batch.to(torch.device(device))
        with torch.inference_mode():
            features = module.encode(batch)
            outputs = module.model(features, explain=True)
            answers = [] if module.reasoner is None else module.reasoner.answer(outputs, batch)
        for failure in loaded.failures:
            found[failure.id][failure.modality] = Availability("broken", failure.reason)
        for b, id in enumerate(batch.ids):
            if any(r.present for r in found[id].values()):
                predicted.add(id)
                answer = answers[b] if answers else None
                yield describe(module, b, outputs, features, found[id], answer) | {"id": id}
    for id in (s.id for s in samples if s.id not in predicted):
        reasons = "; ".join(f"{n}: {r.mode}, {r.reason}" for n, r in found[id].items())
        if not many:
            raise DataError("Nothing of this clip can be read by the run's modalities.", got=reasons, where=id)
        yield {"id": id, "error": f"nothing can be read: {reasons}"}


def _loader(cfg: Any, samples: list[Sample], modalities: dict[str, Modality], found: Any) -> Any:
    """Batches of the clips of which some modality is present."""
    from torch.utils.data import DataLoader

    from hero_lightning.data.collate import Collate, ItemDataset

    readable = [n for n, s in enumerate(samples) if any(r.present for r in found[s.id].values())]
    batches = [[(0, n) for n in readable[k : k + cfg.batch_size]] for k in range(0, len(readable), cfg.batch_size)]
    dataset: Any = ItemDataset(samples, [(n,) for n in range(len(samples))], modalities, found)
    collate = Collate(modalities, {})
    return DataLoader(dataset, batch_sampler=batches, collate_fn=collate, num_workers=cfg.num_workers)


def _compute_features(stored: Any) -> None:
    """Sets every modality with an encoder to compute its features: what is stored belongs to clips of the dataset."""
    from omegaconf import open_dict

    with open_dict(stored):
        for node in stored.modality.values():
            if node.get("mode") != "realtime" and "_target_" in (node.get("encoder") or {}):
                node.mode, node.source, node.fallback = "auto", None, False


def _samples(cfg: Any, run: FinishedRun, modalities: dict[str, Modality]) -> list[Sample]:
    """The clips that the command line names."""
    from hero_lightning.config import build
    from hero_lightning.errors import ConfigError, DataError
    from hero_lightning.features import NpyDict
    from hero_lightning.types import Sample, link_dialogues

    given = [k for k in ("video", "features", "id") if cfg[k] is not None]
    if len(given) != 1:
        expected = "video=CLIP (or a folder), features=FILE.npy or id=SAMPLE"
        raise ConfigError("Name one thing to predict.", expected=expected, got=given or "none", where="predict")
    if cfg.video is not None:
        return _clips(cfg, "text" in modalities)
    for modality in modalities.values():
        modality.bind(Path(cfg.paths.features), run.facts["dataset"])
    if cfg.id is not None:
        known = {s.id: s for s in link_dialogues(build.dataset(run.config).samples())}
        if cfg.id not in known:
            expected = f"e.g. {min(known)}"
            raise DataError("The run's dataset has no such sample.", expected=expected, got=cfg.id, where="id")
        return [known[cfg.id]]
    path = Path(cfg.features)
    if not path.is_file():
        raise DataError("There is no such file.", expected="a feature file", got=path, where="features")
    for name in [n for n, m in modalities.items() if not isinstance(m.source, NpyDict)]:
        raise ConfigError(
            f"The run does not read modality {name} from feature files.",
            expected="a run on dataset=folder",
            got=f"mode {modalities[name].mode}",
            where="features",
            hint="video=CLIP",
        )
    return [Sample(path.stem, "predict", text=cfg.text, files={"features": path})]


def _clips(cfg: Any, hears: bool) -> list[Sample]:
    """Clips of `cfg.video` with their words; hears: whether the run has a text modality."""
    from hero_lightning.config.instantiate import make
    from hero_lightning.datasets.clips import find_clips
    from hero_lightning.errors import ConfigError
    from hero_lightning.media.transcribe import transcribed

    samples = find_clips(cfg.video)
    if cfg.text or cfg.au:
        if len(samples) > 1:
            expected = "one clip; of many, <clip>.txt and <clip>.csv beside each are read"
            raise ConfigError("text and au are of one clip.", expected=expected, got=len(samples), where="text")
        files = samples[0].files | ({"au": Path(cfg.au)} if cfg.au else {})
        samples = [replace(samples[0], text=cfg.text or samples[0].text, files=files)]
    if hears and "_target_" in (cfg.asr or {}):
        samples = transcribed(samples, make(cfg.asr, "asr"), Path(cfg.paths.features), "predict")
    if hears and (without := sum(not s.text for s in samples)):
        log.warning("no text modality for %d clips: text=WORDS, words in <clip>.txt, or asr=whisper", without)
    return samples


def describe(
    module: EmotionModule,
    b: int,
    outputs: Outputs,
    features: Mapping[str, Features],
    availability: Mapping[str, Availability],
    answer: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Row b of `outputs` in builtins; `answer` is the language model's."""
    found: dict[str, Any] = {"id": "", "predictions": {}}
    for name, task in module.tasks.items():
        prediction = task.predict(outputs.logits[name])[b].tolist()
        if task.classes:
            ranked = sorted(zip(task.classes, prediction, strict=True), key=lambda pair: -pair[1])
            place = f"{name}_linear" if answer and task is module.main else name
            found["predictions"][place] = {
                "label": ranked[0][0], "confidence": round(ranked[0][1], 4), "all": {c: round(p, 4) for c, p in ranked},
            }  # fmt: skip
        else:
            found["predictions"][name] = {"score": round(prediction[0], 4)}
    if answer is not None:
        scored = {"label": answer["label"], "confidence": answer["confidence"], "all": answer["scores"]}
        found["predictions"] = {module.main.name: scored, **found["predictions"]}
        found["reasoning"] = answer
    if outputs.gate is not None:
        found["gate"] = {e: round(float(g), 4) for e, g in zip(outputs.experts, outputs.gate[b], strict=True)}
    if outputs.importance is not None:
        names = [segment[0] for segment in outputs.segments]
        found["importance"] = {s: round(float(v), 4) for s, v in zip(names, outputs.importance[b], strict=True)}
    found["modalities"] = {n: f"{r.mode}, {r.reason}" if r.reason else r.mode for n, r in availability.items()}
    if outputs.imputed is not None and outputs.confidence is not None:
        found["inferred"] = {
            e: round(float(outputs.confidence[b, i]), 4) for i, e in enumerate(outputs.experts) if outputs.imputed[b, i]
        }
    if outputs.sync_logit is not None and outputs.present[b, outputs.experts.index("synergy")]:
        found["audio_visual_match"] = round(float(outputs.sync_logit[b].sigmoid()), 4)
    found["time_attention"] = {}
    for name, weights in outputs.time_attention.items():
        clock, steps = features[name].time, min(int(features[name].mask[b].sum()), weights.shape[1])
        if clock is not None and outputs.present[b, outputs.experts.index(name)]:
            seconds, weight = _rounded(clock[b, :steps], 3), _rounded(weights[b, :steps], 5)
            found["time_attention"][name] = {"seconds": seconds, "weight": weight}
    return found


def _rounded(values: Any, digits: int) -> list[float]:
    return [round(float(v), digits) for v in values]


def _explain(found: dict[str, Any], folder: Path) -> None:
    """Writes report.txt, and time_attention.png where some modality has times.

    Without a language model the report holds the linear head's label, gate and inference.
    """
    import torch

    from hero_lightning.reporting import plots
    from hero_lightning.reporting.explanation import render

    folder.mkdir(parents=True, exist_ok=True)
    first = next(iter(found["predictions"].values()))
    label = str(first.get("label", first.get("score")))
    plain = {"label": label, "confidence": first.get("confidence"), "scores": first.get("all")}
    page = render({"id": found["id"], **plain, "gate": found.get("gate"), **found.get("reasoning", {})})
    (folder / "report.txt").write_text(page, encoding="utf-8")
    rows = {n: (torch.tensor(a["seconds"]), torch.tensor(a["weight"])) for n, a in found["time_attention"].items()}
    if rows:
        plots.time_attention(rows, folder / "time_attention.png", f"Attention over time: {found['id']}")


if __name__ == "__main__":
    main()
