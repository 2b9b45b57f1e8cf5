"""Encoding of image files against a bare loop over the same files, and the peak memory of both.

    python -m benchmarks.encode data_root=<folder with MNIST/raw> [n=60000] [many=600000]

The images are PNG files of MNIST, and the model has random weights of the default network. The bare loop opens 1,000
files after each other with PIL, encodes them and keeps the means. Both take turns in processes of their own. For the
memory of `many` files, the folder holds links to the first `n`; `many=0` leaves that out.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vae_lab import load_data, load_model, train_run
from vae_lab.latents.folder import encode_folder
from vae_lab.runs.inference import every_pixel
from vae_lab.runs.provenance import processor_name

TURNS = 3
BATCH = 1000
PER_FOLDER = 10_000


def write_files(run: Path, folder: Path, n: int) -> None:
    """Write the run's images as PNG files, in folders of 10,000."""
    splits = load_data(run).splits
    pixels = torch.cat([every_pixel(part) for part in (splits.train, splits.val, splits.test)])[:n]
    for i, image in enumerate((255 * pixels).byte().numpy()):
        path = folder / str(i // PER_FOLDER) / f"{i:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path)


def link_files(folder: Path, other: Path, n: int) -> None:
    """Fill another folder with n links to the files of a folder."""
    files = sorted(folder.rglob("*.png"))
    for i in range(n):
        path = other / str(i // PER_FOLDER) / f"{i:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(files[i % len(files)], path)


def encode_bare(run: Path, folder: Path, out: Path) -> None:
    """Write the posterior means of the files in a folder, as a script of one's own would."""
    model = load_model(run).eval()
    files = sorted(folder.rglob("*.png"))
    means = []
    with torch.no_grad():
        for start in range(0, len(files), BATCH):
            arrays = np.stack([np.asarray(Image.open(path)) for path in files[start : start + BATCH]])
            means.append(model.posterior(torch.from_numpy(arrays)[:, None] / 255).mean)
    np.savez(out, mean=torch.cat(means).numpy())


def measure(what: str, run: Path, folder: Path) -> dict[str, float]:
    """Encode in a process of its own, and return the seconds, without imports, and the peak memory in MiB."""
    out = run.parent / f"{what}.npz"
    line = [sys.executable, "-m", "benchmarks.encode", "child", what, str(run), str(folder), str(out)]
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
    return json.loads(done.stdout.splitlines()[-1])


def child(what: str, run: str, folder: str, out: str) -> None:
    """Encode, and print the seconds and the peak memory."""
    started = time.perf_counter()
    if what == "bare":
        encode_bare(Path(run), Path(folder), Path(out))
    else:
        encode_folder(run=run, images=folder, out=out)
    seconds = time.perf_counter() - started
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    peak = int(status["VmHWM"].split()[0]) / 1024  # ru_maxrss would include the process that started this one
    sys.stdout.write(json.dumps({"seconds": seconds, "peak": peak}) + "\n")


def main() -> None:
    """Print the images in a second of both, their ratio, and the peak memory."""
    asked = {"n": "60000", "many": "600000"} | dict(argument.split("=") for argument in sys.argv[1:])
    n, many = int(asked["n"]), int(asked["many"])
    data = ["data=digits"] if "data_root" not in asked else ["data=mnist", f"data.root={asked['data_root']}"]
    with tempfile.TemporaryDirectory() as place:
        run, folder = Path(place) / "run", Path(place) / "images"
        short = ["trainer.max_steps=1", "trainer.val_check_interval=1", "logger=none"]
        train_run([*data, *short, f"folder={run}"])
        write_files(run, folder, n)
        n = len([*folder.rglob("*.png")])
        measure("bare", run, folder)  # both then read from the cache of the file system
        turns = [(measure("vae_lab", run, folder), measure("bare", run, folder)) for _ in range(TURNS)]
        print(f"{processor_name()}, {torch.get_num_threads()} threads, {n} files", flush=True)
        for ours, bare in turns:
            print(
                f"{n / ours['seconds']:8.0f} images/s, bare loop {n / bare['seconds']:8.0f}:"
                f" {bare['seconds'] / ours['seconds']:.2f}; peak {ours['peak']:.0f} MiB, bare loop {bare['peak']:.0f}",
                flush=True,
            )
        if many:
            link_files(folder, Path(place) / "many", many)
            ours = measure("vae_lab", run, Path(place) / "many")
            print(f"{many} files: {many / ours['seconds']:.0f} images/s, peak {ours['peak']:.0f} MiB")


if __name__ == "__main__":
    child(*sys.argv[2:]) if sys.argv[1:2] == ["child"] else main()
