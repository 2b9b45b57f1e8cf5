"""`python docs/samplers.py <run folder> <out.png>`: real images, and samples by each sampler."""

import sys
from pathlib import Path

import torch

from vae_lab.data.grids import grid
from vae_lab.runs import load_data, load_model
from vae_lab.runs.inference import decode_samples, every_pixel
from vae_lab.sampling.mixture import load_sampler
from vae_lab.system.atomic import write_png

COLUMNS = 16

run, out = Path(sys.argv[1]), Path(sys.argv[2])
model, data = load_model(run), load_data(run)
samplers = {"posterior": data.eval_splits.val, "gmm": load_sampler(run, model, "gmm"), "prior": model.prior()}
rows = [every_pixel(data.raw_splits.test, COLUMNS)]
rows += [decode_samples(model, sampler, COLUMNS, name=name, seed=1) for name, sampler in samplers.items()]
write_png(out, grid(torch.cat(rows), COLUMNS))
