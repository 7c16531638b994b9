"""`python -m hero_lightning.report`: compares runs; the engine comes with a later version."""

from __future__ import annotations

from typing import Any

from hero_lightning.config.cli import command
from hero_lightning.errors import not_yet


@command("report")
def main(cfg: Any) -> None:
    """Says in one line that its engine is not here yet."""
    not_yet("report", "the metrics.json of each run folder")


if __name__ == "__main__":
    main()
