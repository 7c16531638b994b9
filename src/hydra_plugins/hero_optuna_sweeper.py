"""Optuna sweeper: searches a space of overrides for the best score of validation.

Data flow: choice(...), interval(...), range(...) of the command line -> study -> trials, in batches -> launcher ->
scores -> study -> optuna.json, the command that trains the best trial with other seeds.

hydra-optuna-sweeper needs optuna 2.10, which has no journal storage, and minimises unless told otherwise.
"""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hero_lightning.config.sweep import exit_with
from hero_lightning.errors import ConfigError

log = logging.getLogger(__name__)

ConfigStore.instance().store(
    group="hydra/sweeper",
    name="hero_optuna",
    node={"_target_": "hydra_plugins.hero_optuna_sweeper.HeroOptunaSweeper", "params": None},
)


class HeroOptunaSweeper(Sweeper):
    """Searches with Optuna's TPE sampler (Bergstra et al. 2011, NeurIPS).

    Commands return scores of which higher is better (`val/score`: a metric of which lower is better counts negatively),
    so that a study always maximises.

    Args:
        n_trials: number of trials, with those that a storage holds already.
        n_jobs: trials of a batch, which a launcher runs side by side; each batch waits for the one before.
        storage: file of a journal, which keeps the study; null = in memory.
        study_name: name of the study in its storage.
        seed: of the sampler.
        params: overrides that are searched, key -> value as on the command line; the command line wins.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int,
        storage: str | None,
        study_name: str,
        seed: int,
        params: Mapping[str, str] | None,
    ) -> None:
        self.n_trials, self.n_jobs, self.storage = n_trials, n_jobs, storage
        self.study_name, self.seed, self.params = study_name, seed, dict(params or {})
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `sweep`."""
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the trials that the study still lacks; returns the best score."""
        import optuna

        assert self.config is not None
        assert self.launcher is not None
        given = OverridesParser.create().parse_overrides([*(f"{k}={v}" for k, v in self.params.items()), *arguments])
        overrides = {o.get_key_element(): o for o in given}  # the command line comes last
        try:
            space = {k: distribution(o) for k, o in overrides.items() if o.is_sweep_override()}
        except ConfigError as error:
            exit_with(error)
        constant = [f"{k}={o.get_value_element_as_str()}" for k, o in overrides.items() if k not in space]
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            study_name=self.study_name,
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=self.seed),
            storage=self._storage(),
            load_if_exists=True,
        )
        for begun in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):  # of a sweep that was killed
            study.tell(begun.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(begun.params)
        ended = (optuna.trial.TrialState.COMPLETE,)
        done = len(study.get_trials(states=ended))
        while done < self.n_trials:
            trials = [study.ask(space) for _ in range(min(self.n_jobs, self.n_trials - done))]
            jobs = [[*constant, *(f"{k}={_typed(v)}" for k, v in trial.params.items())] for trial in trials]
            returns = self.launcher.launch(jobs, initial_job_idx=done)
            for trial, result in zip(trials, returns, strict=True):
                if result.return_value is None:
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
                else:
                    study.tell(trial, float(result.return_value))
            done += len(trials)
        return self._end(study, folder, constant)

    def _storage(self) -> Any:
        if self.storage is None:
            return None
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        Path(self.storage).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(self.storage)))

    def _end(self, study: Any, folder: Path, constant: Sequence[str]) -> float | None:
        """Writes and shows the best trial."""
        from optuna.trial import TrialState

        complete = study.get_trials(states=[TrialState.COMPLETE])
        rows = [{"number": t.number, "score": t.value, "params": t.params} for t in complete]
        best = max(rows, key=lambda row: row["score"], default=None)
        (folder / "optuna.json").write_text(json.dumps({"best": best, "trials": rows}, indent=1) + "\n")
        if best is None:
            log.error("no trial has a score")
            return None
        chosen = [f"{k}={_typed(v)}" for k, v in best["params"].items()]
        kept = [o for o in constant if not o.startswith(("sweeper=", "skip_done=", "seed="))]
        again = shlex.join([*kept, *chosen, "seed=0,1,2"])
        log.info("best of %d trials, by validation: %.4f with %s", len(rows), best["score"], shlex.join(chosen))
        log.info("its test result: python -m hero_lightning.%s -m %s", self.config.hydra.job.config_name, again)  # type: ignore[union-attr]
        return best["score"]


def distribution(override: Override) -> Any:
    """What Optuna draws a key's value from.

    Raises:
        ConfigError: the seed, or a form of sweep that cannot be searched.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    key, value = override.get_key_element(), override.value()
    if key == "seed":
        raise ConfigError(
            "The seed is not searched: the best seed is no result.", expected="one seed", got=override.input_line,
            where="seed", hint="search with one seed, then train the best trial with -m seed=0,1,2",
        )  # fmt: skip
    if isinstance(value, ChoiceSweep):
        return CategoricalDistribution([str(v) for v in override.sweep_string_iterator()])
    low: Any = getattr(value, "start", None)
    high: Any = getattr(value, "stop", None) if isinstance(value, RangeSweep) else getattr(value, "end", None)
    kind = IntDistribution if isinstance(low, int) and isinstance(high, int) else FloatDistribution
    if isinstance(value, RangeSweep):  # without its end, as in Python
        step: Any = value.step
        return kind(low, high - step, step=step)
    if isinstance(value, IntervalSweep):
        return kind(low, high, log="log" in value.tags)
    raise ConfigError("This cannot be searched.", expected="choice, range or interval", got=override.input_line)


def _typed(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)
