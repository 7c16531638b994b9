"""`evaluate predictions=FILE`: files of all kinds, wrong ids, missing answers, every kind of Task, the suite."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hero_lightning.errors import ConfigError, DataError
from hero_lightning.evaluation import unibench
from hero_lightning.evaluation.prediction_file import predictions, read_rows
from hero_lightning.evaluation.scoring import combined, scores
from hero_lightning.metrics.extraction import Lexicon
from hero_lightning.metrics.wheels import Wheels
from hero_lightning.reporting.run_folder import write_predictions
from hero_lightning.tasks import ClassTask, DistributionTask, MultilabelTask, ScoreTask
from hero_lightning.tasks.openset import OpenTask
from hero_lightning.tasks.pair import PairTask
from hero_lightning.types import Sample
from tests.helpers import feature_dataset
from tests.metrics.wheel_tables import write_wheels

TRUTH = {"a": "joy", "b": "sad", "c": "joy", "d": "anger"}
CLASSES = ["anger", "joy", "sad"]


def samples(**labels: dict[str, Any]) -> list[Sample]:
    ids = dict.fromkeys(i for values in labels.values() for i in values)
    rows = [Sample(i, "test", labels={k: v[i] for k, v in labels.items() if i in v}) for i in ids]
    return [*rows, Sample("other", "train", labels={k: next(iter(v.values())) for k, v in labels.items()})]


def score_tasks(own: list[Sample], tasks: Any, rows: Any, columns: Any, names: Any, resamples: int) -> Any:
    """Reports of the Tasks that a file answers."""
    return scores(tasks, predictions(own, tasks, rows, columns, names), resamples=resamples)


def scored(task: Any, dataset: list[Sample], answers: dict[str, Any], path: Path, **names: str) -> dict[str, Any]:
    """Report of a jsonl file that answers one Task."""
    path.write_text("".join(json.dumps({"id": i, task.name: v}) + "\n" for i, v in answers.items()))
    rows, own, _ = read_rows(path, {}, dataset, "test")
    return score_tasks(own, {task.name: task}, rows, {}, names, 100)[task.name]


def values(report: dict[str, Any]) -> dict[str, float]:
    return {k: f["value"] for k, f in report["metrics"].items()}


def write(path: Path, answers: dict[str, str]) -> Path:
    """The same answers as the file's ending says."""
    rows = [{"name": i, "label": v} for i, v in answers.items()]
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["name", "label"], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(r) for r in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.stem == "dict":
        np.savez(path, label=np.array(answers, dtype=object))
    else:
        np.savez(path, name=np.array(list(answers)), label=np.array(list(answers.values()), dtype=object))
    return path


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.json", "x.jsonl", "x.npz", "dict.npz"])
def test_every_kind_of_file_says_the_same(tmp_path: Path, name: str) -> None:
    dataset, task = samples(emotion=TRUTH), ClassTask("emotion", CLASSES)
    path = write(tmp_path / name, {**TRUTH, "b": "joy", "other": "joy"})
    columns = {"emotion": "label"} | ({} if name == "dict.npz" else {"id": "name"})
    rows, own, missing = read_rows(path, columns, dataset, "test")
    assert (list(rows), [s.id for s in own], missing) == (list("abcd"), list("abcd"), [])  # `other` is of train
    report = score_tasks(own, {"emotion": task}, rows, columns, {}, 100)["emotion"]
    assert values(report)["accuracy"] == 0.75


def test_a_clip_without_a_row_is_wrong_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "x.csv", {"a": "joy", "b": "sad"})
    rows, own, missing = read_rows(path, {}, samples(emotion=TRUTH), "test")
    assert missing == ["c", "d"]
    assert "2 of 4 clips have no row" in caplog.text
    assert "c, d" in caplog.text
    found = values(
        score_tasks(own, {"emotion": ClassTask("emotion", CLASSES)}, rows, {"emotion": "label"}, {}, 100)["emotion"]
    )
    assert found["accuracy"] == 0.5
    assert found["uar"] == pytest.approx((0.5 + 1 + 0) / 3)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([("a", "joy"), ("a", "sad")], "names a clip twice"),
        ([("nobody", "joy")], "names a clip the dataset does not have"),
        ([("", "joy")], "names a clip the dataset does not have"),
    ],
)
def test_unknown_and_double_ids_are_errors(tmp_path: Path, answers: list[tuple[str, str]], words: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps({"id": i, "emotion": v}) for i, v in answers))
    with pytest.raises(DataError, match=words) as error:
        read_rows(path, {}, samples(emotion=TRUTH), "test")
    assert "row " in str(error.value)


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    dataset = samples(emotion=TRUTH)
    for name, text, words in (
        ("none.csv", None, "no such prediction file"),
        ("x.xml", "<a/>", "unknown kind"),
        ("x.json", "[]", "holds no rows"),
        ("x.jsonl", '{"id": "a"', "line is not JSON"),
        ("x.csv", "clip,label\na,joy\n", "no column of ids"),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=words):
            read_rows(tmp_path / name, {}, dataset, "test")
    np.savez(tmp_path / "x.npz", id=np.array(["a", "b"]), emotion=np.array(["joy"]))
    with pytest.raises(DataError, match="differ in length"):
        read_rows(tmp_path / "x.npz", {}, dataset, "test")
    (tmp_path / "x.csv").write_text("id,mood\na,joy\n")
    with pytest.raises(ConfigError, match="no such split"):
        read_rows(tmp_path / "x.csv", {}, dataset, "val")
    rows, own, _ = read_rows(tmp_path / "x.csv", {}, dataset, "test")
    with pytest.raises(ConfigError, match="answers no task") as error:
        score_tasks(own, {"emotion": ClassTask("emotion", CLASSES)}, rows, {}, {}, 100)
    assert "columns.TASK=NAME" in str(error.value)


def test_a_pickle_in_an_npz_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("ran",)

    np.savez(tmp_path / "x.npz", id=np.array([Evil()], dtype=object))
    with pytest.raises(DataError, match="wants to run code"):
        read_rows(tmp_path / "x.npz", {}, samples(emotion=TRUTH), "test")


def test_classes_by_name_by_shares_and_by_logits(tmp_path: Path) -> None:
    dataset, task, path = samples(emotion=TRUTH), ClassTask("emotion", CLASSES), tmp_path / "x.jsonl"
    shares = {"a": [0, 1, 0], "b": [0, 0.1, 0.9], "c": [0.5, 0.3, 0.2], "d": [1, 0, 0]}
    assert values(scored(task, dataset, shares, path))["accuracy"] == 0.75
    logits = {i: [5 * v - 2 for v in row] for i, row in shares.items()}
    assert values(scored(task, dataset, logits, path))["accuracy"] == 0.75
    foreign = {**TRUTH, "a": "happy", "c": None}
    assert values(scored(task, dataset, foreign, path, happy="joy"))["accuracy"] == 0.75
    with pytest.raises(DataError, match="Unknown label in the prediction file") as error:
        scored(task, dataset, {**TRUTH, "b": "bored"}, path)
    assert "b" in str(error.value)
    with pytest.raises(DataError, match="Wrong number of values"):
        scored(task, dataset, {"a": [0.5, 0.5]}, path)


def test_scores_labels_shares_and_utilities(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    truth = {"a": -1.0, "b": 2.0, "c": 0.5}
    mosi = ScoreTask("sentiment", -3, 3, metrics="mosi")
    report = scored(mosi, samples(sentiment=truth), {"a": -1.2, "b": "1.5"}, path)
    assert values(report)["mae"] == pytest.approx((0.2 + 0.5 + 3.5) / 3)  # the missing one counts as -3, the far end
    assert values(report)["acc2_non0"] == pytest.approx(2 / 3)
    with pytest.raises(DataError, match="no number"):
        scored(mosi, samples(sentiment=truth), {"a": "glad"}, path)
    many = MultilabelTask("emotions", CLASSES)
    report = scored(many, samples(emotions={"a": ["joy", "sad"], "b": []}), {"a": "joy|sad"}, path)
    assert values(report)["micro_f1"] == pytest.approx(2 * 2 / (2 * 2 + 3))  # b without an answer: all three wrong
    vce = DistributionTask("emotions", CLASSES)
    report = scored(vce, samples(emotions={"a": [3, 1, 0], "b": [0, 1, 0]}), {"a": {"anger": 2, "joy": 1}}, path)
    assert values(report)["top1"] == 0.5
    places = {"a": [(0, 0, 2)], "b": [(0, 1, 2)], "c": [(1, 0, 2)], "d": [(1, 1, 2)]}
    report = scored(PairTask("preference"), samples(preference=places), {"a": 0.1, "b": 0.4, "c": 0.0}, path)
    assert values(report)["pair_accuracy"] == 0.5


def test_open_tasks_are_left_to_task_open(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = samples(openset={"a": ["joy"]})
    with pytest.raises(ConfigError, match="answers no task"):
        scored(OpenTask("openset", ["joy"]), dataset, {"a": ["joy"]}, tmp_path / "x.jsonl")
    assert "answers=open" in caplog.text


def test_mer2023_combined_by_hand(tmp_path: Path) -> None:
    dataset = samples(emotion=TRUTH, valence={"a": 1.0, "b": -2.0, "c": 2.0})
    tasks = {"emotion": ClassTask("emotion", CLASSES), "valence": ScoreTask("valence", -5, 5, metrics="mer2023")}
    for task in tasks.values():
        task.fit([s.labels.get(task.name) for s in dataset])
    lines = [("a", "joy", 1.0), ("b", "joy", -1.0), ("c", "joy", 2.0), ("d", "anger", 0.0)]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps({"id": i, "emotion": e, "valence": v}) for i, e, v in lines))
    rows, own, _ = read_rows(path, {}, dataset, "test")
    found = score_tasks(own, tasks, rows, {}, {}, 100)
    report = found["emotion and valence"]
    assert report["labelled"] == 3  # d has no valence
    waf = (2 * (2 * 2 / (2 * 2 + 1)) + 0) / 3
    assert values(report)["combined"] == pytest.approx(waf - 0.25 * 1 / 3)
    assert report["metrics"]["combined"]["low"] <= values(report)["combined"] <= report["metrics"]["combined"]["high"]
    assert report["metrics"]["combined"]["majority"] == pytest.approx(
        2 / 3 * 0.8 - 0.25 * sum((v - 0.5) ** 2 for v in (1, -2, 2)) / 3  # always joy, and train's mean valence
    )
    assert combined(tasks, {}) == {}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    return Wheels(write_wheels(tmp_path_factory.mktemp("wheels")))


def worded(kind: str, label: str, truth: dict[str, Any], answers: dict[str, Any], wheels: Wheels) -> dict[str, Any]:
    own = samples(**{label: truth})[:-1]
    rows = {i: {"openset": v} for i, v in answers.items()}
    return unibench.score_words(own, kind, label, rows, {}, Lexicon(wheels), wheels, 100)


def test_answers_in_words(wheels: Wheels) -> None:
    truth = {"a": "joy", "b": "sad", "c": "neutral", "d": "anger"}
    said = {
        "a": ["happy", "calm"],
        "b": "Her voice is low, and sadness hangs over every word she says to him.",
        "c": "neutral",
    }
    report = worded("hit", "emotion", truth, said, wheels)
    assert values(report)["hit_rate"] == pytest.approx(2 / 3)  # neutral is not counted, d has no answer
    assert values(report)["hit_rate_corrected"] == pytest.approx(3 / 4)
    assert values(report)["labels"] == pytest.approx((2 + 1 + 1 + 0) / 4)
    assert report["counted"] == [3] * 5
    assert report["baselines"]["always happy, angry, sad"]["hit_rate"]["value"] == 1
    assert report["metrics"]["hit_rate"]["majority"] == 1
    assert report["metrics"]["hit_rate"]["chance"] < 1
    scores = {"a": 1.0, "b": -0.4, "c": 0.0, "d": 2.0, "e": -1.0, "f": -2.0, "g": 0.6}
    said = {"a": "positive", "b": -0.7, "c": "sad", "f": ["sad", "angry"], "g": "['positive']"}
    said["d"] = "She has a smile of joy, and happiness lasts through the whole of this long scene."
    signs = worded("sentiment", "score", scores, said, wheels)
    assert signs["n"] == 6  # c is neutral
    assert values(signs)["accuracy"] == pytest.approx(5 / 6)  # e has no answer
    assert set(signs["baselines"]) == {"always negative", "always positive"}
    sets = worded("open", "openset", {"a": ["joy", "sad"], "b": ["calm"]}, {"a": "['happy']", "b": "[calm]"}, wheels)
    assert next(iter(sets["metrics"])) == "f_s"
    assert values(sets)["precision"] == 1


def test_descriptions(tmp_path: Path) -> None:
    own = [
        Sample("a", "test", descriptions={"caption": "he smiles"}),
        Sample("b", "test", descriptions={"caption": "she cries"}),
    ]
    found = unibench.score_captions(own, {"a": {"caption": "he smiles"}}, {}, None, 100)
    assert list(found) == ["caption"]
    assert values(found["caption"])["rouge_l"] == 0.5
    with pytest.raises(ConfigError, match="no descriptions"):
        unibench.score_captions([Sample("a", "test")], {}, {}, None, 100)
    with pytest.raises(ConfigError, match="has no answers"):
        unibench.score_captions(own, {"a": {"mood": "x"}}, {}, None, 100)


# ---- the command


def command(folder: Path, *overrides: str) -> dict[str, Any]:
    """`python -m hero_lightning.evaluate` in this process -> metrics.json."""
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig

    from hero_lightning.config.cli import CONF
    from hero_lightning.evaluate import score_predictions as score

    folder.mkdir(parents=True, exist_ok=True)
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose("evaluate", [*overrides, f"hydra.runtime.output_dir={folder}"], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        score(cfg)
    return json.loads((folder / "metrics.json").read_text())


def test_our_own_file_gives_the_metrics_of_the_run(tmp_path: Path) -> None:
    """Shares of a random model, written as a run writes them and scored again without it."""
    from hero_lightning.evaluation.scoring import SplitRecord
    from hero_lightning.evaluation.scoring import score as score_run
    from hero_lightning.metrics.table import Explanations, Predictions
    from hero_lightning.types import Label

    root = feature_dataset(tmp_path / "dataset")
    records = [r for r in json.loads((root / "labels.json").read_text()) if r["split"] == "test"]
    task = ClassTask("emotion").fit(["neutral", "happy", "sad"])
    own = [Sample(r["video_id"], "test", labels={"emotion": r["emotion"]}) for r in records]
    index = torch.arange(len(own))
    label: Label = task.collate([s.labels["emotion"] for s in own], [s.id for s in own])
    predictions = Predictions(index, torch.rand(len(own), 3).softmax(dim=-1), label)
    record = SplitRecord("test", own, {"emotion": predictions}, Explanations(index, {}))
    write_predictions(tmp_path / "predictions.csv", [record], {"emotion": task})
    expected = score_run(task, predictions, None, 1000)
    found = command(
        tmp_path / "out", "dataset=folder", f"dataset.root={root}", f"predictions={tmp_path}/predictions.csv"
    )
    report = found["splits"]["test"]["emotion"]
    for name, figure in expected["metrics"].items():
        for part in ("value", "low", "high", "chance"):
            assert report["metrics"][name][part] == pytest.approx(figure[part], abs=1e-5), (name, part)
    assert report["metrics"]["accuracy"]["majority"] is not None
    assert found["missing"] == []


def test_open_answers_and_wrong_options(tmp_path: Path) -> None:
    root, wheels = feature_dataset(tmp_path / "dataset"), write_wheels(tmp_path / "wheels")
    records = [r for r in json.loads((root / "labels.json").read_text()) if r["split"] == "test"]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps({"id": r["video_id"], "answer": f"[{r['emotion']}]"}) for r in records[1:]))
    base = ["dataset=folder", f"dataset.root={root}", f"predictions={path}", f"wheels={wheels}", "resamples=100"]
    found = command(tmp_path / "out", *base, "answers=open")["splits"]["test"]["emotion"]
    assert found["missing"] == [records[0]["video_id"]]
    assert found["metrics"]["hit_rate_corrected"]["value"] == pytest.approx(1 - 1 / len(records))
    with pytest.raises(ConfigError, match="Unknown answers"):
        command(tmp_path / "out", *base, "answers=guess")
    with pytest.raises(ConfigError, match="A suite scores prediction files"):
        command(tmp_path / "out", "suite=unibench")


def test_unibench_scores_what_is_there_and_names_the_rest(tmp_path: Path) -> None:
    (tmp_path / "data" / "meld").mkdir(parents=True)
    lines = ["Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID"]
    emotions = ("joy", "sadness", "neutral", "surprise")
    lines += [f"word,Joey,{emotion},positive,0,{k}" for k, emotion in enumerate(emotions)]
    (tmp_path / "data" / "meld" / "test_sent_emo.csv").write_text("\n".join(lines) + "\n")
    answers = tmp_path / "answers"
    answers.mkdir()
    ids = [f"test_dia0_utt{k}" for k in range(4)]
    (answers / "meld.jsonl").write_text(
        "\n".join(json.dumps({"id": i, "openset": ["happy", "sad", "angry"]}) for i in ids)
    )
    (answers / "iemocap.jsonl").write_text(json.dumps({"id": "x", "openset": "joy"}))
    wheels = write_wheels(tmp_path / "wheels")
    base = [f"paths.data={tmp_path}/data", f"predictions={answers}", f"wheels={wheels}", "resamples=100"]
    found = command(tmp_path / "out", "suite=unibench", *base)
    assert list(found["splits"]) == ["MELD"]
    assert set(found["missing"]) == set(unibench.SUITE) - {"MELD"}
    assert "iemocap" in found["missing"]["IEMOCAP"].lower()  # a file, but no dataset: the reason is told
    assert found["missing"]["SIMS"].startswith("no sims.csv")
    primary = found["splits"]["MELD"]["open vocabulary"]["metrics"]["hit_rate"]["value"]
    assert primary == pytest.approx((4 * 2 / 3 + 1) / 5)  # on wheel 5 surprise has no sector
    assert found["mean"] == primary
    assert found["complete"] is False
    with pytest.raises(ConfigError, match="No test set could be scored"):
        unibench.run_suite(lambda test, file: {}, tmp_path)


def test_unibench_knows_the_nine_sets() -> None:
    assert len(unibench.SUITE) == 9
    assert sum(s.clips for s in unibench.SUITE.values()) == 12799  # clips of the nine test sets of MER-UniBench
    kinds = [s.kind for s in unibench.SUITE.values()]
    assert (kinds.count("hit"), kinds.count("sentiment"), kinds.count("open")) == (4, 4, 1)
