"""Tiny pretrained networks, saved once for all tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.encoders.pretrained_made import MODELS, quiet, save


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Family -> folder with config, weights and preprocessor_config.json."""
    quiet()
    root = tmp_path_factory.mktemp("pretrained")
    return {family: save(root, family) for family in MODELS}
