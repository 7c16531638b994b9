"""What every pretrained network has in common on its way here: clear errors, no silent gaps, a known origin.

Data flow: hub id or local folder -> explained(from_pretrained) -> matched(network, report); fingerprint names it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hero_lightning.errors import ConfigError

DTYPES = ("float32", "bfloat16", "float16")


@contextmanager
def explained(name: str, where: str, instead: str) -> Iterator[None]:
    """Turns what transformers raises for a missing or broken model into a ConfigError that says what to do.

    `name` is a hub id or folder, `where` the config node that has the key `name`, `instead` works without the model.
    """
    from safetensors import SafetensorError
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # its table of heads that were left out hides what matters; `matched` looks for us
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ConfigError(
            f"The pretrained model {name} cannot be loaded.",
            expected="a model of the Hugging Face hub, or a folder with its config, weights and preprocessing files",
            got=(str(error).strip() or type(error).__name__).splitlines()[0],
            where=f"{where}.name",
            hint=f"download it (hf download {name}) or give a folder: {where}.name=FOLDER; or without it: {instead}",
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def matched(network: Any, report: Mapping[str, Any], name: str, where: str, spare: Sequence[str] = ()) -> None:
    """Checks that every tensor of a network came from its checkpoint: transformers only logs gaps, and fills them.

    `report` is the loading info of from_pretrained; tensors with a part of `spare` in their names may be missing.
    ConfigError if another is, or if one of the checkpoint's layers found no place.
    """
    from torch import nn

    stacks = [f"{n}." for n, module in network.named_modules() if isinstance(module, nn.ModuleList)]
    stacks += [f"{network.base_model_prefix}.{n}" for n in stacks]
    # Heads, decoders and other towers are meant to be left out; layers of this network are not.
    faults = {
        "missing": [k for k in report["missing_keys"] if not any(part in k for part in spare)],
        "without a place": [k for k in report["unexpected_keys"] if k.startswith(tuple(stacks))],
    }
    if any(faults.values()):
        said = [f"{len(keys)} {kind}: {', '.join(sorted(keys)[:3])}" for kind, keys in faults.items() if keys]
        raise ConfigError(
            f"The weights of {name} do not fit its network.",
            expected=f"all tensors of {type(network).__name__}",
            got="; ".join(said),
            where=f"{where}.name",
            hint="another model, or the transformers version it was saved with",
        )


def fingerprint(folder: Path) -> str:
    """8 hex digits of a model folder: its config, and size and middle 64 KiB of every weight file.

    The middle is enough to tell two trainings apart, and costs nothing for a file of gigabytes.
    """
    digest = hashlib.blake2b((folder / "config.json").read_bytes(), digest_size=4)
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(size // 2)
            digest.update(f"{path.name} {size}".encode() + file.read(65536))
    return digest.hexdigest()
