"""The Weights & Biases logger: online with a key, else offline; it never prompts."""

import inspect
import logging
import netrc
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from lightning import LightningModule
from lightning.pytorch.loggers import WandbLogger

from vae_lab.errors import require_choice, require_count
from vae_lab.system.error_text import nearest
from vae_lab.system.masking import masked
from vae_lab.training.loggers import naming

if TYPE_CHECKING:
    from wandb import Run, Settings

log = logging.getLogger(__name__)

MODES = {
    "auto": "auto",
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
    "shared": "shared",
}
WATCHED = ("gradients", "parameters", "all")
SUMMARIES = ("min", "max", "mean", "last", "first", "none")
FINISH_TIMEOUT = 60.0  # seconds; by default W&B waits without limit for the upload


class WeightsAndBiases(WandbLogger):
    """Lightning's W&B logger that opens its W&B run when it is constructed, and finishes it in `close`.

    Args:
        project: W&B project.
        group: group of the runs of a sweep; None uses WANDB_RUN_GROUP.
        name: name of the run; None is the end of its folder's path.
        tags: tags of the run; an empty list uses WANDB_TAGS.
        mode: a mode of W&B, or "auto": disabled if WANDB_DISABLED is true, online if a key is configured, else offline.
        folder: the run folder.
        timeout: seconds to wait for the server before going offline.
        define_metric: aggregation in W&B's summary by metric: "min", "max", "mean", "last", or several, as "min,last".
        watch: "gradients", "parameters" or "all" to log their histograms; None for none.
        watch_every: batches between two histograms.
        settings: any other argument of Lightning's WandbLogger or of `wandb.init`.
    """

    def __init__(
        self,
        *,
        project: str,
        group: str | None,
        name: str | None,
        tags: Sequence[object],
        mode: str,
        folder: str,
        timeout: float,
        define_metric: Mapping[str, str],
        watch: str | None,
        watch_every: int,
        **settings: Any,
    ) -> None:
        mode = checked_mode(mode, offline=settings.get("offline", False))
        if watch is not None and watch not in WATCHED:
            raise ValueError(f"logger.wandb.watch must be null or one of {', '.join(WATCHED)}, not {watch}.")
        require_count("logger.wandb.watch_every", watch_every)
        check_summaries(define_metric)
        named = {"group": group, "name": name or naming.run_name(folder), "tags": [str(tag) for tag in tags] or None}
        arguments = {"project": project or None, **named, **init_arguments(settings, folder)}
        run = settings.get("experiment")
        if run is None:
            with masked_command_line():
                run = open_run(mode, timeout, **arguments)
        settings |= {"project": run.project, "save_dir": folder, "experiment": run}
        super().__init__(**{key: value for key, value in settings.items() if key != "offline"})
        self.run = run
        self.watched, self.watch_every = watch, watch_every
        self._define_metrics(define_metric)

    def _define_metrics(self, summaries: Mapping[str, str]) -> None:
        """Tell W&B the horizontal axis of all metrics, and which aggregation of a metric its summary shows."""
        from_tensorboard = self._wandb_init.get("sync_tensorboard")  # TensorBoard has its own step
        step = "global_step" if from_tensorboard else "trainer/global_step"  # as in Lightning's logger
        self.run.define_metric(step)
        self.run.define_metric("*", step_metric=step)
        for name, summary in summaries.items():
            logged = f"{self._prefix}{self.LOGGER_JOIN_CHAR}{name}" if self._prefix else name
            self.run.define_metric(logged, step_metric=step, summary=summary)

    @property
    def is_offline(self) -> bool:
        """Whether the W&B run is offline, to be uploaded later with `wandb sync`."""
        return self.run.settings.mode == "offline"

    def log_graph(self, model: LightningModule, *_: object) -> None:
        """Make W&B log histograms of gradients or parameters if `watch` is set; called before the first batch.

        W&B logs parameters at calls of `forward`. Training does not call a LightningModule's `forward`, so W&B watches
        the task's latent model, if any.
        """
        if self.watched is not None:
            inner = getattr(model, "model", model)
            self.watch(inner, log=self.watched, log_freq=self.watch_every, log_graph=False)

    def describe(self) -> dict[str, str]:
        """Return the W&B run's id and mode, as entries of summary.json."""
        return {"wandb_id": str(self.run.id), "wandb_mode": str(self.run.settings.mode)}

    def close(self, exit_code: int) -> None:
        """Finish the W&B run, so that the next run in this process opens a new one."""
        self.run.finish(exit_code=exit_code)
        if self.is_offline:
            command = shlex.join(["wandb", "sync", str(Path(self.run.dir).parent.absolute())])
            log.info("W&B was offline; upload this run with: %s", command)


def checked_mode(mode: str, *, offline: bool) -> str:
    """Return "offline" if Lightning's argument `offline` is true, else W&B's name of `mode`, or "auto".

    Raises:
        ValueError: if the mode is unknown, or contradicts `offline`.
    """
    require_choice("logger.wandb.mode", mode, MODES)
    if offline and MODES[mode] not in ("auto", "offline"):
        raise ValueError(
            f"logger.wandb.offline=true and logger.wandb.mode={mode} contradict each other; leave one out."
        )
    return "offline" if offline else MODES[mode]


def check_summaries(summaries: Mapping[str, str]) -> None:
    """Raise ValueError if W&B does not support the aggregation of a metric."""
    for name, summary in summaries.items():
        if not set(str(summary).split(",")) <= set(SUMMARIES):
            raise ValueError(
                f"logger.wandb.define_metric: {name} must be one of {', '.join(SUMMARIES)}, or several as in min,last,"
                f" not {summary}."
            )


def init_arguments(settings: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Return the settings that are arguments of `wandb.init`; `version` becomes `id`, and `save_dir` becomes `dir`.

    Raises:
        ValueError: if a setting is an argument neither of `wandb.init` nor of Lightning's logger.
    """
    from wandb.sdk import init  # takes half a second; wandb.init itself may be wrapped

    inits = inspect.signature(init).parameters.keys()
    lightnings = inspect.signature(WandbLogger).parameters.keys() - {"kwargs"}
    for name in settings.keys() - inits - lightnings:
        near = nearest(name, [*inits, *lightnings])
        hint = f"did you mean {near}" if near else "see their documentation"
        raise ValueError(
            f"logger.wandb.{name} is an argument neither of wandb.init nor of Lightning's WandbLogger; {hint}."
        )
    arguments = {name: value for name, value in settings.items() if name in inits and value is not None}
    arguments["dir"] = settings.get("save_dir") or settings.get("dir") or folder  # in Lightning's order
    if settings.get("version") is not None:
        arguments.setdefault("id", settings["version"])
    if "id" in arguments:
        arguments.setdefault("resume", "allow")
    return arguments


@contextmanager
def masked_command_line() -> Iterator[None]:
    """Mask secrets in sys.argv inside a `with` block, in which W&B stores the command line.

    No setting of W&B prevents that it stores the command line.
    """
    before = sys.argv
    sys.argv = masked(before)
    try:
        yield
    finally:
        sys.argv = before


def open_run(mode: str, timeout: float, *, settings: "Settings | dict[str, Any] | None" = None, **given: Any) -> "Run":
    """Return a new W&B run, offline if the server does not respond in time.

    Raises:
        ValueError: if W&B refuses the arguments.
    """
    import wandb
    from pydantic import ValidationError
    from wandb.errors import CommError, Error, UsageError
    from wandb.sdk.mailbox.mailbox_handle import ServerResponseError

    Path(given["dir"]).mkdir(parents=True, exist_ok=True)
    try:
        chosen = run_settings(timeout, settings)
        mode = automatic_mode(chosen) if mode == "auto" else mode
        arguments = {
            "reinit": "finish_previous",
            "settings": chosen,
            **masked(given),
            "dir": str(Path(given["dir"]).absolute()),
        }  # dir is absolute because W&B resolves it only once
        return wandb.init(mode=mode, **arguments)  # pyright: ignore[reportArgumentType]
    except ServerResponseError as error:  # W&B's background process still holds the run of a killed process
        if given.get("id") is None:
            raise
        log.warning("W&B: %s; logging the resumed part as a new W&B run", str(error).splitlines()[0])
        return open_run(mode, timeout, settings=settings, **given | {"id": None, "resume": None})
    except (CommError, UsageError) as error:
        if mode == "offline":
            raise ValueError(f"logger.wandb: {str(error).splitlines()[0]}") from error
        log.warning("W&B could not be reached (%s); continuing offline", str(error).splitlines()[0])
        return open_run("offline", timeout, settings=settings, **given)
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(["logger.wandb", *map(str, wrong["loc"])])
        raise ValueError(f"{where}: {wrong['msg'].removeprefix('Value error, ').rstrip('.')}.") from error
    except Error as error:
        raise ValueError(f"logger.wandb: {str(error).splitlines()[0]}.") from error


def run_settings(timeout: float, given: "Settings | dict[str, Any] | None") -> "Settings":
    """Return the `wandb.Settings` of a run: vae_lab's defaults, overridden by `given`."""
    import wandb

    ours = {"init_timeout": timeout, "finish_timeout": FINISH_TIMEOUT, "silent": True, "disable_git": True}
    chosen = wandb.Settings(**ours, save_code=False)
    if given is not None:
        chosen.update_from_settings(wandb.Settings(**given) if isinstance(given, dict) else given)
    return chosen


def automatic_mode(settings: "Settings") -> str:
    """Return "disabled" if WANDB_DISABLED is true, "online" if a key for the server is configured, else "offline"."""
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        return "disabled"
    return "online" if has_key(settings) else "offline"


def has_key(settings: "Settings") -> bool:
    """Return whether an API key for the server is in the settings, the environment or the netrc file."""
    import wandb

    if settings.api_key or any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    known = settings if "base_url" in settings.model_fields_set else wandb.setup().settings
    path = os.path.expanduser(os.environ.get("NETRC", "~/.netrc"))  # noqa: PTH111 (Path raises without a home)
    try:
        return netrc.netrc(path).authenticators(urlparse(known.base_url).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False
