"""What the loggers of a run have written, read back by their own tools."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple


class Logged(NamedTuple):
    """What one logger knows of a run.

    Attributes:
        metrics: the last value of each.
        settings: hyper-parameters by their dotted names.
        media: names of pictures and histograms, with the steps at which there are some.
    """

    metrics: dict[str, float]
    settings: dict[str, object]
    media: dict[str, list[int]]


def wandb_records(folder: Path) -> list[dict[str, Any]]:
    """The records of the one offline file of W&B below a folder."""
    (file,) = folder.rglob("offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    return [json.loads(line) for line in lines]


def of_kind(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The content of the records of one kind."""
    return [record[kind] for record in records if record["type"] == kind]


def read_wandb(folder: Path) -> Logged:
    records = wandb_records(folder)
    metrics: dict[str, float] = {}
    media: dict[str, list[int]] = {}
    for item in (row["item"] for row in of_kind(records, "history")):
        metrics |= {name: value for name, value in item.items() if isinstance(value, float)}
        for name in (key.removesuffix("._type") for key in item if key.endswith("._type")):
            media.setdefault(name, []).append(item["trainer/global_step"])
    settings: dict[str, object] = {}
    for update in of_kind(records, "config"):
        settings |= dotted(update["update"])
    return Logged(metrics, settings, media)


def read_tensorboard(folder: Path) -> Logged:
    import yaml
    from tensorboard.backend.event_processing.event_accumulator import (  # pyright: ignore[reportMissingImports]
        EventAccumulator,
    )

    events = EventAccumulator(str(folder), size_guidance={"histograms": 0, "images": 0, "scalars": 0})  # 0: all
    events.Reload()
    tags = events.Tags()
    metrics = {name: events.Scalars(name)[-1].value for name in tags["scalars"]}
    media = {name: [event.step for event in events.Images(name)] for name in tags["images"]}
    media |= {name: [event.step for event in events.Histograms(name)] for name in tags["histograms"]}
    return Logged(metrics, dotted(yaml.safe_load((folder / "hparams.yaml").read_text())), media)


def read_mlflow(folder: Path) -> Logged:
    from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    names = [experiment.experiment_id for experiment in client.search_experiments() if experiment.name != "Default"]
    (run,) = client.search_runs(names)
    media: dict[str, list[int]] = {}
    for path in sorted(file.path for file in client.list_artifacts(run.info.run_id, "images")):
        name, _, step = Path(path).name.partition("+step+")
        if path.endswith(".png"):
            media.setdefault(name.replace("~", "/"), []).append(int(step.partition("+")[0]))
    return Logged(run.data.metrics, {key.replace("/", "."): value for key, value in run.data.params.items()}, media)


def dotted(node: object, prefix: str = "") -> dict[str, object]:
    """The values of nested mappings by their dotted names."""
    if not isinstance(node, dict):
        return {prefix: node}
    return {
        key: value for name, part in node.items() for key, value in dotted(part, f"{prefix}.{name}".strip(".")).items()
    }
