"""Config nodes -> objects: the only caller of Hydra's instantiate."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Collection
from typing import Any

from omegaconf import OmegaConf

from hero_lightning.errors import ConfigError, HeroError, cause


def make(node: Any, where: str, **given: Any) -> Any:
    """Builds the object a config node describes.

    Args:
        node: mapping with `_target_`; its other keys are constructor arguments.
        where: its place in the config, for messages.
        given: objects that the config cannot name. Passed beside the node, since instantiate would copy them.

    Raises:
        ConfigError: unknown `_target_`, unknown or missing argument.
    """
    return factory(node, where, given)(**given)


def factory(node: Any, where: str, given: Collection[str] = ()) -> functools.partial:
    """The constructor a config node describes, its arguments checked by name but not called; see `make`."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        found = instantiate(node, _partial_=True, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, HeroError):
            raise error.__cause__ from None
        got = cause(error.__cause__ or error)
        raise ConfigError("A config node cannot be built.", got=got, where=where) from error
    parameters = arguments(found.func)
    known = [p.name for p in parameters]
    needed = {p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    unknown = [] if any(p.kind is p.VAR_KEYWORD for p in parameters) else [k for k in found.keywords if k not in known]
    missing = sorted(needed - set(found.keywords) - set(given))
    for problem, names in (("Unknown option.", unknown), ("An option is missing.", missing)):
        if names:
            raise ConfigError(
                problem,
                expected=", ".join(k for k in known if k not in given),
                got=names[0] if names is unknown else "not given",
                where=f"{where}.{names[0]}",
                hint=f"see the arguments of {node['_target_']}",
            )
    groups, options = getattr(found.func, "groups", {}), dict(found.keywords)
    for name, kind in groups.items():
        options[name] = kind(**{p.name: options.pop(p.name) for p in arguments(kind) if p.name in options})
    return functools.partial(found.func, *found.args, **options)


def arguments(target: Any) -> list[inspect.Parameter]:
    """What a config node of `target` may hold: its arguments, with the fields of those in `groups` in their place."""
    groups = getattr(target, "groups", {})
    own = [p for p in inspect.signature(target).parameters.values() if p.name not in groups]
    return own + [p for kind in groups.values() for p in inspect.signature(kind).parameters.values()]


def plain(node: Any) -> dict[str, Any]:
    """A config node, or a mapping, as a dict with every interpolation resolved."""
    container = OmegaConf.to_container(OmegaConf.create(node) if isinstance(node, dict) else node, resolve=True)
    assert isinstance(container, dict)
    return {str(k): v for k, v in container.items()}
