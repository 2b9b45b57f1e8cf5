"""Provenance of a run: device, versions, commit."""

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "vae_lab", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "omegaconf", "wandb", "pillow",
)  # fmt: skip


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results, by name."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the git commit of the running source, with "-dirty" if files were changed; None outside a checkout."""
    source = Path(__file__).parent
    options: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace", "timeout": 5}
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, check=True, **options).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None


def device_name(device: torch.device) -> str:
    """Return the GPU's name for a CUDA device, else the CPU's name and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {torch.get_num_threads()} threads"


def processor_name() -> str:
    """Return the name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
