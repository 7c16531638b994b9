"""Pictures: written where asked, with the words and numbers a reader needs in them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from hero_lightning.reporting import plots


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Metrics as they are saved, to read what stands in them."""
    found: list[Figure] = []
    save = plots._save
    monkeypatch.setattr(plots, "_save", lambda figure, path: (found.append(figure), save(figure, path))[1])
    return found


def words(figure: Figure) -> set[str]:
    """Every text of a figure."""
    texts = {t.get_text() for axes in figure.axes for t in axes.texts}
    ticks = {t.get_text() for axes in figure.axes for t in (*axes.get_xticklabels(), *axes.get_yticklabels())}
    labels = {x for axes in figure.axes for x in (axes.get_xlabel(), axes.get_ylabel(), axes.get_title())}
    return texts | ticks | labels


def test_confusion_shows_counts_and_recall(tmp_path: Path, drawn: list[Figure]) -> None:
    table = torch.tensor([[3, 1], [0, 6]])
    path = plots.confusion(table, ["sad", "happy"], tmp_path / "new" / "c.png", "demo test")
    assert path.stat().st_size > 1000
    assert {"75 %\n3", "25 %\n1", "100 %\n6", "", "sad  (4)", "happy  (6)", "predicted", "demo test"} <= words(drawn[0])


def test_confusion_of_an_empty_class(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.confusion(torch.tensor([[2, 0], [0, 0]]), ["a", "b"], tmp_path / "c.png", "")
    assert "b  (0)" in words(drawn[0])


def test_gates_by_group_and_over_all(tmp_path: Path, drawn: list[Figure]) -> None:
    gate = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    groups = {"sad": torch.tensor([True, True, False]), "nobody": torch.zeros(3, dtype=torch.bool)}
    assert plots.gates(gate, ["text", "audio"], groups, tmp_path / "g.png", "gates").exists()
    found = words(drawn[0])
    assert {"0.75", "0.25", "0.50", "sad  (2)", "all  (3)", "text", "audio"} <= found
    assert not any("nobody" in w for w in found)


def test_time_attention_names_the_peak_in_seconds(tmp_path: Path, drawn: list[Figure]) -> None:
    attention = {
        "audio": (torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.1, 0.7, 0.2])),
        "frame": (torch.tensor([0.25]), torch.tensor([1.0])),
    }
    assert plots.time_attention(attention, tmp_path / "t.png", "dia3_utt2").exists()
    assert {"0.50 s", "0.25 s", "audio", "frame", "dia3_utt2"} <= words(drawn[0])
    heights = drawn[0].axes[0].lines[0].get_ydata()
    assert list(heights) == pytest.approx([0.3, 2.1, 0.6])  # 1 = every step alike


def test_training_curves_skip_what_is_not_logged(tmp_path: Path, drawn: list[Figure]) -> None:
    log = tmp_path / "metrics.csv"
    log.write_text("epoch,step,train/loss,train/sync,val/y/uar\n0,0,2.0,0.7,\n0,4,,,0.3\n1,5,1.0,0.6,\n1,9,,,0.5\n")
    metrics = ["val/y/uar", "val/y/absent"]
    assert plots.training_curves(log, tmp_path / "curves.png", metrics, "seed 0").exists()
    losses, scores = drawn[0].axes
    assert [line.get_label() for line in losses.lines] == ["loss", "sync"]
    assert [(list(x.get_xdata()), list(x.get_ydata())) for x in scores.lines] == [([0, 1], [0.3, 0.5])]
