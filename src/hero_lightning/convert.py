"""`python -m hero_lightning.convert`: corpus to feature-only layout; the engine comes with a later version."""

from __future__ import annotations

from typing import Any

from hero_lightning.cli import command
from hero_lightning.errors import not_yet


@command("convert")
def main(cfg: Any) -> None:
    """Says in one line that its engine is not here yet."""
    not_yet("convert", "training on dataset=demo, meld or folder directly")


if __name__ == "__main__":
    main()
