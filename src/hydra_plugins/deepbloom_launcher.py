"""Hydra's launcher for ``deepbloom train -m``: each job in a process of its own.

Hydra finds it here by its own rules: a plugin must live in the namespace package ``hydra_plugins``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


class ProcessLauncher(Launcher):
    """Composes every job's config first, so that a mistake in one is found before any is begun; then runs them."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from deepbloom.commands.sweep import run_jobs

        # Hydra's sweeper leaves its own settings there; a run's are in the run's folder.
        Path(self.config.hydra.sweep.dir, "multirun.yaml").unlink(missing_ok=True)
        configs: list[Any] = []
        for overrides in job_overrides:
            job = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(job):
                del job["hydra"]
            configs.append(OmegaConf.to_object(job))
        run_jobs(configs)
        return [JobReturn(status=JobStatus.COMPLETED) for _ in configs]


ConfigStore.instance().store(
    group="hydra/launcher",
    name="process",
    node={"_target_": "hydra_plugins.deepbloom_launcher.ProcessLauncher"},
    provider="deepbloom",
)
