"""The Optuna sweeper: the best score is the highest, a journal keeps the study, a failed trial is none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus

from hydra_plugins.hero_optuna_sweeper import HeroOptunaSweeper, distribution
from tests.config.test_sweep import config

pytest.importorskip("optuna")


class Launched:
    """A launcher whose jobs score -(x - 3)^2; a job with x above 9 fails."""

    def __init__(self) -> None:
        self.jobs: list[list[str]] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        out = []
        for overrides in job_overrides:
            self.jobs.append(list(overrides))
            x = float(dict(o.split("=") for o in overrides)["x"])
            result = JobReturn()
            result.return_value, result.status = None if x > 9 else -((x - 3) ** 2), JobStatus.COMPLETED
            out.append(result)
        return out


def search(folder: Path, *overrides: str, trials: int = 12, batch: int = 1, storage: str | None = None) -> Any:
    sweeper = HeroOptunaSweeper(trials, batch, storage, "study", 0, {"y": "a,b"})
    sweeper.config = config("seed=0", f"hydra.sweep.dir={folder}")
    sweeper.launcher = launched = Launched()  # type: ignore[assignment]
    best = sweeper.sweep(["seed=0", *overrides])
    return best, launched.jobs, json.loads((folder / "optuna.json").read_text())


def test_the_highest_score_is_the_best(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        best, jobs, written = search(tmp_path, "x=interval(0.0, 9.0)", batch=4)
    assert len(jobs) == len(written["trials"]) == 12
    assert best == written["best"]["score"] == max(t["score"] for t in written["trials"])
    assert abs(written["best"]["params"]["x"] - 3) == min(abs(t["params"]["x"] - 3) for t in written["trials"])
    assert {o for job in jobs for o in job if o.startswith("y=")} == {"y=a", "y=b"}  # of an ablation's file
    assert all("seed=0" in job for job in jobs)
    assert "its test result: python -m hero_lightning.train -m y=" in caplog.text
    assert "seed=0,1,2" in caplog.text
    assert search(tmp_path / "again", "x=interval(0.0, 9.0)", batch=4)[1] == jobs  # in memory: drawn again alike


def test_a_journal_keeps_the_study_and_repeats_a_trial_that_was_killed(tmp_path: Path) -> None:
    import optuna

    file = str(tmp_path / "study.journal")
    search(tmp_path, "x=int(interval(0, 9))", trials=3, storage=file)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(file))
    study = optuna.load_study(study_name="study", storage=storage)
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    spaces = {"x": optuna.distributions.IntDistribution(0, 9), "y": optuna.distributions.CategoricalDistribution("ab")}
    killed = study.ask(spaces).params
    _, jobs, written = search(tmp_path, "x=int(interval(0, 9))", trials=5, storage=file)
    assert len(jobs) == 2
    assert f"x={killed['x']}" in jobs[0]
    assert f"y={killed['y']}" in jobs[0]
    assert len(written["trials"]) == 5


def test_a_failed_trial_has_no_score_and_the_search_goes_on(tmp_path: Path) -> None:
    best, jobs, written = search(tmp_path, "x=10,2", trials=6)
    assert len(jobs) == 6
    assert best == -1
    assert {t["params"]["x"] for t in written["trials"]} == {"2"}


@pytest.mark.parametrize(
    ("text", "low", "high", "log", "kind"),
    [
        ("interval(1, 4)", 1.0, 4.0, False, "FloatDistribution"),
        ("tag(log, interval(1e-4, 1e-2))", 1e-4, 1e-2, True, "FloatDistribution"),
        ("int(interval(1, 4))", 1, 4, False, "IntDistribution"),
        ("range(1, 5)", 1, 4, False, "IntDistribution"),
        ("range(0, 10, 5)", 0, 5, False, "IntDistribution"),
    ],
)
def test_the_space_is_what_the_command_line_says(text: str, low: float, high: float, log: bool, kind: str) -> None:
    found = distribution(OverridesParser.create().parse_override(f"x={text}"))
    assert (found.low, found.high, found.log, type(found).__name__) == (low, high, log, kind)


@pytest.mark.parametrize(
    ("text", "message"), [("seed=0,1", "seed is not searched"), ("x=glob(*)", "cannot be searched")]
)
def test_what_cannot_be_searched_is_refused(text: str, message: str, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit, match="2"):
        search(tmp_path, text, "x=1,2") if text.startswith("seed") else search(tmp_path, text)
    assert message in capsys.readouterr().err


def test_the_search_does_not_look_at_the_test_split() -> None:
    cfg = config("sweeper=optuna")
    assert cfg.test is False
    assert cfg.hydra.sweeper.study_name == "demo-hero"
