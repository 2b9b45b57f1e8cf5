"""`python -m vae_lab.train`: train a VAE and test it; write pictures, metrics and checkpoints to a run folder.

python -m vae_lab.train                                            bundled digits, no network needed
python -m vae_lab.train data=mnist data.root=<folder>              MNIST
python -m vae_lab.train data=monet data.root=<folder> model.nlatent=8
python -m vae_lab.train -m model.nlatent=2,8,32 optimizer.lr=5e-4,1e-3
python -m vae_lab.train sweep=latents_by_lr launcher=joblib
"""

import logging
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vae_lab.cli.console import ConsoleHandler
from vae_lab.cli.entry import command, folder_to_run_dir, settle_threads
from vae_lab.cli.other_sweepers import is_own
from vae_lab.cli.overrides import settle_limits
from vae_lab.runs.configs import check_config, foreign_packages
from vae_lab.runs.folder import command as command_line
from vae_lab.runs.folder import locate, read_summary
from vae_lab.runs.identity import identity
from vae_lab.runs.labels import as_folder_name, checked_name
from vae_lab.runs.packages import NEVER
from vae_lab.sweeps.launchers import launcher_name, shares_fate
from vae_lab.sweeps.trial import Trial, config_flags, label, resolved, run_trial, short_names, swept_keys, with_threads
from vae_lab.system.folders import seen_from_here
from vae_lab.system.masking import masked
from vae_lab.system.processes import end_with_parent, ranks
from vae_lab.system.quoting import command_line as to_type
from vae_lab.system.quoting import key, parse, quote_override
from vae_lab.training.checks import check_settings
from vae_lab.training.resume import continued, with_run_folders

log = logging.getLogger("vae_lab.train")  # __main__, as a command, is no part of vae_lab


def as_one_run(arguments: list[str]) -> list[str]:
    """Return a command line with the settings of the run to resume, and with folder= replaced by hydra.run.dir=.

    The name of the run becomes a part of VAE_LAB_RUN, with which the name of a new run folder ends.
    """
    alone = continued(with_run_folders(arguments))
    typed = [parsed.value() for text in alone if key(text) == "name" and (parsed := parse(text)) is not None]
    if typed and typed[-1] is not None and not {"-m", "--multirun"} & set(arguments):
        name = as_folder_name(checked_name(typed[-1]))
        os.environ["VAE_LAB_RUN"] = f"{name}-{os.environ['VAE_LAB_RUN']}"
    return folder_to_run_dir(alone)


@command("train", as_one_run)
def main(cfg: DictConfig) -> None:
    """Train one run, or one trial of a sweep."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        train_in_sweep(cfg)
    else:
        train_checked(cfg)
        if ranks().rank == 0:
            say_next(cfg)


def say_next(cfg: DictConfig) -> None:
    """Log the paths of a completed run's pictures, and a command to continue with."""
    folder = seen_from_here(Path(cfg.folder))
    if read_summary(folder).get("status") != "completed":
        return
    pictures = ", ".join(path.name for path in sorted(Path(folder, "figures").glob("*.png")))
    if pictures:
        log.info("pictures: %s", folder / "figures" / pictures)
    packages = sorted(foreign_packages(parts_of(cfg)) - NEVER)
    trust = [f"trust=[{','.join(packages)}]"] if packages else []
    line = to_type("generate", [quote_override("run", folder), *trust])
    if shutil.which("python") != sys.executable:  # as after `make train`
        line = line.replace("python", shlex.quote(str(seen_from_here(Path(sys.executable)))), 1)
    log.info("next: %s, or evaluate, which writes a page", line)


def parts_of(cfg: DictConfig) -> dict[str, Any]:
    """Return the resolved configs of a run's model and data, from which other commands load the run."""
    return {role: OmegaConf.to_container(cfg[role], resolve=True) for role in ("model", "data")}


def train_checked(cfg: DictConfig) -> None:
    """Check the config of a run, set its threads, and train it in one process or in one per device."""
    hydra = HydraConfig.get()
    overrides = list(hydra.overrides.task)
    settle_limits(cfg, overrides)
    check_settings(cfg)
    say_packages(cfg)
    ndevices = cfg.trainer.devices
    alone = ranks().size > 1 or not isinstance(ndevices, int) or ndevices < 2
    settle_threads(cfg, nprocesses=1 if alone else ndevices, kept=threads_of(cfg.resume))
    keep_wandb_run(cfg)
    line = command_line(with_threads(overrides, cfg.threads), config_flags(hydra, "train"))
    facts = {"overrides": masked(overrides), "command": line}
    if not alone:
        from vae_lab.training.distributed.launch import launch

        launch(cfg, ndevices, facts)
        return
    from vae_lab.training.run import (
        train_run,  # Lightning takes seconds, which --help and wrong settings need not wait for
    )

    train_run(cfg, facts=facts)


def keep_wandb_run(cfg: DictConfig) -> None:
    """Set the W&B id to that of the resumed run if it goes on in its own folder and no id was given."""
    if cfg.resume is None or "wandb" not in cfg.logger or cfg.logger.wandb.id is not None:
        return
    at = locate(cfg.resume, "last").folder
    if at == Path(cfg.folder).absolute():
        cfg.logger.wandb.id = read_summary(at).get("wandb_id")


def threads_of(run: str | None) -> int | None:
    """Return the recorded number of threads of the run to resume; None without a run or a recorded number."""
    number = None if run is None else read_summary(locate(run, "last").folder).get("threads")
    return number if isinstance(number, int) else None


def train_in_sweep(cfg: DictConfig) -> None:
    """Train a trial of a sweep unless it already has an outcome."""
    hydra = HydraConfig.get()
    if shares_fate(hydra):
        end_with_parent()
    folder, own = Path(cfg.folder), is_own(hydra)
    overrides = tuple(map(str, OmegaConf.to_container(hydra.overrides.task, resolve=False) or ()))
    keys = swept_keys(Path(hydra.runtime.cwd) / hydra.sweep.dir)
    swept = tuple(text for text in overrides if key(text) in keys)
    if swept and launcher_name(hydra) != "BasicLauncher":  # the lines of several trials are mixed
        ConsoleHandler.prefix = f"{short_names(swept)}: "
    trial = Trial(overrides, folder, identity(resolved(cfg)), flags=config_flags(hydra, "train"), swept=swept)

    def work(resume: str | None, wandb_id: str | None) -> None:
        cfg.resume = resume
        label(cfg, Path(hydra.sweep.dir).name, swept, wandb_id)
        train_checked(cfg)

    others = "" if own else trial.made_of_other()
    if others:
        raise ValueError(f"{folder} holds a run of other {others}; name another place with hydra.sweep.dir=.")
    try:  # a stock sweeper runs failed trials again
        run_trial(trial, work, retry_failed=not own or hydra.sweeper.retry_failed)
    except SystemExit:
        if "SUBMITIT_EXECUTOR" in os.environ:  # submitit ends a job that goes back to the queue this way
            raise
        log.warning("trial %s ended by sys.exit", trial.name)


def say_packages(cfg: DictConfig) -> None:
    """Log which packages other commands must trust to load this run, or warn that they will refuse to load it."""
    parts = parts_of(cfg)
    foreign = foreign_packages(parts)
    if not foreign:
        return
    packages = sorted(foreign - NEVER)
    try:
        for role, config in parts.items():
            check_config(config, role, packages)
    except ValueError as error:
        if error.__cause__ is None:  # else a class cannot be imported, with which the run ends anyway
            log.warning("generate, evaluate and detect will refuse this run: %s", error)
        return
    if packages:
        log.info("generate, evaluate and detect read this run with trust=[%s]", ",".join(packages))


if __name__ == "__main__":
    main()
