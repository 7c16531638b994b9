"""The comparison protocol: equal settings, test touched once, a restart that ends in the same table, hand values."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from hero_lightning import compare
from hero_lightning.config import build, instantiate
from hero_lightning.config.cli import CONF
from hero_lightning.errors import ConfigError, DataError
from hero_lightning.evaluation import comparison
from hero_lightning.evaluation.comparison import Answers
from hero_lightning.reporting import summary
from hero_lightning.tasks import ClassTask
from hero_lightning.types import StoredFeatures
from tests.helpers import feature_dataset, in_process
from tests.helpers import run as command_line

EXPERIMENTS = sorted(p.stem for p in (Path(CONF) / "protocol").glob("*.yaml"))
TOY = """# @package _global_
train: [dataset=folder, "dataset.root={root}", "modalities=[text,au]", trainer.max_epochs=1, size=tiny]
folds: [{{dataset.limit: 40}}, {{dataset.limit: 10}}]
seeds: [0]
metrics: [accuracy, uar]
against: [linear]
num_trials: 2
search_space: {{optimizer.lr: {{low: 1.0e-3, high: 1.0e-2}}, model.dropout: [0.0, 0.3]}}
resamples: 100
models: {{linear: [baseline=linear], attention: [baseline=attention]}}
tables: {{toy: {{title: Toy, train: [], published: {{"somebody": 0.5}}}}}}
"""


def toy(tmp_path: Path) -> list[str]:
    (tmp_path / "conf" / "protocol").mkdir(parents=True)
    (tmp_path / "conf" / "protocol" / "toy.yaml").write_text(TOY.format(root=feature_dataset(tmp_path / "dataset")))
    return ["protocol=toy", f"hydra.searchpath=[file://{tmp_path / 'conf'}]"]


def run(folder: Path, *overrides: str) -> None:
    cfg = in_process("compare", folder, f"out={folder}", *overrides)
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        compare.compare(cfg)


def table_of(folder: Path, form: str = "md") -> Path:
    """The table of the only budget in a folder."""
    (path,) = folder.glob(f"*-trials_*/table.{form}")
    return path


def fits(folder: Path) -> list[Path]:
    return sorted((folder / "fits").rglob("*.json"))


def test_a_protocol_from_end_to_end_and_after_an_interruption(tmp_path, monkeypatch):
    overrides = toy(tmp_path)
    run(tmp_path / "whole", *overrides)
    table = table_of(tmp_path / "whole").read_text()
    told = json.loads(table_of(tmp_path / "whole", "json").read_text())["tables"]["toy"]
    rows = {row["model"]: row for row in told["rows"]}
    assert set(rows) == {"linear", "attention"}
    assert rows["linear"]["fits"] == 2  # folds
    assert set(rows["attention"]["minus"]) == {"linear"}
    assert rows["linear"]["minus"] == {}
    for text in ("## Toy", "| majority |", "| chance |", "somebody: 0.5", "2 folds x 1 seeds", "accuracy minus linear"):
        assert text in table, text
    # both models had the same two settings; the first one was scored on validation alone
    settings = json.loads(table_of(tmp_path / "whole", "json").read_text())["settings"]
    names = {m: [p.name for p in fits(tmp_path / "whole") if p.parent.name == m] for m in rows}
    for model, files in names.items():
        assert sum(f.startswith("tune-") for f in files) == 2
        finals = [f for f in files if f.startswith("test-")]
        assert len(finals) == 2
        assert len({f.split("-")[1] for f in finals}) == 1  # one chosen setting
        assert told["chosen"][model] in settings
    for path in fits(tmp_path / "whole"):
        assert ("test" in json.loads(path.read_text())) == path.name.startswith("test-")

    real, done = compare.fit, []

    def dies(job):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(job)
        return real(job)

    monkeypatch.setattr(compare, "fit", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", *overrides)
    assert len(fits(tmp_path / "killed")) == 5
    (fits(tmp_path / "killed")[0].with_suffix(".99.part")).write_text("{half")  # what a kill leaves
    done.clear()
    monkeypatch.setattr(compare, "fit", lambda job: done.append(job) or real(job))
    run(tmp_path / "killed", *overrides)
    assert len(done) == 8 - 5
    assert table_of(tmp_path / "killed").read_text() == table
    done.clear()
    run(tmp_path / "killed", *overrides, f"external={{theirs: {foreign(tmp_path)}}}")
    assert not done
    assert "| theirs | 2 | 1.0000" in table_of(tmp_path / "killed").read_text()


def test_a_fit_that_is_scored_on_test_learns_from_validation_too(tmp_path, monkeypatch):
    real, seen = compare._loader, []

    def spy(datamodule, cached, split, **options):
        loader = real(datamodule, cached, split, **options)
        seen.append((split, len(loader.dataset)))
        return loader

    monkeypatch.setattr(compare, "_loader", spy)
    run(tmp_path / "run", *toy(tmp_path), "only_models=[linear]", "max_folds=1")
    rows = dict(seen)
    assert [split for split, _ in seen] == ["train", "val"] * 2 + ["train+val", "test"]
    assert rows["train+val"] == rows["train"] + rows["val"]


def foreign(tmp_path: Path) -> Path:
    """A prediction file that is always right."""
    records = json.loads((tmp_path / "dataset" / "labels.json").read_text())
    lines = ["id,emotion_prediction", *(f"{r['video_id']},{r['emotion']}" for r in records)]
    (tmp_path / "theirs.csv").write_text("\n".join(lines))
    return tmp_path / "theirs.csv"


def test_a_partial_run_extends_the_table(tmp_path: Path) -> None:
    overrides = [*toy(tmp_path), "max_folds=1", "num_trials=1"]
    folder = tmp_path / "run"
    run(folder, *overrides, "only_models=[linear]")
    first = json.loads(table_of(folder, "json").read_text())["tables"]["toy"]
    assert [row["model"] for row in first["rows"]] == ["linear"]
    run(folder, *overrides, "only_models=[attention]", f"external={{theirs: {foreign(tmp_path)}}}")
    both = json.loads(table_of(folder, "json").read_text())["tables"]["toy"]
    assert [row["model"] for row in both["rows"]] == ["linear", "attention", "theirs"]
    assert set(both["rows"][1]["minus"]) == {"linear"}  # compared with the row of the run before
    assert set(both["chosen"]) == {"linear", "attention"}
    shutil.rmtree(folder / "fits" / "attention")
    run(folder, *overrides, "only_models=[linear]")
    again = json.loads(table_of(folder, "json").read_text())["tables"]["toy"]
    assert {row["model"] for row in again["rows"]} == {"linear", "attention", "theirs"}  # nothing is lost
    text = table_of(folder).read_text()
    assert all(f"| {name} | 1 | " in text for name in ("linear", "attention", "theirs"))
    assert {p.name for p in table_of(folder).parent.joinpath("toy").iterdir()} >= {"table.tex", "table.csv"}
    run(folder, *overrides[:-1], "num_trials=2", "only_models=[linear]")  # another budget, another table
    assert len(list(folder.glob("*-trials_*"))) == 2


@pytest.mark.slow
def test_parts_of_a_comparison_run_side_by_side_and_end_in_one_table(tmp_path: Path) -> None:
    overrides = toy(tmp_path)
    command = ["hero_lightning.compare", "-m", *overrides, "only_models=[linear],[attention]", "launcher=joblib"]
    done = command_line(*command, f"paths.runs={tmp_path / 'runs'}", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    run(tmp_path / "whole", *overrides)
    tables = [json.loads(table_of(f, "json").read_text())["tables"]["toy"]["rows"] for f in
              (tmp_path / "runs" / "compare" / "toy", tmp_path / "whole")]  # fmt: skip
    assert tables[0] == tables[1]


def test_settings_are_drawn_once_for_all():
    space = {"optimizer.lr": {"low": 1e-4, "high": 1e-2}, "model.dropout": [0.1, 0.5]}
    drawn = comparison.draw(space, 8, seed=0)
    assert drawn == comparison.draw(space, 8, seed=0)
    assert drawn != comparison.draw(space, 8, seed=1)
    assert drawn[:3] == comparison.draw(space, 3, seed=0)
    assert all(1e-4 <= s["optimizer.lr"] <= 1e-2 and s["model.dropout"] in (0.1, 0.5) for s in drawn)
    for wrong in ([], {"low": 0, "high": 1}, {"low": 1}, 3):
        with pytest.raises(ConfigError, match=r"no range(.|\n)*space.model.x"):
            comparison.draw({"model.x": wrong}, 1, 0)


def test_a_setting_a_model_does_not_know_is_none_of_its_settings(tmp_path):
    base = OmegaConf.create({"model": {"width": 4}, "optimizer": {"lr": 1.0}, "seed": 0, "paths": {"data": "a"}})
    changes = {"optimizer.lr": 0.5, "model.dropout": 0.3, "seed": 3}
    job = compare._job(tmp_path, ("t", "m"), base, changes, "setting0", (0, 3), True)
    assert job.config == {"model": {"width": 4}, "optimizer": {"lr": 0.5}, "seed": 3, "paths": {"data": "a"}}
    base.paths.data = "b"  # moved data is the same data
    assert compare._job(tmp_path, ("t", "m"), base, changes, "setting0", (0, 3), True).path == job.path
    base.model.width = 5
    assert compare._job(tmp_path, ("t", "m"), base, changes, "setting0", (0, 3), True).path != job.path


def told(ids, truth, right):
    """Answers that are right or wrong as told."""
    truth = torch.tensor(truth)
    said = torch.where(torch.tensor(right), truth, 1 - truth)
    return Answers(list(ids), truth, torch.nn.functional.one_hot(said, 2).float())


def test_rows_are_means_over_folds_and_seeds_with_a_paired_interval():
    task = ClassTask("emotion", ["a", "b"])
    ids, truth = ([f"a{i}" for i in range(8)], [f"b{i}" for i in range(12)]), ([0, 1] * 4, [0, 1] * 6)

    def fits_of(*right):
        """right: by fold, whether the even and the odd clips are."""
        return {(f, s): told(ids[f], truth[f], list(r) * (len(ids[f]) // 2)) for (f, s), r in right}

    found = {
        "good": fits_of(((0, 0), (True, True)), ((1, 0), (True, True))),
        "half": fits_of(((0, 0), (True, False)), ((1, 0), (False, False))),
        "seeds": fits_of(*(((f, s), (s == 0, s == 0)) for f in (0, 1) for s in (0, 1))),
    }
    good, half, seeds = comparison.rows(task, found, ["half"], 2000)
    assert good["values"]["accuracy"] == 1.0
    assert half["values"]["accuracy"] == 0.25  # (1/2 + 0) / 2: folds count alike, not clips
    assert seeds["values"]["accuracy"] == 0.5
    assert seeds["fits"] == 4
    assert seeds["spread"]["accuracy"] == pytest.approx(torch.tensor([1.0, 1, 0, 0]).std().item())
    assert seeds["interval"]["accuracy"] == pytest.approx((0.5, 0.5))  # whatever is drawn, one seed is right
    assert half["minus"] == {}
    assert good["minus"]["half"]["accuracy"]["difference"] == 0.75
    one = {"a": {(0, 0): told("uv", [0, 1], [True, True])}, "b": {(0, 0): told("uv", [0, 1], [True, False])}}
    line = comparison.rows(task, one, ["b"], 2000)[0]
    pair = line["minus"]["b"]["accuracy"]
    # two ids drawn twice: the difference is 0, 1/2 or 1 with chance 1/4, 1/2, 1/4
    assert (pair["difference"], pair["low"], pair["high"]) == (0.5, 0.0, 1.0)
    assert pair["p"] == pytest.approx(0.5, abs=0.05)
    cells = summary.cells([line], ["accuracy", "uar"], ["b"], {"majority": {"accuracy": 0.5}, "chance": {}})
    text = summary.markdown(cells)
    p = f"{pair['p']:.3f}"
    assert f"| a | 1 | 1.0000 [1.0000, 1.0000] | 1.0000 [1.0000, 1.0000] | +0.5000 [+0.0000, +1.0000] | {p} |" in text
    assert "| majority |  | 0.5000 |  |  |  |" in text
    assert "chance" not in text
    line = comparison.rows(task, one, [], 2000, {"sound": {"a": one["b"]}})[0]
    assert line["minus"]["itself on sound"]["accuracy"]["difference"] == 0.5  # a against what it says in another table
    one["b"] = {(0, 0): told("uw", [0, 1], [True, True])}
    with pytest.raises(DataError, match=r"different clips(.|\n)*got: +b"):
        comparison.rows(task, one, [], 100)


def test_late_fusion_trusts_whoever_was_right_on_held_out_clips():
    torch.manual_seed(0)
    truth = torch.randint(0, 3, (200,))
    clear = torch.nn.functional.one_hot(truth, 3) * 4.0 + torch.randn(200, 3)
    noise = torch.randn(200, 3)
    a, b = comparison.calibrate(noise.softmax(1), clear, truth)
    assert a > 5 * b
    a, b = comparison.calibrate(clear.softmax(1), noise, truth)
    assert b > 5 * a
    hot, _ = comparison.calibrate(torch.full((200, 3), 1 / 3), 10 * clear, truth)
    assert hot < 0.5  # over-sure logits are cooled
    ids = [str(i) for i in range(200)]
    logits = dict(zip(ids, clear, strict=True))
    answers = Answers(ids, truth, noise.softmax(1))
    found = {"m": {(0, 0): answers}}
    weights = comparison.add_late(
        found, {"m": {(0, 0): answers}}, "alone", lambda i: torch.stack([logits[k] for k in i])
    )
    assert set(found) == {"m", "alone"}
    assert list(weights) == ["m fold 0 seed 0"]
    fused, alone = ((found[k][0, 0].prediction.argmax(1) == truth).float().mean() for k in ("m", "alone"))
    assert fused >= alone - 0.02
    assert (noise.argmax(1) == truth).float().mean() < 0.5 < alone


class Source:
    """Knows one clip."""

    def __init__(self, name: str, value: float) -> None:
        self.known, self.value = name, value

    def contains(self, sample):
        return sample.id == self.known

    def read(self, sample):
        return StoredFeatures(torch.full((1, 2), self.value))


def test_external_logits_come_from_the_source_that_has_them():
    sources = [Source("a", 1.0), Source("b", 2.0)]
    assert comparison.external_logits(sources, ["b", "a"]).tolist() == [[2.0, 2.0], [1.0, 1.0]]
    with pytest.raises(DataError, match=r"no external logits(.|\n)*got: +c"):
        comparison.external_logits(sources, ["c"])


def test_unknown_names_are_refused(tmp_path):
    overrides = toy(tmp_path)
    with pytest.raises(ConfigError, match=r"Unknown only_models(.|\n)*herro"):
        run(tmp_path / "x", *overrides, "only_models=[herro]")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_protocol_composes(name):
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose("compare", [f"protocol={name}", "paths.data=data"])
        index = OmegaConf.to_container(cfg, resolve=False)
        assert {"linear", "hero"} <= set(index["models"])
        assert len(index["models"]) >= 5  # HERO beside at least four baselines
        nodes = list(index["tables"].values())
        for node in (nodes[0], nodes[-1]):
            overrides = [*compare.QUIET, *index["train"], *node["train"], *index["models"]["hero"], "paths.data=data"]
            train = compose("train", overrides)
            OmegaConf.to_container(train, resolve=True)
            assert build.modalities(train)
            for fold in index["folds"]:
                assert all(OmegaConf.select(train, key) is not None for key in fold)
        late = [instantiate.plain(t.late) for t in cfg.tables.values() if t.get("late")]
    assert all(instantiate.make(s, "late.sources") for t in late for s in t["sources"])
