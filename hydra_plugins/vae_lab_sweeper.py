"""Hydra's grid of trials, of which only those without an outcome are launched.

Hydra takes sweepers from the package `hydra_plugins` alone, and imports what lies here with every command: so this file
is short, and imports what it needs when it sweeps.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write


class TrialSweeper(BasicSweeper):
    """Runs each point of the grid in a folder named by its overrides, and what has an outcome not again.

    Args:
        max_batch_size: trials handed to the launcher at once; None hands over all of them.
        params: what is swept, as in `model.nlatent: 2,4,8`; the command line's choices come before these.
        retry_failed: whether trials that failed or diverged are run again.
    """

    def __init__(
        self, max_batch_size: int | None = None, params: dict[str, str] | None = None, *, retry_failed: bool = False
    ) -> None:
        super().__init__(max_batch_size, params)
        self.retry_failed = retry_failed

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Prepare the launcher, for no more trials at once than there are cores.

        Raises:
            ValueError: if what is to be swept is a search.
        """
        from vae_lab.launchers import adapt

        if "search" in config:
            raise ValueError(
                "vae_lab.tune takes neither -m nor sweep=: search.space says what is tried; start it several times for"
                " several trials at once."
            )
        with read_write(config):
            ndevices = config.trainer.devices
            adapt(config.hydra, ndevices if isinstance(ndevices, int) else 1)
            self.max_batch_size = config.hydra.sweeper.max_batch_size
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:  # noqa: ANN401
        """Run what is missing.

        Raises:
            SweepFailed: if a trial has no result in the end.
        """
        from vae_lab.launchers import shares_fate
        from vae_lab.ranks import ranks
        from vae_lab.sweep import complete, sweep_name
        from vae_lab.trial import Trial, digest, key

        assert self.config is not None
        assert self.hydra_context is not None
        if ranks().size > 1:
            raise ValueError(
                "-m: one process runs a sweep, and starts others for trainer.devices=2; leave torchrun or srun out."
            )
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        parsed = parser.parse_overrides([*self._parse_config(), *arguments])
        for override in parsed:
            if override.get_key_element() in ("folder", "resume"):
                raise ValueError(f"{override.input_line}: a sweep names its folders itself; group= names the sweep.")
        for text in self.config.hydra.overrides.hydra:
            if key(text) == "hydra.run.dir":  # as folder= is given to Hydra
                raise ValueError(f"{text}: a sweep names its folders itself; group= names the sweep.")
        (grid,) = self.split_arguments(parsed, None)
        swept = {override.get_key_element() for override in parsed if override.is_sweep_override()}
        fixed = [text for text in grid[0] if text.partition("=")[0] not in swept and key(text) != "launcher"]
        group = self.config.get("group") or sweep_name(fixed, sorted(swept))
        with read_write(self.config):
            place = Path(self.config.hydra.sweep.dir).absolute()  # workers may have another working directory
            self.config.hydra.sweep.dir = str(place / re.sub(r"[^\w.,=-]+", "_", group))
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        trials = list(dict.fromkeys(Trial(tuple(texts), folder / digest(texts)) for texts in grid))
        self.validate_batch_is_legal([t.overrides for t in trials if t.is_hole(retry_failed=self.retry_failed)])
        names = ",".join(f"'{key(text)}'" for text in fixed)
        hidden = f"hydra.job.config.override_dirname.exclude_keys=[{names}]"
        self.launched = 0

        def launch(due: Sequence[Trial]) -> None:
            for batch in self.split_overrides_to_chunks(
                [self._job(trial, hidden) for trial in due], self.max_batch_size
            ):
                assert self.launcher is not None
                self.launcher.launch(batch, initial_job_idx=self.launched)
                self.launched += len(batch)

        complete(trials, launch, shared_fate=shares_fate(self.config.hydra), retry_failed=self.retry_failed)

    def _job(self, trial: Any, hidden: str) -> list[str]:  # noqa: ANN401
        """Return a trial's overrides, with those that tell the job its folder and which of them are swept."""
        folder = f"hydra.sweep.dir='{trial.folder.parent}'"
        return [*trial.overrides, folder, f"hydra.sweep.subdir={trial.folder.name}", hidden]
