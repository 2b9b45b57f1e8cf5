"""The cost of a model at several image sizes, with fitted exponents."""

import json
import math
import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from vae_lab.profiling.counting import count_parameters, multiplications, predicted_peaks
from vae_lab.profiling.figures import cost_figure
from vae_lab.profiling.peak_memory import footprint
from vae_lab.profiling.power_law import PowerLaw, fit_power_law
from vae_lab.profiling.settings import read_memory, read_sizes
from vae_lab.profiling.timing import TASKS, timed
from vae_lab.profiling.workload import Setting
from vae_lab.runs.provenance import device_name, git_commit, versions
from vae_lab.system.atomic import require_folder_name, whole, write_whole
from vae_lab.system.devices import choose_device
from vae_lab.system.folders import expanded, require_writable
from vae_lab.system.progress import track

LARGE_BATCHES = (64, 128)
"""Batch sizes whose difference gives the memory per image; in small batches the weights determine the peak."""
FAR = 64
"""Factor of the largest size at which `limits` takes the asymptotic exponents."""
NOCTAVES = 12
"""Number of times that 32 pixels are doubled to find a size that does not fit into memory."""


def profile_sizes(cfg: DictConfig) -> dict[str, Any]:
    """Return a network's costs at each image size and the fitted exponents; write them and a plot into `cfg.out`.

    `cfg` is the composed conf/profile.yaml. Costs are in bytes, seconds and multiply-accumulates, per image unless
    stated otherwise.

    Raises:
        ValueError: if a setting is invalid, or the network does not support one of the sizes.
        MemoryError: if a size does not fit into memory.
        StorageError: if the folder cannot be written.
    """
    out = expanded(cfg.out)
    sizes = read_sizes(cfg)
    require_folder_name(out)
    require_writable(out)
    memory = read_memory(cfg.memory, choose_device(cfg.device).type)
    rows = {size: count_costs(setting, memory) for size, setting in track(list(sizes.settings.items()), "counting")}
    (smallest, *_), process = sizes.settings, 0
    for size, setting in track(list(sizes.settings.items()), "measuring memory"):
        found = footprint(setting, sizes.make(smallest, 2))
        process = max(process, found.pop("process"))
        for name, measured in found.items():
            entry = rows[size]["memory"][name]
            rows[size]["memory"][name] = entry | {"measured": measured, "ratio": entry["predicted"] / measured}
    timings = timed(sizes.settings, cfg.nrepeats, cfg.max_seconds)
    for size, row in rows.items():
        row["seconds"] = {name: statistics.median(timings[name][size]) for name in TASKS}
    result = {
        "sizes": {str(size): row for size, row in rows.items()},
        "exponents": exponents(rows, timings, cfg.timed_from),
        "limits": limits(sizes.make, max(rows)),
        "fits": largest_that_fits(sizes.make, cfg.fits_batch, memory * (1 - cfg.headroom) - process),
        "memory": {"bytes": memory, "headroom": cfg.headroom, "process": process, "batch": cfg.fits_batch},
        "timings": {name: {str(size): values for size, values in by.items()} for name, by in timings.items()},
        **environment(cfg),
    }
    write(out, result)
    return result


def count_costs(setting: Setting, memory: int) -> dict[str, Any]:
    """Return the costs at one image size that need no measurement: parameters, multiplications, predicted memory.

    Raises:
        ValueError: if the network does not support the size.
        MemoryError: if the batch does not fit into `memory` bytes.
    """
    peaks = predicted_peaks(setting)
    if peaks["training"] > memory:
        size = setting.config["model"]["image_size"]
        raise MemoryError(
            f"{setting.batch_size} images of {size} pixels need {peaks['training'] / 2**20:.0f} MiB, which does not fit"
            " into memory; reduce batch_size or pixels."
        )
    small, large = LARGE_BATCHES
    peaks_small, peaks_large = (predicted_peaks(setting._replace(batch_size=size)) for size in LARGE_BATCHES)
    return {
        "batch": setting.batch_size,
        **count_parameters(setting)._asdict(),
        "multiplications": multiplications(setting),
        "memory": {name: {"predicted": size} for name, size in peaks.items()},
        "memory_per_image": {name: (peaks_large[name] - peaks_small[name]) / (large - small) for name in peaks},
    }


def exponents(
    rows: dict[int, dict[str, Any]], timings: dict[str, dict[int, list[float]]], timed_from: int
) -> dict[str, PowerLaw]:
    """Return the power law of each cost; times are fitted at sizes from `timed_from` on if two exist, else at all."""
    costs = {"parameters": [row["parameters"] for row in rows.values()]}
    for kind, names in (("multiplications", (*TASKS, "inference")), ("memory_per_image", TASKS)):
        costs |= {f"{kind} {name}": [row[kind][name] for row in rows.values()] for name in names}
    laws = {
        name: fit_power_law(list(rows), torch.tensor([column], dtype=torch.float64)) for name, column in costs.items()
    }
    large = [size for size in rows if size >= timed_from]
    fitted = large if len(large) > 1 else list(rows)
    for name in TASKS:
        columns = [timings[name][size] for size in fitted]
        laws[f"seconds {name}"] = fit_power_law(fitted, torch.tensor(columns, dtype=torch.float64).T)
    return laws


def limits(make: Callable[[int, int], Setting], largest: int) -> dict[str, float]:
    """Return the asymptotic exponents of counted costs: their growth from `FAR` to 2 * `FAR` times the largest size."""
    near, far = make(FAR * largest, 1), make(2 * FAR * largest, 1)
    pairs = {"parameters": (count_parameters(near).parameters, count_parameters(far).parameters)}
    before, after = multiplications(near), multiplications(far)
    pairs |= {f"multiplications {name}": (before[name], after[name]) for name in before}
    return {name: math.log2(second / first) for name, (first, second) in pairs.items()}


def largest_that_fits(make: Callable[[int, int], Setting], batch_size: int, room: float) -> dict[str, int | None]:
    """Return the largest image size with a predicted peak of at most `room` bytes, for training and for generation.

    Sizes are 4, 5, 6 and 7 times powers of two, from 32 on, because these can be halved down to a few pixels.
    """

    @cache
    def peaks(size: int) -> dict[str, int] | None:
        try:
            return predicted_peaks(make(size, batch_size))
        except InstantiationException:
            return None  # the network does not support the size

    def largest(task: str) -> int | None:
        sizes = (32 * 2**octave for octave in range(NOCTAVES))
        beyond = next((size for size in sizes if (found := peaks(size)) and found[task] > room), 32 * 2**NOCTAVES)
        below = [beyond * quarters // 8 for quarters in (7, 6, 5, 4)]
        return next((size for size in below if size >= 32 and (found := peaks(size)) and found[task] <= room), None)

    return {task: largest(task) for task in TASKS}


def environment(cfg: DictConfig) -> dict[str, Any]:
    """Return the settings, hardware and versions that the costs depend on."""
    return {
        "config": OmegaConf.to_container(OmegaConf.merge(cfg, {"data": {"image_size": 0}}), resolve=True),
        "device": device_name(choose_device(cfg.device)),
        "precision": cfg.precision,
        "versions": versions(),
        "commit": git_commit(),
    }


def write(folder: Path, result: dict[str, Any]) -> None:
    """Write profile.json and profile.png into a folder."""
    laws = {name: law._asdict() for name, law in result["exponents"].items()}
    plain = json.loads(json.dumps(result | {"exponents": laws}), parse_constant=lambda _: None)
    write_whole(folder / "profile.json", json.dumps(plain, indent=2).encode())
    with whole(folder / "profile.png") as path:
        cost_figure(result).savefig(path, format="png", dpi=120)
