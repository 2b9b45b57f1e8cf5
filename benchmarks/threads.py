"""Images per second of the default run with one thread, with all cores and with threads=auto, quiet and in company.

    python -m benchmarks.threads                           about 6 minutes on two cores, of which a crawl takes half
    python -m benchmarks.threads --steps 60 --turns 3

Each figure is of a training of its own, started as a user starts it, of the 2018 network on the bundled digits; with
several turns it is their median. The competitors compute in Python without end, and are ended with each training.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vae_lab.runs.provenance import processor_name
from vae_lab.system.threads import EXPORTED, allowed_cores

COMPETITORS = (0, 1, 2)
LONGEST = 900  # seconds after which a competitor ends in any case, and a training is given up
BUSY = f"import time\nend = time.monotonic() + {LONGEST}\nwhile time.monotonic() < end: pass"
GOAL = 0.8


@contextmanager
def company(number: int) -> Iterator[None]:
    """Have so many processes compute meanwhile."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(number)]  # noqa: S603
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def train(threads: str, steps: int) -> tuple[float, int]:
    """Return the images per second of a training, and its number of threads."""
    env = {key: value for key, value in os.environ.items() if key not in EXPORTED}
    settings = [
        f"threads={threads}",
        f"trainer.max_steps={steps}",
        f"trainer.val_check_interval={steps}",
        "logger=none",
    ]
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "vae_lab.train", *settings, f"folder={folder}/run"]
        subprocess.run(line, env=env, check=True, stdout=subprocess.DEVNULL, timeout=LONGEST)  # noqa: S603
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
    return summary["images_per_second"], summary["threads"]


def main() -> None:
    """Print a row for each number of competitors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="batches of each training")
    parser.add_argument("--turns", type=int, default=1, help="trainings of each kind")
    arguments = parser.parse_args()
    every = str(allowed_cores())
    settings = ("1", every, "auto")
    print(f"{processor_name()}, {every} cores, {arguments.steps} batches of 32: images/s, median of {arguments.turns}")
    print(f"{'competitors':>11} {'threads=1':>10} {f'threads={every}':>10} {'auto':>10} {'auto took':>10} {'ratio':>7}")
    found: dict[tuple[int, str], list[tuple[float, int]]] = {(n, s): [] for n in COMPETITORS for s in settings}
    for _ in range(arguments.turns):
        for number in COMPETITORS:
            for setting in settings:
                with company(number):
                    found[number, setting].append(train(setting, arguments.steps))
    for number in COMPETITORS:
        one, many, auto = (statistics.median(speed for speed, _ in found[number, setting]) for setting in settings)
        taken = ",".join(str(threads) for _, threads in found[number, "auto"])
        ratio = auto / max(one, many)
        print(f"{number:>11} {one:>10.0f} {many:>10.0f} {auto:>10.0f} {taken:>10} {ratio:>7.2f} (goal {GOAL})")


if __name__ == "__main__":
    main()
