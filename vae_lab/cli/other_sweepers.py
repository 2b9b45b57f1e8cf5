"""Support for Hydra sweepers other than vae_lab's own, such as `hydra/sweeper=basic`."""

import os
import time
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

FOLDER = "hydra.sweep.dir"
FIXED = "hydra.job.config.override_dirname.exclude_keys"
NO_SWEEP = (
    "vae_lab.tune takes neither -m nor sweep=: search.space defines its trials; start the command several times to run"
    " trials in parallel."
)


def is_own(hydra: Any) -> bool:  # noqa: ANN401
    """Return whether Hydra's sweeper is vae_lab's `TrialSweeper`; `hydra` is the `hydra` part of a config."""
    return str(hydra.sweeper.get("_target_", "")).endswith(".TrialSweeper")


class SweepFolder(Callback):
    """A callback that names the sweep folder of any other sweeper by time, and its job folders by the swept settings.

    Settings that are typed are kept. The defaults are added to the overrides of Hydra's own settings, from which the
    config of each job is composed.
    """

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        """Add overrides that name the folders, unless the command line has its own."""
        hydra = config.hydra
        if is_own(hydra):
            return
        typed: list[str] = OmegaConf.to_container(hydra.overrides.hydra, resolve=False)  # pyright: ignore[reportAssignmentType]
        added: list[str] = []
        if not any(text.lstrip("+").startswith(f"{FOLDER}=") for text in typed):
            name = f"{time.strftime('%Y-%m-%d/%H-%M-%S')}-{os.environ.get('VAE_LAB_RUN', 'sweep')}"
            added.append(f"{FOLDER}={hydra.sweep.dir}/{name}")
        if not any(text.lstrip("+").startswith(f"{FIXED}=") for text in typed):
            names = ",".join(f"'{key}'" for key in fixed_keys(hydra.overrides.task))
            added.append(f"{FIXED}=[{names}]")
        with read_write(config), open_dict(config):
            for text in added:
                hydra.overrides.hydra.append(text)
                if text.startswith(FOLDER):
                    hydra.sweep.dir = text.partition("=")[2]


def fixed_keys(overrides: Any) -> list[str]:  # noqa: ANN401
    """Return the keys of the overrides with a single value, which all jobs of a sweep share."""
    texts: list[str] = OmegaConf.to_container(overrides, resolve=False)  # pyright: ignore[reportAssignmentType]
    parsed = OverridesParser.create().parse_overrides(texts)
    return sorted({one.get_key_element().lstrip("+~") for one in parsed if not one.is_sweep_override()})
