"""Hyperparameter search with Optuna; several processes can share a study."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import optuna
from lightning import Callback, Trainer
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from vae_lab.cli.entry import print_error
from vae_lab.errors import StorageError
from vae_lab.runs.folder import State, read_summary, state_at_rest
from vae_lab.runs.identity import describe_changes, differences, identity
from vae_lab.runs.metrics import caution
from vae_lab.sweeps.trial import Trial, digest, run_held, typed_threads, wait, with_threads
from vae_lab.system.error_text import nearest
from vae_lab.system.locks import hold, holder
from vae_lab.system.quoting import quote_typed
from vae_lab.system.reading import is_number
from vae_lab.system.threads import AUTO
from vae_lab.training.tasks.task import Task

log = logging.getLogger(__name__)

REPLACES = "replaces"
"""The attribute of a trial that holds the number of the trial that it runs again."""
METRICS = "metrics"
"""The attribute of a study that names its metrics."""
MADE_OF = "made of"
"""The attribute of a study that holds what decides its results."""
REMEDY = "give this search another name, or leave search.study out"

Train = Callable[[Trial, Sequence[Callback], str | None, str | None], object]
"""Trains a trial. Its arguments are the trial, callbacks to add, and those of `Work`."""


class Search(NamedTuple):
    """The settings of a hyperparameter search, as in conf/search/*.yaml.

    Attributes:
        study: name of the study.
        ntrials: number of trials, those of earlier calls and of other processes included.
        storage: Optuna's URL; None for a sqlite file in `folder`.
        space: settings or groups, and the values that they may take.
        metrics: numbers of a run's summary, "minimize" or "maximize".
        sampler: proposes values.
        pruner: ends trials early, or None.
        folder: parent of the run folders.
        fixed: overrides that all trials share.
        flags: other arguments of a trial's command line.
        made_of: what decides the results, by dotted keys; a study goes on only if its own is equal.
        threads: of each trial; its folder does not depend on them. None leaves them to the process.
        retry_failed: whether trials that failed or diverged are run again.
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
    retry_failed: bool = False


class Pruning(Callback):
    """A callback that reports a metric of every validation to Optuna, and ends the run if Optuna prunes it.

    Args:
        asked: Optuna's trial.
        metric: the metric of a validation that is reported.
    """

    def __init__(self, asked: optuna.Trial, metric: str) -> None:
        self.asked = asked
        self.metric = metric

    def on_validation_end(self, trainer: Trainer, pl_module: Task) -> None:
        """Report the metric; raise TrialPruned if Optuna prunes the run, and ValueError if the metric is missing."""
        seen = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self.metric not in seen:
            raise ValueError(f"search.metrics: {missing(self.metric, seen)} in a validation.")
        value = seen[self.metric]
        self.asked.report(value, step=trainer.global_step)
        if self.asked.should_prune() and not trainer.should_stop:
            raise optuna.TrialPruned(f"{self.metric} was {value:.2f} after {trainer.global_step} steps.")


def missing(metric: str, there: Mapping[str, object]) -> str:
    """Return the part of an error message that names a missing metric and up to five similar ones."""
    near = nearest(metric, [name for name, value in there.items() if is_number(value)], 5)
    return f"there is no finite {metric}, but {near or 'nothing'}"


def check(search: Search) -> None:
    """Raise ValueError unless the space and the metrics of a search are valid."""
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
    """Turn errors of Optuna's storage inside the block into ValueError or StorageError.

    Raises:
        ValueError: if the URL is invalid, or needs a driver that is not installed.
        StorageError: if the storage cannot be reached or written.
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
    """Return the Optuna study of a search, which is created if it does not exist.

    Raises:
        ValueError: if the search is invalid, or the study exists with other metrics or settings.
    """
    check(search)
    optuna.logging.disable_default_handler()
    url = search.storage or f"sqlite:///{search.folder / 'study.db'}"
    patience = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}  # seconds to wait for a writer
    names = list(search.metrics)
    asked = [StudyDirection[direction.upper()] for direction in search.metrics.values()]
    with hold(search.folder, waits=True):
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
    """Raise ValueError if the study has other settings than the search; if it is new, store the settings in it."""
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
    """Run trials until the study has `search.ntrials` of them, wait for those of other processes, return the study.

    Args:
        search: what is searched.
        train: trains a trial.

    Raises:
        Interrupted: if a signal ended the work; the same call goes on.
    """
    log.info("%d trials in %s", search.ntrials, search.folder)
    study, starts, goes_on = open_study(search), True, True
    while True:
        with ExitStack() as held:
            with hold(search.folder, waits=True):
                requeue(study, search, failed=starts)
                trials, starts = begun(study), False
                due = [described(one.params, search) for one in trials if one.state == TrialState.RUNNING]
                asked, mine = None, False
                if goes_on and len(trials) < search.ntrials:
                    log.info("trial %d of %d", len(trials) + 1, search.ntrials)
                    asked = study.ask(dict(search.space))
                    due = [described(asked.params, search)]
                    asked.set_user_attr("folder", str(due[0].folder))
                    mine = held.enter_context(hold(due[0].folder))
            if asked and mine:
                goes_on = run_asked(study, asked, due[0], search, train)
        if not due:
            return study
        wait(due)


def described(params: Mapping[str, Any], search: Search) -> Trial:
    """Return the trial with the given parameters; its folder depends only on these, so it is never trained twice."""
    tried = tuple(quote_typed(f"{key}={'null' if value is None else value}") for key, value in params.items())
    overrides = (*search.fixed, *tried)
    folder = search.folder / digest([*overrides, identity(search.made_of)])
    if search.threads is not None and typed_threads(overrides, AUTO) == AUTO:
        overrides = with_threads(overrides, search.threads)
    return Trial(overrides, folder, flags=search.flags, swept=tried)


def run_asked(study: optuna.Study, asked: optuna.Trial, trial: Trial, search: Search, train: Train) -> bool:
    """Run a trial, report its result to the study, and return whether the sampler can propose more trials."""
    metrics = list(search.metrics)
    watchers = [Pruning(asked, metrics[0])] if search.pruner and len(metrics) == 1 else []
    work = partial(train, trial, watchers)
    try:
        run_held(trial, work, retry_failed=search.retry_failed)
    except optuna.TrialPruned as error:
        log.info("trial %s pruned: %s", trial.name, error)
    except (Exception, SystemExit) as error:  # it is recorded; the search goes on
        print_error(error, config_name="tune")
    state, summary = state_at_rest(trial.folder), read_summary(trial.folder)
    lacking = [metric for metric in metrics if not is_number(summary.get(metric))]
    if state.status == "completed" and lacking:
        numbers = {name: value for name, value in summary.items() if "/" in name}
        state = State("without a metric", f"search.metrics: {missing(lacking[0], numbers)} in its summary.json.")
    for name, value in state._asdict().items():
        asked.set_user_attr(name, value)
    told = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED}.get(state.status, TrialState.FAIL)
    try:
        study.tell(asked, [summary[name] for name in metrics] if told == TrialState.COMPLETE else None, told)
    except RuntimeError as error:  # GridSampler calls study.stop() after the last point, which only optimize() allows
        if "Study.stop" not in str(error):
            raise
        return False
    return True


def states_of(study: optuna.Study, search: Search) -> dict[Trial, State]:
    """Return the state of each trial of a study, in the order in which the trials began."""
    attributes = [(described(trial.params, search), trial.user_attrs) for trial in begun(study)]
    return {trial: State(known.get("status", ""), known.get("reason", "")) for trial, known in attributes}


def begun(study: optuna.Study) -> list[FrozenTrial]:
    """Return Optuna's trials that are running or have ended, without those that a later trial repeats."""
    trials = study.get_trials(deepcopy=False)
    replaced = {trial.user_attrs.get(REPLACES) for trial in trials}
    return [trial for trial in trials if trial.state != TrialState.WAITING and trial.number not in replaced]


def requeue(study: optuna.Study, search: Search, *, failed: bool) -> None:
    """Queue again each trial whose process has died, which then resumes, and, if `failed` is set, failed trials."""

    def is_due(trial: FrozenTrial) -> bool:
        if trial.state == TrialState.RUNNING:
            return holder(described(trial.params, search).folder) is None
        is_failed = failed and trial.state == TrialState.FAIL
        return is_failed and described(trial.params, search).is_hole(retry_failed=search.retry_failed)

    due = list(filter(is_due, begun(study)))
    now = study.get_trials(deepcopy=False)
    for trial in due:
        if now[trial.number].state == trial.state:  # else its process has just told the study
            if trial.state == TrialState.RUNNING:
                study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params, user_attrs={REPLACES: trial.number})
