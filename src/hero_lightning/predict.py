"""Predicts one clip: `python -m hero_lightning.predict run=RUN video=clip.mp4` prints JSON.

Data flow: run folder -> model with the run's classes; clip, feature file or corpus sample -> rows -> Outputs
(-> a language model's answer) -> JSON, and a report to read.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hero_lightning.cli import command

if TYPE_CHECKING:
    from hero_lightning.data.types import Batch, Sample
    from hero_lightning.model.outputs import Outputs
    from hero_lightning.module import EmotionModule
    from hero_lightning.streams import Stream

log = logging.getLogger(__name__)

SOUND = {".wav", ".flac", ".mp3", ".m4a", ".ogg"}


@command("predict")
def main(cfg: Any) -> None:
    """Prints the prediction as JSON; with `out=` also writes it, with a report and a picture of the time attention."""
    found = predict(cfg)
    text = json.dumps(found, indent=1, ensure_ascii=False)
    if cfg.out:
        folder = Path(cfg.out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prediction.json").write_text(text + "\n", encoding="utf-8")
        (folder / "report.txt").write_text(_report(found), encoding="utf-8")
        _picture(found, folder / "time_attention.png")
    sys.stdout.write(text + "\n")


def predict(cfg: Any) -> dict[str, Any]:
    """The prediction of one clip, in builtins."""
    import torch

    from hero_lightning import build, checkpoint
    from hero_lightning.data.collate import Collate, Item, to_device
    from hero_lightning.streams import read_clip
    from hero_lightning.targets import Target

    stored, path, state = build.load_run(cfg.run, cfg.paths)
    facts = state[checkpoint.FACTS]
    streams = {n: s for n, s in build.streams(stored).items() if n in facts["dims"]}
    sample = _sample(cfg, stored, streams)
    for stream in streams.values():
        stream.bind(Path(cfg.paths.features), facts["corpus"])
    targets = {n: Target.from_state(t) for n, t in facts["targets"].items()}
    lm = checkpoint.run_folder(path) / checkpoint.LM
    module = build.module(stored, streams, targets, facts["dims"], lambda r: r.restore(facts["reasoner"], lm))
    checkpoint.restore(module, state["state_dict"], path, strict=True)
    device = "cuda" if cfg.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"
    module = module.to(device).eval()
    resolutions = {n: s.resolve(sample) for n, s in streams.items()}
    _refuse_empty(sample, resolutions)
    item = Item((0,), [sample], [read_clip(streams, resolutions, sample)], [])
    batch = to_device(Collate(streams, {})([item]).batch, torch.device(device))
    with torch.inference_mode():
        features = module.encode(batch)
        outputs = module.model(features, explain=True)
    return describe(module, batch, outputs, {n: f.time for n, f in features.items()}, resolutions)


def _sample(cfg: Any, stored: Any, streams: dict[str, Stream]) -> Sample:
    """The clip that the command line names."""
    from hero_lightning import build
    from hero_lightning.data.types import Media, Sample, link_dialogues
    from hero_lightning.errors import ConfigError, DataError
    from hero_lightning.streams import NpyDict

    given = [k for k in ("video", "features", "id") if cfg[k] is not None]
    if len(given) != 1:
        raise ConfigError(
            "Name one thing to predict.",
            expected="video=CLIP, features=FILE.npy or id=SAMPLE",
            got=given or "none",
            where="predict",
        )
    path = Path(cfg[given[0]])
    if cfg.id is not None:
        samples = link_dialogues(build.corpus(stored).samples())
        known = {s.id: s for s in samples}
        if cfg.id not in known:
            raise DataError(
                "The run's corpus has no such sample.", expected=f"e.g. {samples[0].id}", got=cfg.id, where="id"
            )
        return known[cfg.id]
    if not path.is_file():
        raise DataError("There is no such file.", expected="a clip or a feature file", got=path, where=given[0])
    if cfg.features is not None:
        for stream in streams.values():
            if not isinstance(stream.source, NpyDict):
                raise ConfigError(
                    f"The run does not read stream {stream.name} from feature files.",
                    expected="a run on dataset=folder",
                    got=f"mode {stream.mode}",
                    where="features",
                    mend="video=CLIP",
                )
            stream.source.root = path.parent
        return Sample(path.stem, "predict", text=cfg.text, files={"features": path})
    sound = path.suffix.lower() in SOUND
    media = Media(path)
    files = {"au": Path(cfg.au)} if cfg.au else {}
    return Sample(
        path.stem, "predict", video=None if sound else media, audio=media if sound else None, text=cfg.text, files=files
    )


def _refuse_empty(sample: Sample, resolutions: dict[str, Any]) -> None:
    from hero_lightning.errors import DataError

    if not any(r.present for r in resolutions.values()):
        reasons = "; ".join(f"{n}: {r.mode}, {r.reason}" for n, r in resolutions.items())
        raise DataError("Nothing of this clip can be read by the run's streams.", got=reasons, where=sample.id)


def describe(
    module: EmotionModule, batch: Batch, outputs: Outputs, times: dict[str, Any], resolutions: dict[str, Any]
) -> dict[str, Any]:
    """One row of outputs in words and numbers."""
    found: dict[str, Any] = {"id": batch.samples[0].id, "predictions": {}}
    answers = [] if module.reasoner is None else module.reasoner.answer(outputs, batch)
    for name, target in module.targets.items():
        prediction = target.predict(outputs.logits[name])[0].tolist()
        if target.classes:
            ranked = sorted(zip(target.classes, prediction, strict=True), key=lambda pair: -pair[1])
            place = f"{name}_linear" if answers and target is module.main else name
            found["predictions"][place] = {
                "label": ranked[0][0], "confidence": round(ranked[0][1], 4), "all": {c: round(p, 4) for c, p in ranked},
            }  # fmt: skip
        else:
            found["predictions"][name] = {"score": round(prediction[0], 4)}
    for answer in answers:
        scored = {"label": answer["label"], "confidence": answer["confidence"], "all": answer["scores"]}
        found["predictions"] = {module.main.name: scored, **found["predictions"]}
        found["reasoning"] = answer
    if outputs.gate is not None:
        found["gate"] = {e: round(float(g), 4) for e, g in zip(outputs.experts, outputs.gate[0], strict=True)}
    if outputs.importance is not None:
        names = [segment[0] for segment in outputs.segments]
        found["importance"] = {s: round(float(v), 4) for s, v in zip(names, outputs.importance[0], strict=True)}
    found["streams"] = {n: f"{r.mode}, {r.reason}" if r.reason else r.mode for n, r in resolutions.items()}
    if outputs.imputed is not None and outputs.confidence is not None:
        found["inferred"] = {
            e: round(float(outputs.confidence[0, i]), 4) for i, e in enumerate(outputs.experts) if outputs.imputed[0, i]
        }
    if outputs.sync_logit is not None and outputs.present[0, outputs.experts.index("synergy")]:
        found["audio_visual_match"] = round(float(outputs.sync_logit[0].sigmoid()), 4)
    found["time_attention"] = {
        name: {"seconds": _rounded(times[name][0][: weights.shape[1]], 3), "weight": _rounded(weights[0], 5)}
        for name, weights in outputs.time_attention.items()
        if times.get(name) is not None and outputs.present[0, outputs.experts.index(name)]
    }
    return found


def _rounded(values: Any, digits: int) -> list[float]:
    return [round(float(v), digits) for v in values]


def _report(found: dict[str, Any]) -> str:
    """The prediction as a page; without a language model the linear head's label, gate and inference."""
    from hero_lightning.reasoning.report import render

    first = next(iter(found["predictions"].values()))
    label = str(first.get("label", first.get("score")))
    plain = {"label": label, "confidence": first.get("confidence"), "scores": first.get("all")}
    return render({"id": found["id"], **plain, "gate": found.get("gate"), **found.get("reasoning", {})})


def _picture(found: dict[str, Any], path: Path) -> None:
    import torch

    from hero_lightning import plots

    rows = {n: (torch.tensor(a["seconds"]), torch.tensor(a["weight"])) for n, a in found["time_attention"].items()}
    if rows:
        plots.time_attention(rows, path, f"Where the model looked: {found['id']}")


if __name__ == "__main__":
    main()
