"""Recognition of the files that vae_lab wrote, so that they are never read as a data set."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

RUNS = "run folders of vae_lab"
SWEEPS = "folders of sweeps of vae_lab"
RUN_PARTS = "files and folders of a run of vae_lab"
SAMPLES = "folders of generated pictures"
GRIDS = "grids of generated pictures"
TABLES = "tables of detect and their pictures"
WANDB = "folders of W&B"
PROFILES = "results of profile"

EVALUATIONS = [f"evaluation{part}.{kind}" for part in ("", "-train", "-val", "-test") for kind in ("html", "json")]

RUN_ENTRIES = frozenset({
    "calibration", "checkpoints", "exported", "figures", "generated", "metrics.csv", "mlflow", "summary.json",
    "tensorboard", "train.log", "wandb",
    *EVALUATIONS,
})  # fmt: skip
"""Names of the files and folders that a run writes into its folder."""

MANIFEST = "manifest.json"
"""The file beside generated pictures that says how they were made; beside a single x.png it is x.png.json."""

MULTIRUN = "multirun.yaml"
"""Hydra's file in the folder of a sweep."""

TABLE_COLUMNS = ("path", "score", "p_value", "flagged")
"""The first columns of a table of detect."""

MAX_BYTES = 2**20
"""Maximum number of bytes that are read to recognise a file."""


def own_folder(folder: Path, names: Collection[str]) -> str | None:
    """Return the kind of a folder that vae_lab or W&B wrote, such as "run folders of vae_lab"; None for any other."""
    if "summary.json" in names and _is_summary(folder / "summary.json"):
        return RUNS
    if MULTIRUN in names and _is_config(folder / MULTIRUN):
        return SWEEPS
    if ".hydra" in names and _is_config(folder / ".hydra" / "config.yaml"):  # a run that has just begun
        return RUNS
    if MANIFEST in names and _is_manifest(folder / MANIFEST):
        return SAMPLES
    if folder.name == "wandb" and any(name.startswith(("run-", "offline-run-")) for name in names):
        return WANDB
    return None


def own_files(folder: Path, names: Collection[str]) -> dict[str, str]:
    """Return the names of the files that vae_lab wrote among the user's in a folder, each with its kind."""
    own: dict[str, str] = {}
    for name in names:
        if name.lower().endswith(".csv") and begins_as_table(folder / name):
            own |= dict.fromkeys(table_names(Path(name)), TABLES)
        if name.lower().endswith(".png.json") and _is_manifest(folder / name):
            own |= dict.fromkeys((name, name.removesuffix(".json")), GRIDS)
    if "profile.png" in names and "exponents" in _read_json(folder / "profile.json"):
        own |= dict.fromkeys(("profile.json", "profile.png"), PROFILES)
    return {name: kind for name, kind in own.items() if name in names}


def begins_as_table(path: Path) -> bool:
    """Return whether a file begins like a CSV table of the command `detect`."""
    return first_bytes(path, 100).startswith(",".join(TABLE_COLUMNS).encode())


def table_names(table: Path) -> list[str]:
    """Return the file names of a table of the command `detect` and of all files written beside it."""
    stems = (table.stem, f"{table.stem}-truth")
    names = [f"{stem}{end}" for stem in stems for end in (table.suffix, "-strangest.png", "-heat.png")]
    return [*names, f"{table.stem}-truth.json", f"{table.stem}-roc.png"]


def first_bytes(path: Path, n: int) -> bytes:
    """Return the first `n` bytes of a regular file, or b"" if it cannot be read."""
    try:
        if not path.is_file():  # reading a pipe would wait forever
            return b""
        with path.open("rb") as file:
            return file.read(n)
    except OSError:
        return b""


def _is_summary(path: Path) -> bool:
    return {"status", "seed", "data", "versions"} <= set(_read_json(path))


def _is_manifest(path: Path) -> bool:
    content = _read_json(path)
    return "images" in content and isinstance(content.get("made_of"), dict)


def _is_config(path: Path) -> bool:
    return b"_target_: vae_lab." in first_bytes(path, MAX_BYTES)


def _read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or {} if the file cannot be read or holds something else."""
    try:
        content = json.loads(first_bytes(path, MAX_BYTES))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
