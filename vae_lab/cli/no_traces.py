"""A Hydra callback that removes Hydra's files from the run folder if the command failed before it wrote any file."""

from contextlib import suppress
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from vae_lab.system.locks import LOCK


class NoTraces(Callback):
    """A callback that restores the run folder if only Hydra, and not the command, has written files into it.

    Hydra makes the folder and writes its config and an empty log before any setting is checked, and overwrites those of
    an earlier run. The folders of a sweep's trials are kept, because failures are recorded in them.
    """

    def __init__(self) -> None:
        self.folder = Path()
        self.missing: list[Path] = []
        self.own: dict[Path, bytes | None] = {}
        self.others: dict[Path, tuple[int, int]] = {}

    def on_run_start(self, config: DictConfig, **_: object) -> None:
        """Record the files in the run folder, and the content of those that Hydra overwrites."""
        self.folder = Path(str(config.hydra.run.dir))
        if self.folder == Path():  # only rank 0 has a run folder
            return
        subfolder = config.hydra.output_subdir
        hidden = self.folder / str(subfolder or "")
        paths = [hidden / f"{name}.yaml" for name in ("config", "hydra", "overrides") if subfolder]
        paths.append(self.folder / f"{config.hydra.job.name}.log")
        self.own = {path: path.read_bytes() if path.is_file() else None for path in paths}
        folders = dict.fromkeys([hidden, self.folder, *self.folder.parents])
        self.missing = [path for path in folders if not path.exists()]
        self.others = self.other_files()

    def other_files(self) -> dict[Path, tuple[int, int]]:
        """Return (modification time in ns, bytes) of each file in the run folder, except Hydra's files and the lock."""
        passed = {*self.own, self.folder / LOCK}
        files = {path: path.stat() for path in self.folder.rglob("*") if path not in passed and path.is_file()}
        return {path: (found.st_mtime_ns, found.st_size) for path, found in files.items()}

    def on_run_end(self, config: DictConfig, **_: object) -> None:
        """Restore the recorded run folder if the run has changed no files other than Hydra's."""
        if self.folder == Path() or self.other_files() != self.others:
            return
        with suppress(OSError):  # another process may work in the folder
            for path, content in self.own.items():
                path.unlink(missing_ok=True) if content is None else path.write_bytes(content)
            if self.folder in self.missing:
                (self.folder / LOCK).unlink(missing_ok=True)
            for path in self.missing:
                path.rmdir()
