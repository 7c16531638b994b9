"""Free text on the command line: quoted for Hydra's grammar, so that it reaches the program as it was typed.

Data flow: sys.argv -> `quoted` -> hydra.main.

Hydra reads `video=it's.mp4`, `text=No!` and `id=100178_0` as an error, an error and the number 1001780. Keys that hold
text are therefore quoted where Hydra would change or refuse their value; every other argument stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hero_lightning.errors import ConfigError

TEXT_KEYS = frozenset(
    (
        "video",
        "text",
        "id",
        "ids",
        "out",
        "run",
        "reference",
        "predictions",
        "init_from",
        "resume",
        "wheels",
        "sentence_encoder",
        "check",
        "trust",
        "name",
    )
)
"""Keys that hold text, names or paths."""
TEXT_KEY = re.compile(r"paths\.\w+|(?:[\w.]+\.)?(?:root|name|file|path|folder|videos|feature_root|ann_path)")
"""Keys below another one that do."""
KEPT = re.compile(r"null|\$\{.*\}|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
"""Values that mean what Hydra makes of them: nothing, an interpolation, text that is quoted already."""


def for_the_run(command: str, arguments: Sequence[str]) -> list[str]:
    """The arguments, with ++ before options of a finished run's own model that its commands have no key for."""
    if command not in ("predict", "evaluate"):
        return list(arguments)
    return [f"++{a}" if re.match(r"(modality\.\w+\.encoder|llm)\.name=", a) else a for a in arguments]


def quoted(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments, free text quoted where Hydra's grammar needs it.

    Args:
        arguments: without the program's name. In a multirun a comma separates the values of a sweep, so that text with
            commas is left to the user's own quotes there.

    Raises:
        ConfigError: a list that the shell has cut at a blank, e.g. modalities=[text, audio] without quotes.
    """
    sweep = any(a in ("-m", "--multirun") for a in arguments)
    return [_quoted(a, arguments[i + 1 :], sweep) for i, a in enumerate(arguments)]


def _quoted(argument: str, rest: Sequence[str], sweep: bool) -> str:
    key, equals, value = argument.partition("=")
    bare = key.lstrip("+~")
    if argument.startswith("-") or not equals:
        return argument
    if re.match(r"[\[{]", value) and value.count("[") > value.count("]") and rest:
        whole = " ".join([argument, *rest[: next((i + 1 for i, r in enumerate(rest) if "]" in r), 1)]])
        raise ConfigError(
            "A list was cut at a blank by the shell.",
            expected="quotes around it, or no blanks",
            got=argument,
            hint=f'"{whole}"',
        )
    if not (bare in TEXT_KEYS or TEXT_KEY.fullmatch(bare)) or KEPT.fullmatch(value) or not value:
        return argument
    if value.startswith("[") and value.endswith("]"):
        return f"{key}=[{','.join(text(v.strip()) for v in value[1:-1].split(','))}]"
    return argument if sweep and "," in value else f"{key}={text(value)}"


def text(value: str) -> str:
    """A value of an override, in quotes where Hydra would read it as anything but this text."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if KEPT.fullmatch(value):
        return value
    try:
        if OverridesParser.create().parse_override(f"key={value}").value() == value:
            return value
    except HydraException:
        pass
    # Inside quotes a backslash is special only before a quote: those, and the last ones, are doubled.
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value)
    return f"'{escaped}'"
