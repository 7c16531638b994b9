"""The package from Python: `import hero_lightning as hero`; `predict`, `evaluate` and `train` use the same functions.

Data flow: run folder -> Run; clips, table, arrays, feature file or dataset sample -> Samples -> batches -> Outputs
(-> a language model's answers) -> dict per clip -> DataFrame. Overrides -> config -> data module, or a trained Run.

Shapes: T steps, D feature width, P pooled width.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hero_lightning.errors import ConfigError, DataError, one_of

if TYPE_CHECKING:
    import pandas as pd

    from hero_lightning.config.build import FinishedRun
    from hero_lightning.data.datamodule import EmotionDataModule
    from hero_lightning.features import Availability, Modality
    from hero_lightning.models.outputs import Outputs
    from hero_lightning.training.module import EmotionModule
    from hero_lightning.types import Batch, Features, Sample

log = logging.getLogger(__name__)


def compose(command: str = "train", overrides: Sequence[str] = ()) -> Any:
    """The resolved config of a command, from any folder, as `python -m hero_lightning.<command> <overrides>` has it.

    Args:
        command: train, predict, extract, ...
        overrides: as on the command line, e.g. ["dataset=meld", "modalities=[text]"].
    """
    from hero_lightning.config import build

    with _composed(command, overrides) as cfg:
        return build.stored_config(cfg)


@contextmanager
def _composed(command: str, overrides: Sequence[str]) -> Iterator[Any]:
    """The config, and Hydra's own part in HydraConfig as long as the block lasts."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    from hero_lightning.config.cli import CONF
    from hero_lightning.config.quoting import quoted

    before = HydraConfig.instance().cfg
    try:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=CONF):
            cfg = hydra.compose(command, quoted(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        yield cfg
    finally:
        HydraConfig.instance().cfg = before


def train(overrides: Sequence[str] = ()) -> Run:
    """Trains, tests and returns the run; its files lie in a new folder `<paths.runs>/<name>/<date>`.

    Args:
        overrides: as on the command line, e.g. ["dataset=meld", "trainer.max_epochs=5", "seed=1"].
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import read_write

    from hero_lightning.config.cli import silence_libraries
    from hero_lightning.config.sweep import claim
    from hero_lightning.train import train as run

    with _composed("train", overrides) as cfg:
        node: Any = HydraConfig.get()
        folder = claim(Path(node.run.dir).absolute())
        with read_write(node):
            node.runtime.output_dir = str(folder)
        silence_libraries()
        run(cfg)
        return load(folder, paths=cfg.paths, trust=None)


def datamodule(
    dataset: str,
    *,
    data: str | Path | None = None,
    features: str | Path | None = None,
    modalities: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    **options: Any,
) -> EmotionDataModule:
    """A dataset as a LightningDataModule, as `train` has it.

    Args:
        dataset: name in the config group, e.g. "meld".
        data: folder that holds the datasets; None = as on the command line.
        features: folder of stored features.
        modalities: only these; None = all that the dataset has.
        overrides: further ones, as on the command line, e.g. ["encoder@modality.text.encoder=minilm"].
        options: settings of the dataset, e.g. batch_size=8, root=FOLDER, missing="skip".

    Returns:
        The data module; after `prepare_data()` its loaders give `hero_lightning.types.Batch`.
    """
    from omegaconf import OmegaConf

    from hero_lightning.config import build

    given = {"paths.data": data, "paths.features": features, "modalities": modalities and f"[{','.join(modalities)}]"}
    named = [f"{key}={value}" for key, value in given.items() if value is not None]
    with _composed("train", [f"dataset={dataset}", *named, *overrides]) as cfg:
        for key, value in options.items():
            OmegaConf.update(cfg, f"dataset.{key}", str(value) if isinstance(value, Path) else value, force_add=True)
        return build.dataset(cfg)


def load(
    run: str | Path, *, device: str = "auto", overrides: Sequence[str] = (), paths: Mapping[str, Any] | None = None,
    trust: Sequence[str] | None = (),
) -> Run:  # fmt: skip
    """A finished run, ready to predict.

    Args:
        run: run folder, or a checkpoint inside one.
        device: auto (a GPU if there is one), cpu, cuda, cuda:1, ...
        overrides: for files that have moved since: ["modality.text.encoder.name=FOLDER"].
        paths: this machine's paths; None = those of the command line.
        trust: packages, folders and URLs that its config may name (docs/security.md); None = all, for your own run.

    Raises:
        CheckpointError: no checkpoint, or one that is not trusted.
    """
    import torch

    from hero_lightning.config import build

    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    paths = compose("predict", ["run=x"]).paths if paths is None else paths
    finished = build.restore(str(run), paths, trust, overrides)
    return Run(finished, torch.device(device))


@dataclass
class _Clips:
    """Clips to predict, a sample each.

    Attributes:
        kind: where the features come from: media (computed), stored (as in training) or arrays.
        arrays: modality -> sample id -> array.
    """

    samples: list[Sample]
    kind: str = "media"
    arrays: dict[str, dict[str, Any]] = field(default_factory=dict)


class Run:
    """A finished run.

    Attributes:
        finished: its config, checkpoint and facts.
        device: where it computes.
    """

    def __init__(self, finished: FinishedRun, device: Any) -> None:
        self.finished, self.device = finished, device
        self._built: dict[str, tuple[dict[str, Modality], EmotionModule]] = {}

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {self.finished.facts['dataset']}, modalities {', '.join(self.modalities)})"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.finished.folder

    @property
    def config(self) -> Any:
        """The resolved config."""
        return self.finished.config

    @property
    def modalities(self) -> dict[str, int]:
        """Modality -> feature width D that the model reads."""
        return dict(self.finished.facts["dims"])

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Task -> class names; empty for a score."""
        return {name: tuple(task.classes) for name, task in self.finished.tasks().items()}

    @property
    def module(self) -> EmotionModule:
        """The LightningModule with its weights, in eval mode."""
        return self._parts("media")[1]

    def predict(self, clips: Any = None, **options: Any) -> pd.DataFrame:
        """Predictions, one row per clip; columns as in predictions.csv (`reporting.prediction.table_row`).

        Args:
            clips: a clip, a folder or a pattern; a DataFrame with columns of `datasets.clips.COLUMNS`; features of
                one clip as {modality: [T, D]}, or of several as {id: {modality: [T, D]}}.
            options: see `predictions`.

        A clip of which no modality can be read has NaN and an `error`.
        """
        import pandas as pd

        from hero_lightning.reporting.prediction import table_row

        return pd.DataFrame([table_row(found) for found in self.predictions(clips, many=True, **options)])

    def embed(self, clips: Any = None, **options: Any) -> pd.DataFrame:
        """The vector [P] that the linear heads read, one row per readable clip; index = clip ids."""
        import pandas as pd

        found = ((r.id, r.outputs, r.row) for r in self._results(clips, **options))
        rows = {id: out.fused.pooled[row].float().cpu().numpy() for id, out, row in found if out is not None}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("id")

    def predictions(self, clips: Any = None, *, many: bool = False, **options: Any) -> Iterator[dict[str, Any]]:
        """The prediction of each clip in builtins, with gate, importance, attention over time and reasoning.

        Args:
            clips: see `predict`.
            many: whether a clip that no modality can read gives {id, error}; else it is an error.
            options: text (words), au (an OpenFace table) of one clip; features (a file of the feature-only layout) or
                id (a sample of the run's own dataset) instead of clips; asr ("whisper", or a Transcriber) for clips
                without words; batch_size = 16, num_workers = 0.

        Raises:
            DataError: the clip cannot be read, unless `many`.
        """
        from hero_lightning.reporting.prediction import describe

        for r in self._results(clips, explain=True, **options):
            if r.outputs is not None:
                yield describe(r.module, r.row, r.outputs, r.features, r.availability, r.answer) | {"id": r.id}
                continue
            reasons = "; ".join(f"{n}: {a.mode}, {a.reason}" for n, a in r.availability.items())
            if not many:
                raise DataError("Nothing of this clip can be read by the run's modalities.", got=reasons, where=r.id)
            yield {"id": r.id, "error": f"nothing can be read: {reasons}"}

    def _parts(self, kind: str) -> tuple[dict[str, Modality], EmotionModule]:
        """Modalities and model for features of this kind, built once."""
        from hero_lightning.config import build
        from hero_lightning.features.foreign.arrays import in_memory

        if kind not in self._built:
            run = replace(self.finished, config=copy.deepcopy(self.finished.config))
            if kind == "arrays":
                nodes = build.plain(run.config.modality)
                modalities = {n: in_memory(n, width, nodes[n]) for n, width in self.modalities.items()}
            else:
                if kind == "media":
                    build.compute_features(run.config)
                modalities = {n: m for n, m in build.modalities(run.config).items() if n in self.modalities}
                for modality in modalities.values() if kind == "stored" else ():
                    modality.bind(Path(run.config.paths.features), run.facts["dataset"])
            module = run.module(modalities, run.tasks()).to(self.device).eval()
            self._built[kind] = modalities, module
        return self._built[kind]

    def _results(
        self, clips: Any = None, *, explain: bool = False, batch_size: int = 16, num_workers: int = 0, **given: Any
    ) -> Iterator[_Result]:
        """One result per clip; those that cannot be read come last, without outputs."""
        import torch

        from hero_lightning.data.availability import check_all
        from hero_lightning.features import Availability
        from hero_lightning.features.foreign.arrays import Arrays

        chosen = self._clips(clips, **given)
        modalities, module = self._parts(chosen.kind)
        for name, arrays in chosen.arrays.items():
            modalities[name].source = Arrays(name, self.modalities[name], arrays)
        found = check_all(modalities, chosen.samples)
        for name in [n for n, m in modalities.items() if chosen.kind == "media" and m.encoder is None]:
            for row in found.values():
                row[name] = Availability("absent", "the run reads it from stored features and names no encoder")
        predicted: set[str] = set()
        for loaded in _loader(chosen.samples, modalities, found, batch_size, num_workers):
            batch: Batch = loaded.batch.to(self.device)
            with torch.inference_mode():
                features = module.encode(batch)
                outputs = module.model(features, explain=explain)
                answers = module.reasoner.answer(outputs, batch) if module.reasoner is not None and explain else []
            for failure in loaded.failures:
                found[failure.id][failure.modality] = Availability("broken", failure.reason)
            for b, id in enumerate(batch.ids):
                if any(a.present for a in found[id].values()):
                    predicted.add(id)
                    yield _Result(id, module, found[id], outputs, features, b, answers[b] if answers else None)
        yield from (_Result(s.id, module, found[s.id]) for s in chosen.samples if s.id not in predicted)

    def _clips(
        self, clips: Any, *, features: Any = None, id: str | None = None, text: str | None = None,
        au: str | Path | None = None, asr: Any = None,
    ) -> _Clips:  # fmt: skip
        """The clips that the arguments of `predictions` name."""
        import pandas as pd

        from hero_lightning.datasets.clips import named_clips, table_clips

        given = [k for k, v in {"video": clips, "features": features, "id": id}.items() if v is not None]
        if len(given) != 1:
            expected = "video=CLIP (or a folder), features=FILE.npy or id=SAMPLE"
            raise ConfigError("Name one thing to predict.", expected=expected, got=given or "none", where="predict")
        if id is not None:
            return _Clips([self._own(id)], "stored")
        if features is not None:
            return _Clips([self._feature_file(Path(features), text)], "stored")
        if isinstance(clips, Mapping):
            return self._arrays(clips)
        samples = table_clips(clips) if isinstance(clips, pd.DataFrame) else named_clips(clips, text, au)
        return _Clips(self._with_words(samples, asr) if "text" in self.modalities else samples)

    def _own(self, id: str) -> Sample:
        """A sample of the run's own dataset."""
        from hero_lightning.config import build
        from hero_lightning.types import link_dialogues

        known = {s.id: s for s in link_dialogues(build.dataset(self.config).samples())}
        if id not in known:
            expected = f"e.g. {min(known)}"
            raise DataError("The run's dataset has no such sample.", expected=expected, got=id, where="id")
        return known[id]

    def _feature_file(self, path: Path, text: str | None) -> Sample:
        """A file of the feature-only layout."""
        from hero_lightning.features import NpyDict
        from hero_lightning.types import Sample

        if not path.is_file():
            raise DataError("There is no such file.", expected="a feature file", got=path, where="features")
        for name, modality in self._parts("stored")[0].items():
            if not isinstance(modality.source, NpyDict):
                problem, got = f"The run does not read modality {name} from feature files.", f"mode {modality.mode}"
                expected = "a run on dataset=folder"
                raise ConfigError(problem, expected=expected, got=got, where="features", hint="video=CLIP")
        return Sample(path.stem, "predict", text=text, files={"features": path})

    def _arrays(self, arrays: Mapping[str, Any]) -> _Clips:
        """Features of one clip by modality, or of several by id and modality."""
        from hero_lightning.types import Sample

        nested = bool(arrays) and all(isinstance(v, Mapping) for v in arrays.values())
        by_id: Mapping[str, Mapping[str, Any]] = arrays if nested else {"clip": arrays}
        for name in dict.fromkeys(name for row in by_id.values() for name in row):
            one_of("modality of the run", name, self.modalities, DataError)
        columns = {name: {id: row[name] for id, row in by_id.items() if name in row} for name in self.modalities}
        return _Clips([Sample(id, "predict") for id in by_id], "arrays", columns)

    def _with_words(self, samples: list[Sample], asr: Any) -> list[Sample]:
        """Clips with what the speech recogniser heard, where they had no words."""
        from hero_lightning.config.instantiate import make
        from hero_lightning.media.transcribe import transcribed

        if asr is not None:
            asr = make(compose("predict", ["run=x", f"asr={asr}"]).asr, "asr") if isinstance(asr, str) else asr
            samples = transcribed(samples, asr, Path(self.config.paths.features), "predict")
        if without := sum(not s.text for s in samples):
            log.warning("no text modality for %d clips: text=WORDS, words in <clip>.txt, or asr=whisper", without)
        return samples


@dataclass
class _Result:
    """One clip: row `row` of outputs and features; without outputs where nothing could be read."""

    id: str
    module: EmotionModule
    availability: Mapping[str, Availability]
    outputs: Outputs | None = None
    features: Mapping[str, Features] = field(default_factory=dict)
    row: int = 0
    answer: Mapping[str, Any] | None = None


def _loader(samples: list[Sample], modalities: dict[str, Modality], found: Any, batch_size: int, workers: int) -> Any:
    """Batches of the clips of which some modality is present."""
    from torch.utils.data import DataLoader

    from hero_lightning.data.collate import Collate, ItemDataset

    readable = [n for n, s in enumerate(samples) if any(r.present for r in found[s.id].values())]
    batches = [[(0, n) for n in readable[k : k + batch_size]] for k in range(0, len(readable), batch_size)]
    dataset: Any = ItemDataset(samples, [(n,) for n in range(len(samples))], modalities, found)
    return DataLoader(dataset, batch_sampler=batches, collate_fn=Collate(modalities, {}), num_workers=workers)
