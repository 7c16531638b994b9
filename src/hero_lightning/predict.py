"""Predicts clips: `python -m hero_lightning.predict run=RUN video=clip.mp4` prints JSON, of many clips a line each.

Data flow: config -> `api.load` -> `Run.predictions` -> JSON per clip, and reports to read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hero_lightning.config.cli import command


@command("predict")
def main(cfg: Any) -> None:
    """Prints the prediction as JSON; with `out=` also writes it, with a report and a picture of the time attention.

    A folder or pattern gives JSON lines, and predictions.jsonl in `out`; a clip that cannot be read has `error`.
    """
    from hero_lightning.types import file_name

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
                _explain(found, out / file_name(found["id"]) if many else out)


def predict(cfg: Any, many: bool = False) -> Iterator[dict[str, Any]]:
    """The prediction of each clip, in builtins.

    Args:
        cfg: of conf/predict.yaml.
        many: whether a clip that no modality can read gives {id, error}; else it is an error.
    """
    from hero_lightning import api
    from hero_lightning.config import gate
    from hero_lightning.config.instantiate import make

    device = "auto" if cfg.trainer.accelerator in ("auto", "gpu", "cuda") else "cpu"
    run = api.load(cfg.run, device=device, overrides=gate.moved(), paths=cfg.paths, trust=cfg.trust or ())
    asr = make(cfg.asr, "asr") if "_target_" in (cfg.asr or {}) else None
    return run.predictions(
        cfg.video, many=many, features=cfg.features, id=cfg.id, text=cfg.text, au=cfg.au, asr=asr,
        batch_size=cfg.batch_size, num_workers=cfg.num_workers,
    )  # fmt: skip


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
