"""Whether everything works on a GPU, and how fast: `make gpu`, in at most four minutes, with any Python that has torch.

    make gpu PYTHON=python3                      the machine's own torch, and what `make gpu-wheels` has put into .gpu/
    make gpu ARGS="device=cpu"                   the same in small on a processor, to prove that the script runs
    make gpu ARGS="only=commands,speed_32"       some parts

What was seen is in gpu.json, in the folder $OUT or outputs/gpu, which is written anew after each part, the most
important first. A part that lacks a package, or comes after the time is up, is skipped by name. The exit code is 1 if
one failed.
"""

import importlib
import json
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

Facts = dict[str, Any]

PRECISIONS = ("bf16-mixed", "32-true")

LIMIT = 235.0
"""Seconds after which no part begins, less what the part itself is expected to take."""


class Part(NamedTuple):
    """Something to see on a device.

    Attributes:
        work: called with the device and an empty folder, returns what it saw.
        seconds: what it may take on a GPU.
    """

    work: Callable[[str, Path], Facts]
    seconds: float


def check(name: str, device: str, folder: Path) -> Facts:
    """Return what a check of benchmarks.gpu_checks saw."""
    return importlib.import_module("benchmarks.gpu_checks").CHECKS[name](device, folder)


def describe_machine(device: str, _: Path) -> Facts:
    """Return what computes, and with which software."""
    facts: Facts = {"python": sys.version.split()[0], "torch": torch.__version__, "cuda": torch.version.cuda}
    if device == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(), "capability": torch.cuda.get_device_capability()}
        facts["memory_gib"] = round(torch.cuda.mem_get_info()[1] / 2**30, 1)
    from vae_lab.runs.provenance import processor_name, versions

    return facts | {"processor": processor_name(), "threads": torch.get_num_threads(), "versions": versions()}


def measure_speed(batch_size: int, device: str, folder: Path, *, compiled: str = "false") -> Facts:
    """Return ms per step and images/s of the real `train` path and of loops beside it, in both precisions.

    `compiled` is what `compile=` is, for the real path alone.

    All take turns inside one real training run of the convolutional network, so that they meet the same moods of the
    machine; the figures are medians over the turns.
    """
    from benchmarks.gpu_loops import speeds

    if compiled == "true" and device != "cuda":
        return {"skipped": "CUDA graphs need CUDA"}

    block, nblocks = (50, 12) if device == "cuda" else (2, 3)
    facts: Facts = {}
    for precision in PRECISIONS:
        settings = (f"data.batch_size={batch_size}", f"trainer.precision={precision}", f"compile={compiled}")
        seconds = speeds(device, folder / precision, *settings, block=block, nblocks=nblocks)
        medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
        told = {
            name: {"ms_per_step": round(1e3 * value, 4), "images_per_second": round(batch_size / value)}
            for name, value in medians.items()
        }
        ratios = {f"train / {name}": round(medians["train"] / medians[name], 3) for name in medians if name != "train"}
        facts[precision] = told | {"ratios": ratios}
    return facts | {"blocks": nblocks - 1, "steps_in_a_block": block}


PARTS = {
    "machine": Part(describe_machine, 5),
    "commands": Part(partial(check, "commands"), 40),
    "no_waiting": Part(partial(check, "no_waiting"), 15),
    "speed_32": Part(partial(measure_speed, 32), 15),
    "speed_256": Part(partial(measure_speed, 256), 15),
    "resume": Part(partial(check, "resume"), 15),
    "speed_32_compiled": Part(partial(measure_speed, 32, compiled="true"), 20),
    "compiled": Part(partial(check, "compiled"), 15),
    "compiled_gan": Part(partial(check, "compiled_gan"), 20),
    "staged": Part(partial(check, "staged"), 40),
    "precisions": Part(partial(check, "precisions"), 10),
    "reading_on_a_processor": Part(partial(check, "reading_on_a_processor"), 25),
    "speed_256_compiled": Part(partial(measure_speed, 256, compiled="true"), 20),
    "no_waiting_of_parts": Part(partial(check, "no_waiting_of_parts"), 30),
}
"""The most important first."""


def gains(seen: dict[str, Facts]) -> dict[str, dict[str, float]]:
    """Return how many times as fast each compiled run was as the one that was not, both beside the plain loop."""
    pairs = {"speed_32_compiled": "speed_32", "speed_256_compiled": "speed_256"}
    found: dict[str, dict[str, float]] = {}
    for name, other in pairs.items():
        parts = [seen.get(one, {}) for one in (other, name)]
        if all(part.get("passed") for part in parts):
            before, after = ([part[one]["ratios"]["train / plain loop"] for one in PRECISIONS] for part in parts)
            found[name] = {one: round(b / a, 3) for one, b, a in zip(PRECISIONS, before, after, strict=True)}
    return found


def outcome(part: Part, device: str, left: float) -> Facts:
    """Return what a part saw, why it failed, or why it was skipped."""
    if left < part.seconds:
        return {"skipped": f"{part.seconds:.0f} s are needed, and {max(left, 0):.0f} s are left"}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            facts = part.work(device, Path(folder))
            seen = facts if isinstance(facts.get("skipped"), str) else {"passed": True, **facts}
        except Exception as error:  # a part that fails keeps no other from being told
            lacking = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
            if lacking and not lacking.startswith(("vae_lab", "benchmarks")):
                return {"skipped": f"{lacking} is not installed; make gpu-wheels brings what is Python alone"}
            reason = f"{type(error).__name__}: {error}"
            seen = {"failed": reason[:2000], "traceback": traceback.format_exc()[-4000:]}
    return seen | {"seconds": round(time.perf_counter() - start, 2)}


def outcomes(device: str, limit: float, names: list[str]) -> Iterator[tuple[str, Facts]]:
    """Yield each part's name and what came of it; without a GPU there is no hurry."""
    start = time.perf_counter()
    for name in names:
        left = limit - (time.perf_counter() - start) if device == "cuda" else float("inf")
        yield name, outcome(PARTS[name], device, left)


def settings(arguments: list[str]) -> dict[str, str]:
    """Return device, limit, out and only as they were typed, or their defaults.

    Raises:
        ValueError: if there is no such setting or part, or no GPU.
    """
    given = {name: value for name, _, value in (argument.partition("=") for argument in arguments)}
    out = os.environ.get("OUT", "outputs/gpu")
    known = {"device": "cuda", "limit": str(LIMIT), "out": out, "only": ",".join(PARTS)}
    if set(given) - set(known):
        raise ValueError(f"{', '.join(sorted(set(given) - set(known)))}: there are {', '.join(known)}.")
    chosen = known | given
    unknown = set(chosen["only"].split(",")) - set(PARTS)
    if unknown:
        raise ValueError(f"only={','.join(sorted(unknown))}: there are {', '.join(PARTS)}.")
    if chosen["device"] == "cuda" and not torch.cuda.is_available():
        raise ValueError("there is no GPU that torch can use; device=cpu tries the script without one.")
    return chosen


def main(arguments: list[str]) -> int:
    """Write gpu.json after each part, print a line for each, and return the exit code."""
    try:
        chosen = settings(arguments)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    path = Path(chosen["out"]) / "gpu.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    seen: dict[str, Facts] = {}
    for name, facts in outcomes(chosen["device"], float(chosen["limit"]), chosen["only"].split(",")):
        seen[name] = facts
        told = {"device": chosen["device"], "parts": seen, "gain_of_compiling": gains(seen)}
        path.write_text(json.dumps(told, indent=2, default=str) + "\n")
        print(f"{name}: {json.dumps({key: value for key, value in facts.items() if key != 'traceback'}, default=str)}")
        sys.stdout.flush()
    failed = [name for name, facts in seen.items() if "failed" in facts]
    skipped = [name for name, facts in seen.items() if facts.get("skipped") and not facts.get("passed")]
    print(f"{path}: {len(seen) - len(failed) - len(skipped)} parts passed, skipped {skipped}, failed {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
