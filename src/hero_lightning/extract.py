"""Computes and stores features: `python -m hero_lightning.extract dataset=meld streams=[text]`.

Data flow: corpus -> samples -> decode in workers, encode on the device -> parts of the Store. Resumes where it stopped.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hero_lightning.cli import command

log = logging.getLogger(__name__)


@command("extract")
def main(cfg: Any) -> None:
    """Fills the stores of the chosen streams and says what failed."""
    extract(cfg)


def extract(cfg: Any) -> None:
    """Every stream with a frozen encoder, for every sample of the chosen splits."""
    import torch

    from hero_lightning import build
    from hero_lightning.data.types import link_dialogues
    from hero_lightning.errors import ConfigError
    from hero_lightning.streams.extract import fill

    chosen = build.streams(cfg)
    storable = {name: stream for name, stream in chosen.items() if stream.storable}
    if left := [name for name in chosen if name not in storable]:
        log.info("not extracted, since nothing can be stored of them: %s", ", ".join(left))
    if not storable:
        raise ConfigError("No stream can be extracted.", expected="a frozen encoder", got=list(chosen), where="streams")
    corpus = build.corpus(cfg)
    samples = [s for s in link_dialogues(corpus.samples()) if cfg.splits is None or s.split in cfg.splits]
    for stream in storable.values():
        stream.bind(Path(corpus.features_root), str(corpus.name))
    device = "cuda" if cfg.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"
    summary = fill(
        storable, samples, batch_size=cfg.batch_size, device=device, workers=cfg.dataset.num_workers, progress=True,
        dtype=cfg.dtype, retry=cfg.retry,
    )  # fmt: skip
    log.info("%s", summary)


if __name__ == "__main__":
    main()
