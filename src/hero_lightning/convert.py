"""`python -m hero_lightning.convert`: converts a corpus to the feature-only layout; its engine comes with a later version and the command says so."""

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
