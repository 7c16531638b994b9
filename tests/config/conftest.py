"""What a command leaves in the process, taken away before every test of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hydra.core.hydra_config import HydraConfig


@pytest.fixture(autouse=True)
def no_hydra_config() -> Iterator[None]:
    before, HydraConfig.instance().cfg = HydraConfig.instance().cfg, None
    yield
    HydraConfig.instance().cfg = before
