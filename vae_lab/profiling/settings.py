"""Reading and checking of the settings of conf/profile.yaml."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf

from vae_lab.errors import require_choice, require_count, require_number
from vae_lab.profiling.workload import Setting
from vae_lab.system.devices import choose_device

UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


class Sizes(NamedTuple):
    """The `Setting` of each image size, smallest first, and a function that makes one from size and batch size."""

    settings: dict[int, Setting]
    make: Callable[[int, int], Setting]


def read_sizes(cfg: DictConfig) -> Sizes:
    """Return the `Setting` of each image size in the config.

    Raises:
        ValueError: if there are fewer than two different sizes, or a setting is out of range.
    """
    given = cfg.data.image_size
    sizes = sorted(given) if OmegaConf.is_list(given) and all(type(size) is int for size in given) else []
    if len(set(sizes)) < 2 or len(set(sizes)) != len(sizes):
        raise ValueError(
            f"data.image_size={given}: an exponent needs two or more different whole numbers, such as 32,64,128,256."
        )
    require_count("data.image_size", sizes[0])
    require_count("data.channels", cfg.data.channels)
    require_count("nrepeats", cfg.nrepeats)
    require_count("pixels", cfg.pixels)
    require_count("fits_batch", cfg.fits_batch)
    require_count("batch_size", 1 if cfg.batch_size is None else cfg.batch_size)
    require_choice("precision", cfg.precision, ("32-true", "bf16-mixed"))
    require_number("headroom", cfg.headroom, "[0, 1)")
    require_number("max_seconds", cfg.max_seconds, "(0, inf]")

    def make(size: int, batch_size: int) -> Setting:
        sized: Any = OmegaConf.merge(cfg, {"data": {"image_size": size}})
        parts: Any = {
            key: OmegaConf.to_container(sized[key], resolve=True) for key in ("model", "objective", "optimizer")
        }
        return Setting(parts, batch_size, choose_device(cfg.device).type, cfg.precision)

    return Sizes({size: make(size, cfg.batch_size or max(1, cfg.pixels // size**2)) for size in sizes}, make)


def read_memory(text: str | int | float | None, where: str) -> int:
    """Return the bytes that a text means, such as 8GiB, 500MiB or 1000000; for None, the memory of the device.

    Raises:
        ValueError: if the text is not a number of bytes above 0.
    """
    if text is None:
        return torch.cuda.mem_get_info()[1] if where == "cuda" else machine_memory()
    written = str(text).strip()
    unit = written.lstrip("0123456789.")
    try:
        size = int(float(written.removesuffix(unit)) * UNITS[unit.strip()])
    except (KeyError, ValueError, OverflowError):
        size = 0
    if size < 1:
        raise ValueError(f"memory={text} must be a number of bytes above 0, such as 500MiB or 8GiB.")
    return size


def machine_memory() -> int:
    """Return the memory of this machine in bytes, or the limit of its container if that is smaller."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text(encoding="utf-8").strip() if limit.exists() else ""
    return min(machine, int(allowed)) if allowed.isdigit() else machine
