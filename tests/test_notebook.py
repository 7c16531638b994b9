"""The notebook runs from the first cell to the last, and holds the code of docs/python.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
CELLS = [
    "".join(cell["source"])
    for cell in json.loads((DOCS / "python.ipynb").read_text(encoding="utf-8"))["cells"]
    if cell["cell_type"] == "code"
]


def test_the_notebook_has_the_code_of_the_page() -> None:
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    assert [block.strip() for block in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)] == CELLS


def test_the_cells_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for cell in CELLS:
        exec(compile(cell, "cell", "exec"), names)
    assert list(names["answers"]["id"]) == [names["clips"][0].stem]
    assert names["vectors"].shape[0] == 3
    assert len(names["batch"]) == 8
    assert "emotion_prediction" in capsys.readouterr().out
