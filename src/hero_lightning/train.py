"""Trains a model and scores it once on the test split: `python -m hero_lightning.train`.

Data flow: config -> data module (index) -> model -> Trainer.fit -> best checkpoint -> Trainer.test -> run folder.
"""

from __future__ import annotations

from typing import Any

from hero_lightning.cli import command


@command("train")
def main(cfg: Any) -> float | None:
    """Returns the selecting figure on the validation split, for sweepers."""
    from hero_lightning.build import Run

    return Run(cfg).train()


if __name__ == "__main__":
    main()
