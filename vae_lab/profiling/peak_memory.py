"""Peak memory of generation and training, measured in a separate process.

On a GPU this is the peak of torch's allocator. On the CPU it is the peak resident memory minus the resident memory
after a warm-up with a small batch. MALLOC_MMAP_THRESHOLD_ makes glibc return freed blocks at once; otherwise it keeps 5
to 25 % more, depending on the order of sizes.
"""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from vae_lab.profiling.workload import Setting, Workload, phases

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def footprint(setting: Setting, warm_up: Setting) -> dict[str, int]:
    """Return the memory in bytes of the idle `process`, and how much `generation` and `training` add at their peaks.

    Raises:
        MemoryError: if the process was killed or ran out of memory.
        RuntimeError: if the process failed.
    """
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    asked = json.dumps({"setting": setting._asdict(), "warm_up": warm_up._asdict()})
    done = subprocess.run(
        [sys.executable, "-m", "vae_lab.profiling.peak_memory"],
        input=asked,
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
        env=environment,
        check=False,
    )
    if done.returncode < 0 or "OutOfMemoryError" in done.stderr or "can't allocate memory" in done.stderr:
        size = setting.config["model"]["image_size"]
        raise MemoryError(f"out of memory with {setting.batch_size} images of {size} pixels; reduce batch_size.")
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Read two settings as JSON from standard input, and write the measured peaks as JSON to standard output."""
    asked: dict[str, Any] = json.load(sys.stdin)
    sys.stdout.write(json.dumps(measure(Setting(**asked["setting"]), Setting(**asked["warm_up"]))) + "\n")


def measure(setting: Setting, warm_up: Setting) -> dict[str, int]:
    """Return what `footprint` returns, measured in this process: peaks minus the memory after the warm-up."""
    for _ in phases(Workload(warm_up)):
        pass
    gc.collect()
    before = restart(setting.device)
    peaks = {name: peak(setting.device) - before for name in phases(Workload(setting))}
    return peaks | {"process": before}


def restart(device: str) -> int:
    """Return the current memory in bytes, and reset the recorded peak; if it cannot be reset, return the peak."""
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    if not CLEAR.exists():
        return peak(device)
    CLEAR.write_text("5", encoding="utf-8")  # proc(5): resets the high-water mark
    return _line("VmRSS")


def peak(device: str) -> int:
    """Return the peak memory in bytes: of torch's allocator on a GPU, of this process on a CPU."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated()
    if STATUS.exists():
        return _line("VmHWM")
    import resource  # missing on Windows

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def _line(name: str) -> int:
    (line,) = (line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
