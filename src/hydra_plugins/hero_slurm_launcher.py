"""Slurm launcher: hydra-submitit-launcher's job, but one lost job does not end the sweep.

Data flow: overrides of all jobs -> one Slurm array -> results as they come; a job that Slurm no longer lists and that
left no result is recorded as failed.

The package of submitit waits for results in order, stops at the first job that was killed while the others go on, and
learns of a killed job from `sacct` alone, which a cluster without accounting does not have.
"""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
from omegaconf import open_dict

from hero_lightning.config import sweep
from hero_lightning.errors import ConfigError, cause

log = logging.getLogger(__name__)

POLL = 2.0
"""Seconds between two looks at the queue."""
GRACE = 30.0
"""Seconds that a result may come later than its job leaves the queue: network file systems are slow."""


class HeroSlurmLauncher(SlurmLauncher):
    """Submits the jobs of a sweep as one array and waits for all of them; options as in `submitit_slurm`."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Called by Hydra's sweeper."""
        import submitit
        from submitit.core.utils import FailedJobError

        assert self.config is not None
        given = {k: v for k, v in self.params.items() if v is not None}
        retries = given.pop("max_num_timeout")
        executor = submitit.AutoExecutor(given.pop("submitit_folder"), cluster="slurm", slurm_max_num_timeout=retries)
        general = {f.name for f in fields(BaseQueueConf)}  # submitit's names for every kind of cluster
        executor.update_parameters(**{k if k in general else f"slurm_{k}": v for k, v in given.items()})
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        states = [Singleton.get_state()] * len(numbers)
        keys, ids = ["hydra.sweep.dir"] * len(numbers), [f"job_id_for_{n}" for n in numbers]
        try:
            jobs = executor.map_array(self, [list(o) for o in job_overrides], keys, numbers, ids, states)
        except FailedJobError as error:
            sweep.exit_with(ConfigError("Slurm does not take the jobs.", got=cause(error), where="hydra.launcher"))
        log.info("Slurm array %s: %d jobs", jobs[0].job_id.partition("_")[0], len(jobs))
        results: dict[int, JobReturn] = {}
        unlisted: dict[int, float] = {}
        while len(results) < len(jobs):
            listed = _queue()
            for i, job in enumerate(jobs):
                if i in results:
                    continue
                if job.paths.result_pickle.exists():
                    results[i] = self._result(job, job_overrides[i], numbers[i])
                elif listed is not None and job.job_id not in listed:
                    if time.monotonic() - unlisted.setdefault(i, time.monotonic()) > GRACE:
                        results[i] = self._lost(job, job_overrides[i], numbers[i], "ended by Slurm")
                else:
                    unlisted.pop(i, None)
            time.sleep(POLL)
        return [results[i] for i in range(len(jobs))]

    def _result(self, job: Any, overrides: Sequence[str], number: int) -> JobReturn:
        from submitit.core.utils import FailedJobError, UncompletedJobError

        try:
            out = job.results()[0]
        except (FailedJobError, UncompletedJobError) as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            return self._lost(job, overrides, number, lines[-1].strip())
        sweep.show_end(Path(out.hydra_cfg.hydra.runtime.output_dir))
        return out

    def _lost(self, job: Any, overrides: Sequence[str], number: int, error: str) -> JobReturn:
        """Records the failure of a job that could not do so itself."""
        assert self.config is not None
        assert self.hydra_context is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config.hydra.job):
            config.hydra.job.num, config.hydra.job.id = number, job.job_id
        folder = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir).absolute()
        sweep.fail(folder, f"{error}; log: {job.paths.stderr}", config.hydra)
        out = JobReturn(overrides=list(overrides), cfg=config)
        out.return_value, out.status = None, JobStatus.COMPLETED
        return out


def _queue() -> set[str] | None:
    """Ids of this user's jobs in the queue, array elements one by one; None where the controller does not answer."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return set(done.stdout.split()) if done.returncode == 0 else None
