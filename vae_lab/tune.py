"""`python -m vae_lab.tune`: search for the best settings with Optuna; each trial is a training run.

python -m vae_lab.tune data=mnist data.root=<folder> trainer.max_steps=500
python -m vae_lab.tune search=rate_distortion search.ntrials=40 search.study=mine
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vae_lab.cli.entry import command, settle_threads
from vae_lab.cli.hydra_files import save_config
from vae_lab.cli.other_sweepers import NO_SWEEP
from vae_lab.cli.overrides import normalise_overrides, search_path, settle_limits
from vae_lab.errors import require_count
from vae_lab.runs.configs import build
from vae_lab.runs.identity import WITHOUT_EFFECT, below, flat, identity, images_digest
from vae_lab.sweeps.trial import Trial, config_flags, label
from vae_lab.system.masking import masked
from vae_lab.system.quoting import key, quote_override
from vae_lab.system.threads import AUTO, Threads, keep_threads, kept_threads
from vae_lab.training.checks import check_settings
from vae_lab.training.resume import with_run_folders

if TYPE_CHECKING:
    from lightning import Callback

    from vae_lab.sweeps.search import Search

REFUSED = {
    "folder": "a search names its folders itself; search.study= names the search",
    "name": "a search names its trials itself; search.study= names the search",
    "group": "the trials of a search are grouped by its name, search.study=",
    "resume": "a search goes on by itself if its command is given again",
    "launcher": "a search trains one trial at a time; start it several times for several at once",
}
"""Settings of a run that a search refuses, with the reason."""


@command("tune", with_run_folders)
def main(cfg: DictConfig) -> None:
    """Run the trials of a study, and log the best one."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:  # of a stock sweeper; our own refuses it sooner
        raise ValueError(NO_SWEEP)
    require_count("search.ntrials", cfg.search.ntrials)
    if cfg.trainer.devices not in (1, "auto"):
        raise ValueError(
            f"trainer.devices={cfg.trainer.devices}: a search trains each trial on one device; start it several times."
        )
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ValueError("vae_lab.tune needs Optuna: pip install 'vae_lab[tune]'.") from error
    from vae_lab.sweeps.results import conclude
    from vae_lab.sweeps.search import open_study, run_search, states_of, storage_told

    search = read_search(cfg)
    with storage_told(search):
        open_study(search)  # fails before anything else is written to its folder
        search = search._replace(threads=settle_study_threads(cfg, search.folder))
        states = states_of(run_search(search, train_trial), search)
    lowest = {name: way.lower() == "minimize" for name, way in search.metrics.items()}
    conclude(states, "search.retry_failed=true", lowest)


def read_search(cfg: DictConfig) -> "Search":
    """Return the search that a config describes; overrides other than search.* apply to every trial.

    Raises:
        ValueError: if an override has no meaning in a search.
    """
    from vae_lab.sweeps.search import Search

    hydra = HydraConfig.get()
    overrides = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    fixed = tuple(str(text) for text in overrides or () if key(str(text)).partition(".")[0] != "search")
    for text in fixed:
        if key(text) in REFUSED:
            raise ValueError(f"{text}: {REFUSED[key(text)]}.")
    flags = config_flags(hydra)
    made_of = study_made_of(cfg, [*search_path(flags), *fixed])
    parts = build(cfg.search)
    name = parts.pop("study") or f"{hydra.runtime.choices['search']}-{identity(made_of)[:8]}"
    folder = Path(hydra.runtime.output_dir) / name
    return Search(**parts, study=name, folder=folder, fixed=fixed, flags=flags, made_of=made_of)


def study_made_of(cfg: DictConfig, fixed: Sequence[str]) -> dict[str, object]:
    """Return what determines a study's results, by dotted key: shared settings, space, metrics, digest of the images.

    The digest is left out if the search chooses the images.

    Raises:
        DataError: if the images cannot be read.
    """
    from vae_lab.runs.load import fingerprint

    config: Any = OmegaConf.to_container(compose("train", [*fixed, "folder=study"]), resolve=True)
    searched: Any = OmegaConf.to_container(cfg.search, resolve=True)
    space = {key: searched[key] for key in ("space", "metrics")}
    made_of = flat(masked(config), WITHOUT_EFFECT) | flat({"search": space})
    if not any(below(key, ["data"]) for key in searched["space"]):
        made_of["images"] = images_digest(fingerprint(config["data"]))
    return made_of


def settle_study_threads(cfg: DictConfig, folder: Path) -> int:
    """Return the number of threads of each trial; for `auto`, the first process of the study chooses it."""
    auto = cfg.threads == AUTO
    settle_threads(cfg, kept=kept_threads(folder) if auto else None)
    return keep_threads(folder, Threads(cfg.threads, "auto")).number if auto else cfg.threads


def train_trial(trial: Trial, watchers: Sequence["Callback"], resume: str | None, wandb_id: str | None) -> None:
    """Train one trial of a search; its folder holds the same files as a run of `vae_lab.train`."""
    from vae_lab.training.run import train_run

    overrides = [*search_path(trial.flags), *normalise_overrides(trial.overrides, "train")]
    cfg = compose("train", [*overrides, quote_override("folder", trial.folder)])
    settle_limits(cfg, trial.overrides)
    hidden = trial.folder / ".hydra"
    hidden.mkdir(exist_ok=True)
    save_config(cfg, hidden / "config.yaml")
    save_config(OmegaConf.create(list(trial.overrides)), hidden / "overrides.yaml")
    check_settings(cfg)
    cfg.resume = resume
    label(cfg, trial.folder.parent.name, trial.swept, wandb_id)
    train_run(cfg, watchers)


if __name__ == "__main__":
    main()
