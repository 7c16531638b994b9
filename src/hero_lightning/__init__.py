"""hero_lightning: multimodal emotion recognition and reasoning with Hydra and PyTorch Lightning.

    import hero_lightning as hero

    run = hero.train(["dataset=demo", "trainer.max_epochs=5"])    # or hero.load("runs/NAME/DATE")
    run.predict("clip.mp4")

Everything in `__all__` lies in `hero_lightning.api`, which is imported on first use, and torch not before it is needed.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"
__all__ = ["Run", "compose", "datamodule", "load", "train"]


class _Train(ModuleType):
    """`hero_lightning.train` is the module of a command; `hero.train(...)` calls the function of the API."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return importlib.import_module("hero_lightning.api").train(*args, **kwargs)


class _Package(ModuleType):
    """Makes the module `train` callable whichever way it is imported first."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "train" and isinstance(value, ModuleType):
            value.__class__ = _Train
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name == "train":
            return importlib.import_module("hero_lightning.train")
        if name in __all__:
            return getattr(importlib.import_module("hero_lightning.api"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


sys.modules[__name__].__class__ = _Package
