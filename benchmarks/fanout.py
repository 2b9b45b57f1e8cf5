"""Wall time of four trials side by side on two cores, as a share of that of the four one after the other.

python -m benchmarks.fanout [data_root=<folder with MNIST/raw>] [steps=1000]

The least a trial can be slowed down by its neighbour is what two commands started by hand, one thread each, do to each
other: the two halves of a processor may share their arithmetic. Needs the extra `joblib`. Without `data_root`, the
bundled digits are trained on.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SEEDS = (0, 1, 2, 3)


def command(*arguments: str) -> list[str]:
    """Return the command line of a training."""
    return [sys.executable, "-m", "vae_lab.train", *arguments, "logger=none", "trainer.precision=32-true"]


def wall(commands: list[list[str]], cwd: Path, **env: str) -> float:
    """Return the seconds that commands take which are started at once."""
    cwd.mkdir()
    started = time.monotonic()
    quiet = {"stdout": subprocess.DEVNULL, "cwd": cwd, "env": os.environ | env}
    processes = [subprocess.Popen(line, **quiet) for line in commands]  # noqa: S603
    if any([process.wait() for process in processes]):  # noqa: C419
        raise SystemExit(f"a training in {cwd} failed")
    return time.monotonic() - started


def training_seconds(cwd: Path) -> list[float]:
    """Return the seconds that each run below a folder spent on its batches."""
    return [json.loads(path.read_text())["seconds"]["training"] for path in cwd.rglob("summary.json")]


def main() -> None:
    """Print both walls, their ratio, and how much slower trials were than two commands beside each other."""
    asked = dict(argument.split("=") for argument in sys.argv[1:])
    root = asked.get("data_root")
    data = ("data=digits",) if root is None else ("data=mnist", f"data.root={Path(root).absolute()}")
    settings = (*data, f"trainer.max_steps={asked.get('steps', 1000)}", "trainer.val_check_interval=1000")
    sweep = ("-m", *settings, f"seed={','.join(map(str, SEEDS))}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        serial = wall([command(*sweep)], folder / "serial")
        joblib = wall([command(*sweep, "launcher=joblib", "hydra.launcher.n_jobs=2")], folder / "joblib")
        pair = [command(*settings, f"seed={seed}") for seed in SEEDS[:2]]
        wall(pair, folder / "pair", OMP_NUM_THREADS="1")
        slowest, must = max(training_seconds(folder / "joblib")), max(training_seconds(folder / "pair"))
    sys.stdout.write(
        f"one after the other {serial:.1f} s, two at a time {joblib:.1f} s:"
        f" {joblib / serial:.2f} of it (limit 0.85)\n"
        f"slowest trial {slowest:.1f} s of training, beside another command {must:.1f} s: {slowest / must:.2f} times as"
        " long (limit 1.3)\n"
    )


if __name__ == "__main__":
    main()
