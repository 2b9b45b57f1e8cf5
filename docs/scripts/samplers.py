"""`python docs/scripts/samplers.py <run folder> <out.png>`: write real images, and samples by each sampler, as rows."""

import sys
from functools import partial
from pathlib import Path

import torch

from vae_lab.data.grids import grid
from vae_lab.runs import load_data, load_model
from vae_lab.runs.inference import decode_samples, every_pixel
from vae_lab.sampling.store import load_sampler
from vae_lab.system.atomic import write_png

COLUMNS = 16


def main(run: Path, out: Path) -> None:
    """Write the picture."""
    model, data = load_model(run), load_data(run)
    decode = partial(decode_samples, model, n=COLUMNS, labels=data.raw_splits.test.labels, seed=1)
    densities = {name: load_sampler(run, model, name) for name in ("gmm", "flow", "prior")}
    samplers = {"posterior": data.eval_splits.val} | densities
    rows = [every_pixel(data.raw_splits.test, COLUMNS)]
    rows += [decode(sampler, name=name) for name, sampler in samplers.items()]
    write_png(out, grid(torch.cat(rows), COLUMNS))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
