"""A Hydra callback that removes the files of a command that failed before it did anything."""

from contextlib import suppress
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from vae_lab.system.locks import LOCK


class NoTraces(Callback):
    """Takes back what Hydra has written into the run folder if nothing else came into it.

    Hydra makes the folder and writes its config and an empty log before a setting is looked at, over those of a run
    that lies there too. What went wrong has been printed. The folders of a sweep's trials are left alone: their
    failures are recorded in them.
    """

    def __init__(self) -> None:
        self.folder = Path()
        self.missing: list[Path] = []
        self.own: dict[Path, bytes | None] = {}
        self.others: dict[Path, tuple[int, int]] = {}

    def on_run_start(self, config: DictConfig, **_: object) -> None:
        """Take note of what is there."""
        self.folder = Path(str(config.hydra.run.dir))
        if self.folder == Path():  # a process that has no folder of its own, beside the one that has
            return
        subfolder = config.hydra.output_subdir
        hidden = self.folder / str(subfolder or "")
        paths = [hidden / f"{name}.yaml" for name in ("config", "hydra", "overrides") if subfolder]
        paths.append(self.folder / f"{config.hydra.job.name}.log")
        self.own = {path: path.read_bytes() if path.is_file() else None for path in paths}
        folders = dict.fromkeys([hidden, self.folder, *self.folder.parents])
        self.missing = [path for path in folders if not path.exists()]
        self.others = self.look()

    def look(self) -> dict[Path, tuple[int, int]]:
        """Return the time and size of each file in the folder, but for the lock and those that Hydra writes."""
        passed = {*self.own, self.folder / LOCK}
        files = {path: path.stat() for path in self.folder.rglob("*") if path not in passed and path.is_file()}
        return {path: (found.st_mtime_ns, found.st_size) for path, found in files.items()}

    def on_run_end(self, config: DictConfig, **_: object) -> None:
        """Put it back if nothing was done."""
        if self.folder == Path() or self.look() != self.others:
            return
        with suppress(OSError):  # another process may work here too
            for path, content in self.own.items():
                path.unlink(missing_ok=True) if content is None else path.write_bytes(content)
            if self.folder in self.missing:
                (self.folder / LOCK).unlink(missing_ok=True)
            for path in self.missing:
                path.rmdir()
