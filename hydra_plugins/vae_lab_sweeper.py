"""The Hydra sweeper of vae_lab, which runs the trials of a grid that have no outcome yet.

Hydra takes sweepers from the package `hydra_plugins` alone, and imports what lies here with every command: so this file
is short, and imports what it needs when it sweeps.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write


class TrialSweeper(BasicSweeper):
    """A sweeper that runs each grid point in a folder named by a hash of its overrides, unless it has an outcome.

    Args:
        max_batch_size: trials that the launcher gets at once; None for all.
        params: swept settings, as in `model.nlatent: 2,4,8`; the command line overrides them.
        retry_failed: whether trials that failed or diverged are run again.
        zip: groups of settings that change together, as in [[model.nlatent,optimizer.lr]].
    """

    config: DictConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    hydra_context: HydraContext  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        max_batch_size: int | None = None,
        params: dict[str, str] | None = None,
        *,
        retry_failed: bool = False,
        zip: Sequence[Sequence[str]] = (),  # noqa: A002 - the name of the setting
    ) -> None:
        super().__init__(max_batch_size, params)
        self.retry_failed = retry_failed
        self.zipped = [list(group) for group in zip]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store the arguments; `sweep` creates the launcher once the number of parallel trials is known.

        Raises:
            ValueError: if the command is a search.
        """
        if "search" in config:
            from vae_lab.cli.other_sweepers import NO_SWEEP

            raise ValueError(NO_SWEEP)
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:  # noqa: ANN401
        """Run the trials of the grid that have no outcome yet.

        Raises:
            SweepFailed: if a trial has no result in the end.
        """
        from vae_lab.cli.hydra_files import save_config
        from vae_lab.runs.identity import identity
        from vae_lab.sweeps.grid import complete, rows_of_grid, sweep_name, with_images
        from vae_lab.sweeps.launchers import shares_fate, warn_of_pickles
        from vae_lab.sweeps.trial import NOT_HASHED, Trial, config_flags, digest, with_threads
        from vae_lab.system.processes import ranks
        from vae_lab.system.quoting import key

        if ranks().size > 1:
            raise ValueError(
                "-m: one process runs a sweep, and starts others for trainer.devices=2; leave torchrun or srun out."
            )
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        parsed = parser.parse_overrides([*self._parse_config(), *arguments])
        self._refuse(parsed)
        grid = rows_of_grid(parsed, self.zipped)
        swept = {key(override.get_key_element()) for override in parsed if override.is_sweep_override()}
        fixed = [text for text in grid[0] if key(text) not in {*swept, *NOT_HASHED}]
        group = self.config.get("group") or sweep_name(fixed, sorted(swept))
        with read_write(self.config):
            place = Path(self.config.hydra.sweep.dir).absolute()  # workers may have another working directory
            self.config.hydra.sweep.dir = str(place / re.sub(r"[^\w.,=-]+", "_", group))
        folder = Path(self.config.hydra.sweep.dir)
        threads = self._settle_threads(grid, folder)  # which are no part of a trial's name
        folder.mkdir(parents=True, exist_ok=True)
        save_config(self.config, folder / "multirun.yaml")
        warn_of_pickles(grid, self.config.hydra, folder)
        flags = config_flags(self.config.hydra, "train")
        composed: dict[Path, object] = {}
        plain: dict[Path, object] = {}
        trials: dict[Path, Trial] = {}
        for texts, number in zip(grid, threads, strict=True):
            trial = Trial(with_threads(texts, number), folder / digest(texts), flags=flags)
            composed[trial.folder], plain[trial.folder] = self._compose(trial)
            trials[trial.folder] = trial._replace(
                identity=identity(plain[trial.folder]), swept=tuple(text for text in texts if key(text) in swept)
            )
        self.launched = 0

        def launch(due: Sequence[Trial]) -> None:
            for batch in self.split_overrides_to_chunks([self._job(trial) for trial in due], self.max_batch_size):
                assert self.launcher is not None
                self.launcher.launch(batch, initial_job_idx=self.launched)
                self.launched += len(batch)

        complete(
            with_images([*trials.values()], plain),
            launch,
            shared_fate=shares_fate(self.config.hydra),
            retry_failed=self.retry_failed,
            configs=composed,
        )

    def _refuse(self, parsed: Sequence[Override]) -> None:
        """Raise ValueError if one of the overrides is not supported in a grid."""
        from vae_lab.system.quoting import key

        for override in parsed:
            if override.get_key_element() in ("folder", "resume", "name"):
                raise ValueError(f"{override.input_line}: a sweep names its trials itself; group= names the sweep.")
            if override.is_sweep_override() and not override.is_discrete_sweep():
                raise ValueError(
                    f"{override.input_line}: a sweep takes a list of values, as in optimizer.lr=1e-4,1e-3; to search an"
                    " interval, use python -m vae_lab.tune with search.space."
                )
        typed = OmegaConf.to_container(self.config.hydra.overrides.hydra, resolve=False)
        for text in map(str, typed or ()):
            if key(text) == "hydra.run.dir":  # as folder= is given to Hydra
                raise ValueError(f"{text}: a sweep names its folders itself; group= names the sweep.")
            if key(text) == "hydra.sweep.subdir":
                raise ValueError(
                    f"{text}: a sweep names its trials by their settings, to find them again; hydra/sweeper=basic names"
                    " them as you say."
                )

    def _compose(self, trial: Any) -> tuple[object, object]:  # noqa: ANN401
        """Return a trial's config as plain values, unresolved and resolved."""
        from vae_lab.sweeps.trial import resolved

        config = self.hydra_context.config_loader.load_sweep_config(self.config, [*trial.overrides])
        with read_write(config), open_dict(config):
            config.hydra.runtime.output_dir = str(trial.folder)  # as Hydra sets it once the trial runs
        singleton = HydraConfig.instance()
        before = singleton.cfg
        singleton.set_config(config)  # for what refers to hydra:, as folder does
        try:
            own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            return OmegaConf.to_container(own), resolved(own)
        finally:
            singleton.cfg = before

    def _settle_threads(self, grid: Sequence[Sequence[str]], folder: Path) -> list[int]:
        """Return the number of threads of each trial, and create the launcher."""
        from vae_lab.sweeps.launchers import settle_trial_threads
        from vae_lab.sweeps.trial import typed_threads

        config, ndevices = self.config, self.config.trainer.devices
        settings = [typed_threads(texts, config.threads) for texts in grid]
        ndevices = ndevices if isinstance(ndevices, int) else 1
        with read_write(config):
            threads = settle_trial_threads(config.hydra, settings, folder, ndevices)
            self.max_batch_size = config.hydra.sweeper.max_batch_size
        super().setup(hydra_context=self.hydra_context, task_function=self.task_function, config=config)
        return threads

    def _job(self, trial: Any) -> list[str]:  # noqa: ANN401
        """Return the overrides of a trial, and those that set Hydra's output folder to the trial's."""
        from vae_lab.system.quoting import quote_override

        folder = quote_override("hydra.sweep.dir", trial.folder.parent)
        name = quote_override("hydra.sweep.subdir", trial.folder.name)  # 8e59810590 would be a number
        return [*trial.overrides, folder, name]
