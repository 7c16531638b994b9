"""One small run with every logger, read back: config, results, tables, artifacts; and the workspace of its report."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from hero_lightning.config.sweep import PLAN
from tests.helpers import feature_dataset, in_process
from tests.wandb_records import offline_run

RUN = [
    "dataset=folder", "modalities=[audio,text,au]", "size=tiny", "trainer=cpu", "trainer.max_epochs=2",
    "robustness=all",
    "trainer.log_every_n_steps=1", "trainer.enable_progress_bar=false", "dataset.num_workers=0", "name=toy",
    "logger=[wandb,csv,tensorboard,mlflow]", "+optimizer.rates={model.heads: 0.0005}",
]  # fmt: skip
METRICS = ("weighted_f1", "macro_f1", "accuracy", "uar")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/toy with job 0, as `train -m` makes it, on 48 clips of three classes."""
    import wandb

    from hero_lightning.config.launch import wandb_closed
    from hero_lightning.train import train

    root = tmp_path_factory.mktemp("dashboards")
    feature_dataset(root / "data")
    folder, place = root / "runs" / "toy", [f"dataset.root={root}/data", f"paths.runs={root}/runs"]
    (folder / "0" / ".hydra").mkdir(parents=True)
    (folder / "0" / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(RUN))
    (folder / PLAN).write_text("{}")
    with pytest.MonkeyPatch.context() as patch, wandb_closed():
        patch.setenv("WANDB_MODE", "offline")
        train(in_process("train", folder / "0", *RUN, *place))
    wandb.teardown()  # ends the process that writes the file
    return folder


@pytest.fixture(scope="module")
def sent(sweep: Path) -> dict[str, Any]:
    return offline_run(sweep / "0")


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a/b": 1}, without empty mappings."""
    if not isinstance(node, Mapping):
        return {prefix: node}
    return {k: v for key, child in node.items() for k, v in flat(child, f"{prefix}/{key}".strip("/")).items()}


def test_wandb_knows_what_the_run_is(sent: dict[str, Any]) -> None:
    assert {k: sent["run"][k] for k in ("project", "name", "group", "job_type")} == {
        "project": "hero_lightning", "name": "toy/0", "group": "toy", "job_type": "train",
    }  # fmt: skip
    assert {"dataset=folder", "size=tiny", "model_fusion=integration"} <= set(sent["run"]["tags"])
    assert not [tag for tag in sent["run"]["tags"] if tag.startswith(("paths", "hydra", "logger")) or "none" in tag]
    assert sent["exit"] == 0


def test_wandb_has_the_resolved_config_with_nested_keys(sent: dict[str, Any], sweep: Path) -> None:
    config = {k: v for k, v in sent["config"].items() if k != "_wandb"}
    assert config == yaml.safe_load((sweep / "0" / "config.yaml").read_text())
    assert config["model"]["fusion"]["strategy"] == "dynamic"
    assert config["model"]["width"] == config["size"]["width"]  # an interpolation
    assert config["choices"]["model_fusion"] == "integration"


def test_wandb_summary_has_every_metric_with_interval_chance_majority_and_probes(
    sent: dict[str, Any], sweep: Path
) -> None:
    splits = json.loads((sweep / "0" / "metrics.json").read_text())["splits"]
    for split, prefix in (("test", "test"), ("val", "best_val")):
        report = splits[split]["emotion"]
        assert set(METRICS) <= set(report["metrics"])
        for name, of in report["metrics"].items():
            for suffix, key in (("", "value"), *((f"_{k}", k) for k in ("low", "high", "chance", "majority"))):
                logged = sent["summary"].get(f"{prefix}/emotion/{name}{suffix}")
                assert logged == (None if of[key] is None else pytest.approx(of[key])), (name, key)
    probes = splits["test"]["emotion"]["baselines"]
    assert len(probes) == 3
    for name, metrics in probes.items():
        place = f"test/emotion/baselines/{name.replace(' ', '_')}/weighted_f1"
        assert sent["summary"][place] == pytest.approx(metrics["weighted_f1"]["value"])
        assert sent["summary"][f"{place}_p"] == pytest.approx(metrics["weighted_f1"]["p"])


def test_wandb_has_learning_rates_throughput_and_memory(sent: dict[str, Any]) -> None:
    assert sent["summary"]["resources/samples_per_second"] > 0
    assert 0.05 < sent["summary"]["resources/memory_gib"] < 100
    base, heads = sent["summary"]["lr/default"], sent["summary"]["lr/model.heads"]
    assert base == pytest.approx(heads * sent["config"]["optimizer"]["lr"] / 0.0005)


def test_wandb_has_tables_pictures_and_artifacts(sent: dict[str, Any], sweep: Path) -> None:
    (files,) = (sweep / "0" / "wandb").glob("offline-run-*/files")

    def table(name: str) -> dict[str, Any]:
        return json.loads((files / sent["summary"][f"test_tables/{name}"]["path"]).read_text())

    report = json.loads((sweep / "0" / "metrics.json").read_text())["splits"]["test"]["emotion"]
    assert len(table("predictions")["data"]) == report["n"] == 12
    counts = [count for row in report["confusion"] for count in row]
    assert table("confusion_emotion")["columns"] == ["truth", "predicted", "samples"]
    assert [row[2] for row in table("confusion_emotion")["data"]] == counts
    of_class = table("classes_emotion")
    assert of_class["columns"] == ["class", "precision", "recall", "f1", "support"]
    assert {row[0]: row[3] for row in of_class["data"]} == pytest.approx(
        {name: metrics["f1"] for name, metrics in report["per_class"].items()}
    )
    gates = table("gates")
    assert [row[0] for row in gates["data"]][-1] == "all"
    for label, *weights in gates["data"]:
        assert sum(weights) == pytest.approx(1, abs=1e-4)
        for expert, weight in zip(gates["columns"][1:], weights, strict=True):
            assert sent["summary"][f"test/gates/{label}/{expert}"] == pytest.approx(weight)
    assert sent["summary"]["test_images/confusion_emotion"]["_type"] == "image-file"
    artifacts = {kind: files for kind, files in sent["artifacts"].items() if kind != "run_table"}
    assert artifacts == {
        "checkpoint": ["best.ckpt", "config.yaml"], "predictions": ["metrics.json", "predictions.csv"],
        "index": ["index.json"],
    }  # fmt: skip


def test_the_curve_has_the_mean_over_all_subsets(sent: dict[str, Any], sweep: Path) -> None:
    found = json.loads((sweep / "0" / "robustness.json").read_text())
    test, baselines = found["tasks"]["emotion"]["metrics"], found["tasks"]["emotion"]["baselines"]
    assert len(baselines) == 6  # of three modalities, each alone and each pair
    alone = [m["accuracy"]["value"] for name, m in baselines.items() if " and " in name]
    assert [point["withheld"] for point in found["curve"]] == [0, 1, 2]
    assert found["curve"][0]["emotion/accuracy"] == test["accuracy"]["value"]
    assert found["curve"][2]["emotion/accuracy"] == pytest.approx(sum(alone) / 3)
    assert sent["summary"]["missing/emotion/accuracy"] == pytest.approx(sum(alone) / 3)  # the last point


def test_all_loggers_have_the_same_metrics_and_config(sent: dict[str, Any], sweep: Path) -> None:
    from mlflow.tracking import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = sweep / "0"
    logged: dict[str, dict[str, float]] = {}
    logged["wandb"] = {k: v for k, v in sent["summary"].items() if not isinstance(v, dict)}
    with (folder / "metrics.csv").open() as file:
        logged["csv"] = {k: float(v) for row in csv.DictReader(file) for k, v in row.items() if v}
    board = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    logged["tensorboard"] = {name: board.Scalars(name)[-1].value for name in board.Tags()["scalars"]}
    client = MlflowClient((sweep.parent / "mlruns").as_uri())
    (mlflow,) = client.search_runs([client.get_experiment_by_name("hero_lightning").experiment_id])
    logged["mlflow"] = mlflow.data.metrics
    for name, metrics in logged.items():
        logged[name] = {k: v for k, v in metrics.items() if "/" in k and not k.startswith("trainer/")}
    assert len(logged["csv"]) > 100
    for name, metrics in logged.items():
        assert set(metrics) == set(logged["csv"]), name
        assert metrics == pytest.approx(logged["csv"], rel=1e-5, abs=1e-6, nan_ok=True), name

    config = flat(yaml.safe_load((folder / "config.yaml").read_text()))
    for path in (folder / "hparams.yaml", folder / "tensorboard" / "hparams.yaml"):
        assert flat(yaml.safe_load(path.read_text())) == config, path
    params = {k: str(v)[:250] for k, v in config.items() if v != []}  # what MLflow cannot hold
    assert mlflow.data.params == params
    assert mlflow.info.run_name == "toy/0"
    assert mlflow.info.status == "FINISHED"
    assert mlflow.data.tags.items() >= {"group": "toy", "job_type": "train", "model_fusion": "integration"}.items()


def test_no_deprecation_reaches_the_user(sweep: Path) -> None:
    (log,) = (sweep / "0" / "wandb").glob("offline-run-*/files/output.log")
    assert "anonymous" not in log.read_text()


class Server(ThreadingHTTPServer):
    """Answers as W&B's API does to one user, and keeps the workspace it is sent."""

    saved: dict[str, Any]

    class Handler(BaseHTTPRequestHandler):
        server: Server

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if not self.path.endswith("graphql"):  # W&B's own error reports
                return self.send_error(404)
            asked = json.loads(content)
            answer: dict[str, Any] = {"viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}"}}
            if "upsertView" in asked.get("query", ""):
                self.server.saved = asked["variables"]
                answer = {"upsertView": {"view": {"id": "1", "name": "nw-one-v"}, "inserted": True}}
            content = json.dumps({"data": answer}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server(("127.0.0.1", 0), Server.Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()


def test_a_workspace_made_offline_is_saved_later(
    sweep: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from hero_lightning import report

    monkeypatch.setenv("WANDB_MODE", "offline")
    caplog.set_level("INFO")
    report.report([sweep], out=tmp_path, wandb=True, resamples=100)
    path = tmp_path / "workspace.json"
    assert f"python -m hero_lightning.report wandb={path}" in caplog.text

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    report.main.__wrapped__(in_process("report", tmp_path / "r", f"wandb={path}"))
    assert f"workspace: http://127.0.0.1:{server.server_port}/me/hero_lightning?nw=one" in caplog.text
    assert {k: server.saved[k] for k in ("entityName", "projectName", "displayName")} == {
        "entityName": "me", "projectName": "hero_lightning", "displayName": "toy",
    }  # fmt: skip
    spec = json.loads(server.saved["spec"])["section"]
    runs = spec["runSets"][0]
    assert [(f["key"]["name"], f["value"]) for f in runs["filters"]["filters"]] == [("group", ["toy"])]
    assert {"config:choices.value.model", "summary:test/emotion/weighted_f1"} <= set(runs["runFeed"]["columnPinned"])
    panels = {
        s["name"]: [(p["viewType"], p["config"]) for p in s["panels"]] for s in spec["panelBankConfig"]["sections"]
    }
    assert [kind for kind, _ in panels["Sweep"]] == [
        "Parallel Coordinates Plot",
        "Parameter Importance",
        "Run Comparer",
    ]
    kind, bars = panels["Metrics by group"][0]
    assert (kind, bars["groupBy"], bars["groupArea"]) == ("Bar Chart", "choices.value.model", "stderr")
    names = [name for _, config in panels["Gates by class"] for name in config["metrics"]]
    kind, curve = panels["Missing modalities"][0]
    assert (kind, curve["xAxis"], curve["metrics"]) == (
        "Run History Line Plot", "missing/withheld", ["missing/emotion/weighted_f1"],
    )  # fmt: skip
    assert {"Training", "Tables"} <= set(panels)
    plotted = [m for found in panels.values() for _, c in found for m in c.get("metrics", ())]
    assert len(names) == 4 * 3  # three classes and all; audio, text, au
    assert set(plotted) <= set(offline_run(sweep / "0")["summary"])  # every panel shows something that was logged


def test_what_cannot_be_a_workspace_is_refused(tmp_path: Path) -> None:
    from hero_lightning.errors import ConfigError, DataError
    from hero_lightning.evaluation.runs import Run
    from hero_lightning.reporting import wandb_workspace

    path, panel = tmp_path / "workspace.json", {"type": "LinePlots", "y": ["a"]}
    whole = {"entity": None, "project": "p", "name": "n", "groups": [], "names": ["n"], "columns": []}
    for content in (None, "{", '{"entity": null}', json.dumps({**whole, "sections": {"a": [panel]}})):
        if content:
            path.write_text(content)
        with pytest.raises(DataError, match="cannot be read") as error:
            wandb_workspace.save(path)
        assert "python -m hero_lightning.report run=RUNS wandb=true" in str(error.value)
    assert "LinePlots" in str(error.value)  # the name that is wrong
    with pytest.raises(ConfigError, match="No run was logged to W&B") as error:
        wandb_workspace.describe([Run(tmp_path, {"seed": 0}, {}, {})], "emotion", "test", METRICS, [])
    assert "logger=[csv,wandb]" in str(error.value)
