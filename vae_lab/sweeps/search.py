"""Hyperparameter search with Optuna; several processes can share a study."""

import difflib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import optuna
from lightning import Callback, Trainer
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from vae_lab.errors import StorageError
from vae_lab.reporting.ranking import caution
from vae_lab.reporting.untrusted_files import is_number
from vae_lab.runs.folder import read_summary
from vae_lab.runs.identity import describe_changes, differences, identity
from vae_lab.sweeps.trial import Trial, digest, run_held, typed_threads, with_threads
from vae_lab.system.locks import hold, holder
from vae_lab.system.quoting import quote_typed
from vae_lab.system.threads import AUTO
from vae_lab.training.tasks.task import Task

log = logging.getLogger(__name__)

CONTINUES = "continues"
"""The attribute of a trial that stands in for a killed one: that one's number."""
METRICS = "metrics"
"""The attribute of a study that names its metrics."""
MADE_OF = "made of"
"""The attribute of a study that tells what decides its results."""
REMEDY = "give this search another name, or leave search.study out"
POLL = 0.1  # seconds between two tries to be the one that asks

Train = Callable[[Trial, str | None, str | None, Sequence[Callback]], object]
"""Trains a trial, from a run to go on from and its W&B id, with callbacks beside those of its config."""


class Search(NamedTuple):
    """What is searched, as conf/search/*.yaml describes it.

    Attributes:
        study: its name.
        ntrials: trials in all, those of earlier calls and of other processes included.
        storage: Optuna's URL; None for a sqlite file in `folder`.
        space: settings or groups, and the values that they may take.
        metrics: numbers of a run's summary, "minimize" or "maximize".
        sampler: proposes.
        pruner: ends what looks poor, or None.
        folder: where the runs lie.
        fixed: overrides that all trials share.
        flags: what else a trial's command line needs.
        made_of: what decides the results, by dotted keys; a study that is there was made of the same.
        threads: those of each trial, whose name does not depend on them; None leaves them to the process.
    """

    study: str
    ntrials: int
    storage: str | None
    space: Mapping[str, BaseDistribution]
    metrics: Mapping[str, str]
    sampler: optuna.samplers.BaseSampler
    pruner: optuna.pruners.BasePruner | None
    folder: Path
    fixed: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    made_of: Mapping[str, object] = MappingProxyType({})
    threads: int | None = None


class Pruning(Callback):
    """Tells Optuna of every validation, and ends the run when Optuna says so.

    Args:
        asked: Optuna's trial.
        metric: the number of a validation that is told.
    """

    def __init__(self, asked: optuna.Trial, metric: str) -> None:
        self.asked = asked
        self.metric = metric

    def on_validation_end(self, trainer: Trainer, pl_module: Task) -> None:
        """Tell, and ask."""
        seen = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self.metric not in seen:
            raise ValueError(f"search.metrics: {missing(self.metric, seen)} in a validation.")
        value = seen[self.metric]
        self.asked.report(value, step=trainer.global_step)
        if self.asked.should_prune() and not trainer.should_stop:
            raise optuna.TrialPruned(f"{self.metric} was {value:.2f} after {trainer.global_step} steps.")


def missing(metric: str, there: Mapping[str, object]) -> str:
    """Return in words that there is no such number, and the nearest of those that there are."""
    near = difflib.get_close_matches(metric, [name for name, value in there.items() if is_number(value)], 5, cutoff=0.0)
    return f"there is no finite {metric}, but {', '.join(near) or 'nothing'}"


def check(search: Search) -> None:
    """Raise ValueError if what is searched, or for what, cannot be."""
    if not search.space or not search.metrics:
        raise ValueError("search.space and search.metrics need an entry each, as in conf/search/latents_by_lr.yaml.")
    for key, values in search.space.items():
        if not isinstance(values, BaseDistribution):
            raise ValueError(f"search.space: {key} is {values}; it must be one of optuna.distributions.")
    for metric, direction in search.metrics.items():
        if str(direction).upper() not in ("MINIMIZE", "MAXIMIZE"):
            raise ValueError(f"search.metrics: {metric} is {direction}; it must be minimize or maximize.")
        if caution(metric):
            log.warning("search.metrics: %s", caution(metric))


@contextmanager
def storage_told(search: Search) -> Iterator[None]:
    """Say in a sentence what is wrong with the storage.

    Raises:
        ValueError: if its URL is none, or needs a driver that is not installed.
        StorageError: if it cannot be reached or written.
    """
    import sqlalchemy.exc  # optuna's

    try:
        yield
    except sqlalchemy.exc.ArgumentError as error:  # which does not repeat the URL: it may hold a password
        raise ValueError(f"search.storage is no URL of a database, such as sqlite:///study.db: {error}.") from error
    except ImportError as error:
        raise ValueError(f"search.storage needs a driver: {error.__cause__ or error}.") from error
    except (sqlalchemy.exc.DBAPIError, StorageInternalError) as error:
        at = search.storage.partition("://")[0] if search.storage else "sqlite"
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        raise StorageError(f"search.storage ({at}): {getattr(cause, 'orig', None) or error}.") from error


def open_study(search: Search) -> optuna.Study:
    """Return the study, new or as it was left.

    Raises:
        ValueError: if it is there and has other metrics, or cannot be searched.
    """
    check(search)
    optuna.logging.disable_default_handler()
    url = search.storage or f"sqlite:///{search.folder / 'study.db'}"
    patience = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}  # seconds to wait for a writer
    names = list(search.metrics)
    asked = [StudyDirection[direction.upper()] for direction in search.metrics.values()]
    with claimed(search.folder):
        study = optuna.create_study(
            study_name=search.study,
            storage=optuna.storages.RDBStorage(url, engine_kwargs=patience),
            sampler=search.sampler,
            pruner=search.pruner or optuna.pruners.NopPruner(),
            directions=asked,
            load_if_exists=True,
        )
        if study.directions != asked or study.user_attrs.get(METRICS, names) != names:
            raise ValueError(f"search.study={search.study} is there with other metrics; {REMEDY}.")
        require_same(study, search)
        study.set_user_attr(METRICS, names)
    return study


def require_same(study: optuna.Study, search: Search) -> None:
    """Raise ValueError if a study that is there was made of something else than the search; a new one takes note."""
    before = study.user_attrs.get(MADE_OF)
    if before is None and study.get_trials(deepcopy=False):
        raise ValueError(f"search.study={search.study} is there and does not say what it was made of; {REMEDY}.")
    changes = [] if before is None else differences(before, search.made_of, ())
    if changes:
        raise ValueError(
            f"search.study={search.study} is there and was made with {describe_changes(changes)}; {REMEDY}."
        )
    study.set_user_attr(MADE_OF, dict(search.made_of))


def run_search(search: Search, train: Train) -> optuna.Study:
    """Return the study once it has its number of trials, whoever ran them.

    Raises:
        Interrupted: if a signal ended the work; the same call goes on.
    """
    study = open_study(search)
    while True:
        with ExitStack() as held:
            with claimed(search.folder):
                make_up_for_killed(study)
                if len(begun(study)) >= search.ntrials:
                    return study
                asked = study.ask(dict(search.space))
                trial = described(asked.params, search)
                asked.set_user_attr("folder", str(trial.folder))
                mine = held.enter_context(hold(trial.folder))
            if mine:
                answer(study, asked, trial, search, train)
                continue
        log.info("trial %d waits for %s, which another process trains", asked.number, trial.name)
        while holder(trial.folder) is not None:  # then it is made up for, from what lies there
            time.sleep(POLL)


def described(params: Mapping[str, Any], search: Search) -> Trial:
    """Return the trial of some parameters; its folder follows from them, so that they are never trained twice."""
    tried = tuple(quote_typed(f"{key}={'null' if value is None else value}") for key, value in params.items())
    overrides = (*search.fixed, *tried)
    folder = search.folder / digest([*overrides, identity(search.made_of)])
    if search.threads is not None and typed_threads(overrides, AUTO) == AUTO:
        overrides = with_threads(overrides, search.threads)
    return Trial(overrides, folder, flags=search.flags, swept=tried)


def answer(study: optuna.Study, asked: optuna.Trial, trial: Trial, search: Search, train: Train) -> None:
    """Run a trial and tell the study how it ended."""
    metrics = list(search.metrics)
    watchers = [Pruning(asked, metrics[0])] if search.pruner and len(metrics) == 1 else []
    try:
        run_held(trial, lambda resume, wandb_id: train(trial, resume, wandb_id, watchers))
    except Exception as error:  # it is recorded; the search goes on
        log.warning("trial %d: %s", asked.number, error)
    summary = read_summary(trial.folder)
    status, reason = summary.get("status"), str(summary.get("reason", ""))
    lacking = [metric for metric in metrics if not is_number(summary.get(metric))] if status == "completed" else []
    if lacking:
        numbers = {name: value for name, value in summary.items() if "/" in name}
        status, reason = "without a result", f"search.metrics: {missing(lacking[0], numbers)} in its summary.json."
    asked.set_user_attr("reason", reason)
    if status == "completed":
        study.tell(asked, [summary[metric] for metric in metrics])
    else:
        study.tell(asked, state=TrialState.PRUNED if status == "pruned" else TrialState.FAIL)
    log.info("trial %d is %s, in %s", asked.number, status, trial.folder)


def begun(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that are done or under way, each killed one replaced by the one that stands in for it."""
    trials = study.get_trials(deepcopy=False)
    replaced = {trial.user_attrs.get(CONTINUES) for trial in trials}
    return [trial for trial in trials if trial.state != TrialState.WAITING and trial.number not in replaced]


def make_up_for_killed(study: optuna.Study) -> None:
    """Queue the parameters of every trial whose process is gone; it goes on from its checkpoint."""
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        folder = trial.user_attrs.get("folder")
        if folder is not None and holder(Path(folder)) is not None:
            continue
        if study.get_trials(deepcopy=False)[trial.number].state != TrialState.RUNNING:
            continue  # told meanwhile: that comes before the folder is let go
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs={CONTINUES: trial.number})


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Wait until no other process asks for a trial."""
    while True:
        with hold(folder) as mine:
            if mine:
                yield
                return
        time.sleep(POLL)


def best_of(study: optuna.Study) -> list[FrozenTrial]:
    """Return the best trial, or with several metrics those that no other one beats in each; none is completed: none."""
    if not study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        return []
    return study.best_trials
