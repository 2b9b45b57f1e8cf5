"""Weights & Biases: online where a key is configured, else offline, never a prompt, a hang or a lost run."""

import logging
import netrc
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from lightning.pytorch.loggers import WandbLogger

from vae_lab.system.masking import masked

if TYPE_CHECKING:
    import numpy as np
    from wandb import Run

log = logging.getLogger(__name__)

MODES = {
    "auto": "auto",
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}


FINISH_TIMEOUT = 60.0  # seconds; W&B's own default waits until everything is uploaded, however long


class WeightsAndBiases(WandbLogger):
    """Lightning's W&B logger around a run that is always opened and always closed.

    Args:
        project: W&B project.
        id: of a run to go on with; None lets W&B choose, or WANDB_RUN_ID.
        group: what the runs of one sweep have in common; None leaves it to WANDB_RUN_GROUP.
        name: of the run; None is the end of its folder's path.
        tags: of the run; none leaves them to WANDB_TAGS.
        mode: "auto" is disabled if WANDB_DISABLED is true, online if a key is configured, else offline; "online",
            "offline" and "disabled" as W&B has them.
        folder: the run folder.
        dir: where W&B makes a folder of its own.
        timeout: seconds to wait for the server before going offline.
    """

    def __init__(
        self,
        *,
        project: str,
        id: str | None,  # noqa: A002
        group: str | None,
        name: str | None,
        tags: list[str],
        mode: str,
        folder: str,
        dir: str,  # noqa: A002
        timeout: float,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"logger.wandb.mode must be one of {', '.join(MODES)}, not {mode}.")
        name = name or run_name(folder)
        named = {"id": id, "resume": None if id is None else "allow", "name": name, "tags": list(tags) or None}
        place = str(Path(dir).absolute())  # W&B's own process keeps the working directory of the first run
        with masked_command_line():
            run = open_run(MODES[mode], timeout, project=project or None, group=group, dir=place, **masked(named))
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step")
        super().__init__(project=run.project, save_dir=folder, experiment=run)
        self.run = run

    @property
    def is_offline(self) -> bool:
        """Whether the run waits on disk for `wandb sync`."""
        return self.run.settings.mode == "offline"

    def log_histograms(self, histograms: dict[str, tuple["np.ndarray", "np.ndarray"]], step: int) -> None:
        """Log (heights, edges) under their names."""
        import wandb

        self.log_metrics({name: wandb.Histogram(np_histogram=pair) for name, pair in histograms.items()}, step=step)  # pyright: ignore[reportArgumentType]

    def describe(self) -> dict[str, str]:
        """Return the run's id and mode for the summary."""
        return {"wandb_id": str(self.run.id), "wandb_mode": str(self.run.settings.mode)}

    def close(self, exit_code: int) -> None:
        """Finish the run, so that the next one in this process gets one of its own."""
        self.run.finish(exit_code=exit_code)
        if self.is_offline:
            command = shlex.join(["wandb", "sync", str(Path(self.run.dir).parent.absolute())])
            log.info("W&B was offline; upload this run with: %s", command)


@contextmanager
def masked_command_line() -> Iterator[None]:
    """Hide secrets in the arguments of this process while W&B takes note of them, which no setting of it prevents."""
    before = sys.argv
    sys.argv = masked(before)
    try:
        yield
    finally:
        sys.argv = before


def open_run(mode: str, timeout: float, **arguments: object) -> "Run":
    """Return a new W&B run, offline where the server does not answer in time."""
    import wandb  # takes half a second
    from wandb.errors import AuthenticationError, CommError, UsageError
    from wandb.sdk.mailbox.mailbox_handle import ServerResponseError

    Path(str(arguments["dir"])).mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(
        init_timeout=timeout, finish_timeout=FINISH_TIMEOUT, silent=True, disable_git=True, save_code=False
    )
    chosen = automatic_mode(settings.base_url) if mode == "auto" else mode
    try:
        return wandb.init(mode=chosen, settings=settings, reinit="finish_previous", **arguments)  # pyright: ignore[reportArgumentType, reportCallIssue]
    except ServerResponseError as error:  # W&B's own process still has the run of one that was killed
        log.warning("W&B: %s; this part of the run gets one of its own", str(error).splitlines()[0])
        anew = arguments | {"id": None, "resume": None}
        return wandb.init(mode=chosen, settings=settings, reinit="finish_previous", **anew)  # pyright: ignore[reportArgumentType, reportCallIssue]
    except (CommError, UsageError, AuthenticationError) as error:
        log.warning("W&B could not be reached (%s); going on offline", str(error).splitlines()[0])
        return wandb.init(mode="offline", settings=settings, reinit="finish_previous", **arguments)  # pyright: ignore[reportArgumentType, reportCallIssue]


def automatic_mode(server: str) -> str:
    """Return "disabled" if WANDB_DISABLED is true, "online" if a key for `server` is configured, else "offline"."""
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        return "disabled"
    return "online" if has_key(server) else "offline"


def run_name(folder: str) -> str:
    """Return the end of a run folder's path, from its date on."""
    return "/".join(Path(folder).absolute().parts[-3:]).partition("outputs/")[2] or Path(folder).name


def has_key(server: str) -> bool:
    """Return whether an API key for `server` is in the environment or in the netrc file."""
    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    path = os.path.expanduser(os.environ.get("NETRC", "~/.netrc"))  # noqa: PTH111 (there may be no home)
    try:
        return netrc.netrc(path).authenticators(urlparse(server).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False
