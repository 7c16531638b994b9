"""The command `hero`: `hero train dataset=meld` is `python -m hero_lightning.train dataset=meld`; and tab completion.

Data flow: sys.argv -> the module of the command -> its `main`.
"""

from __future__ import annotations

import importlib
import os
import sys

COMMANDS = {
    "train": "train a model, and score it once on the test split",
    "evaluate": "score a finished run, or a file of predictions",
    "predict": "predict clips with a finished run",
    "extract": "compute and store features",
    "check": "which features and media of a dataset are available",
    "report": "finished runs as one table",
    "compare": "models under one protocol",
    "convert": "an official layout -> features and labels.json",
    "peaks": "expressive moments of every clip",
}
USAGE = """hero COMMAND [OPTION=VALUE ...]

{commands}

hero COMMAND --help                   options and groups of a command
eval "$(hero -sc install=bash)"       tab completion in bash
"""


def main() -> None:
    """Runs the command that is named first."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        listed = "\n".join(f"  {command:<10}{purpose}" for command, purpose in COMMANDS.items())
        sys.stdout.write(USAGE.format(commands=listed))
        return
    if name in ("-sc", "--shell-completion"):
        name, rest = "train", [name, *rest]
        if rest[1:] and rest[1].startswith("query="):
            completed = _complete()
            if completed is None:
                return
            name = completed
    if name not in COMMANDS:
        from difflib import get_close_matches

        close = get_close_matches(name, COMMANDS, 1)
        meant = f"  hint:     hero {close[0]}\n" if close else ""
        sys.stderr.write(f"\nError: Unknown command.\n  expected: {', '.join(COMMANDS)}\n  got:      {name}\n{meant}")
        sys.exit(2)
    sys.argv = [sys.argv[0], *rest]
    importlib.import_module(f"hero_lightning.{name}").main()


def _complete() -> str | None:
    """The command whose options are completed; None where the names of commands were printed, or there is none.

    The shell passes the line and the cursor in COMP_LINE and COMP_POINT; Hydra gets them without the command's name.
    """
    line = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT", "0") or 0) or None]
    program, _, typed = line.partition(" ")
    name, blank, rest = typed.lstrip().partition(" ")
    if not blank:
        sys.stdout.write(" ".join(command for command in COMMANDS if command.startswith(name)))
        return None
    os.environ["COMP_LINE"] = f"{program} {rest}"
    os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    return name if name in COMMANDS else None
