from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hero_lightning.config.cli import CONF
from hero_lightning.errors import ConfigError
from hero_lightning.media.limits import LIMITS, limit, raised, set_limits


def test_the_config_names_every_limit_with_its_default() -> None:
    assert yaml.safe_load(Path(CONF, "limits/default.yaml").read_text()) == LIMITS


def test_a_limit_is_raised_for_this_process_and_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERO_LIMIT_SECONDS", "7")
    assert limit("seconds") == 7
    set_limits({"seconds": 20_000})
    assert limit("seconds") == 20_000
    assert raised("seconds") == "limits.seconds=40000"


@pytest.mark.parametrize("values", [{"second": 1}, {"seconds": 0}, {"pixels": "many"}])
def test_a_wrong_limit_is_refused(values: dict) -> None:
    with pytest.raises(ConfigError, match="limit"):
        set_limits(values)
