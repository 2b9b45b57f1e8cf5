"""Encoders and decoders in ONNX Runtime against torch, both with the same number of threads.

    python -m benchmarks.onnx_speed                     conf/model's conv, mlp and resnet_fast, with random weights
    python -m benchmarks.onnx_speed model=fastgan data.image_size=64 data.channels=3

Both take turns on the same inputs; the ratio is that of the medians, and below 1 ONNX Runtime is faster. It needs
`pip install 'vae_lab[export]'`. Files are written to a temporary folder.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from vae_lab.exporting.graphs import FORMATS, require_onnx, write_checked
from vae_lab.exporting.parts import Part, parts_of
from vae_lab.runs.configs import build
from vae_lab.runs.provenance import processor_name
from vae_lab.system.config_dir import CONF

TURNS, SHORTEST = 9, 0.2
BATCHES = (1, 64)
MODELS = [
    ["model=mlp", "data.image_size=28"],
    ["model=conv", "data.image_size=28"],
    ["model=resnet_fast", "data.image_size=64", "data.channels=3"],
]


def seconds(function: Callable[..., object], inputs: list[Tensor], ncalls: int) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    for _ in range(ncalls):
        function(*inputs)
    return (time.perf_counter() - start) / ncalls


def compare(part: Part, exported: Callable[..., object], batch: int) -> tuple[float, float]:
    """Return the median seconds of a call, of ONNX Runtime and of torch."""
    inputs = [value[:batch] for value in part.inputs.values()]
    functions = (exported, part)
    ncalls = [max(1, round(SHORTEST / seconds(function, inputs, 2))) for function in functions]
    turns = [
        [seconds(function, inputs, n) for function, n in zip(functions, ncalls, strict=True)] for _ in range(TURNS)
    ]
    ours, theirs = (statistics.median(times) for times in zip(*turns, strict=True))
    return ours, theirs


def main() -> None:
    """Print a row for each model, part and batch size."""
    require_onnx()
    print(f"{processor_name()}, {torch.get_num_threads()} threads")
    for settings in [sys.argv[1:]] if sys.argv[1:] else MODELS:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", ["data=synthetic", *settings])
        model = build(OmegaConf.to_container(cfg.model, resolve=True)).eval()
        with tempfile.TemporaryDirectory() as folder:
            for part in parts_of(model, None):
                path = Path(folder) / f"{part.name}.onnx"
                write_checked(part, "onnx", path, tolerance=1e-4)
                exported = FORMATS["onnx"].load(path)
                for batch in BATCHES:
                    ours, theirs = compare(part, exported, batch)
                    row = f"{' '.join(settings):48} {part.name:8} batch {batch:3}"
                    print(f"{row} {1e3 * ours:8.3f} ms, torch {1e3 * theirs:8.3f} ms: {ours / theirs:.2f}", flush=True)


if __name__ == "__main__":
    main()
