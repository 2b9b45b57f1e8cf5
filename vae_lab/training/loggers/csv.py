"""The logger that writes metrics.csv in every run folder."""

import csv
from pathlib import Path

from lightning.pytorch.loggers import Logger

from vae_lab.system.atomic import whole


class MetricsTable(Logger):
    """Writes one row per step to a CSV file, and keeps the rows of a resumed run.

    Lightning's CSV logger deletes the file of a resumed run. The columns are `step` and all logged metrics. A new
    column rewrites the file, and so does a run resumed from a checkpoint before the last row. Lightning saves after
    each call of `self.log`, so later metrics of the same step overwrite the row of that step.

    Args:
        path: path of the CSV file.
    """

    name = ""  # pyright: ignore[reportAssignmentType]
    version = ""  # pyright: ignore[reportAssignmentType]

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.columns: list[str] = ["step"]
        self.row: dict[str, float] = {}
        self.begin: int | None = None  # byte offset of the row of the current step, if it is already written
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                self.columns = next(csv.reader(file), self.columns)
        self.goes_on = self.path.exists()

    @property
    def save_dir(self) -> str:
        """The run folder; a user's ModelCheckpoint writes below it by default."""
        return str(self.path.parent)

    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        """Do nothing, because the run folder contains the config."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add metrics to the row of `step`, which is written by `save` or when another step is logged."""
        if self.row and self.row["step"] != (step or 0):
            self.save()
            self.row, self.begin = {}, None
        self.row |= {"step": step or 0, **metrics}

    def save(self) -> None:
        """Write the row of the current step."""
        if not self.row:
            return
        new = [name for name in self.row if name not in self.columns]
        tested = any(name.startswith("test/") for name in self.row)
        end = float(self.row["step"]) if self.goes_on and not tested else float("inf")
        if new or not self.path.exists() or self.goes_on:
            self._rewrite(new, end)
        self.goes_on = False
        with self.path.open("r+", newline="", encoding="utf-8") as file:
            self.begin = file.seek(0, 2) if self.begin is None else file.seek(self.begin)
            csv.DictWriter(file, self.columns).writerow(self.row)
            file.truncate()

    def finalize(self, status: str) -> None:
        """Write the last row."""
        self.save()

    def _rewrite(self, new: list[str], end: float) -> None:
        """Rewrite the file with additional columns; drop the current row and all rows from step `end` on."""
        content = self.path.read_bytes()[: self.begin].decode() if self.path.exists() else ""
        rows = list(csv.DictReader(content.splitlines()))
        self.columns += new
        self.begin = None
        with whole(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(row for row in rows if float(row["step"]) < end)
