"""A callback of Hydra that notes what it is told."""

from pathlib import Path

from hydra.experimental.callback import Callback


class Noting(Callback):
    def __init__(self, file: str) -> None:
        self.file = Path(file).absolute()

    def note(self, word: str) -> None:
        with self.file.open("a") as file:
            file.write(f"{word}\n")

    def on_run_start(self, config, **_):
        self.note("run starts")

    def on_job_start(self, config, **_):
        self.note("job starts")

    def on_job_end(self, config, job_return, **_):
        self.note(f"job ends {job_return.status.name}")

    def on_run_end(self, config, **_):
        self.note("run ends")

    def on_multirun_start(self, config, **_):
        self.note("multirun starts")

    def on_multirun_end(self, config, **_):
        self.note("multirun ends")
