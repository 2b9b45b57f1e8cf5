"""Decoding in the page that `python -m vae_lab.explore out=page.html` writes, in Chromium, against torch.

    python -m benchmarks.page_decode            conf/model's conv, resnet_fast and fastgan, with random weights
    python -m benchmarks.page_decode model=resnet data.image_size=64 data.channels=3

It prints the size of the page, the milliseconds from opening the file to its first image, and the median time per image
of the page and of torch with one thread; both take turns on the same latents, one at a time. It needs
`pip install 'vae_lab[export]' playwright`, npm and Chromium.
"""

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vae_lab.exporting.page import LatentKL, page_content, render
from vae_lab.exporting.parts import LatentDecoder
from vae_lab.exporting.web_runtime import read_runtime
from vae_lab.probability.latent_model import LatentModel
from vae_lab.runs.configs import build
from vae_lab.runs.provenance import processor_name
from vae_lab.system.config_dir import CONF

TURNS, NLATENTS = 5, 20
MODELS = [
    ["model=conv", "data.image_size=28"],
    ["model=resnet_fast", "data.image_size=64", "data.channels=3"],
    ["model=fastgan", "data.image_size=64", "data.channels=3"],
]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
TIMED = """async (latents) => {
  const times = [];
  for (const z of latents) {
    const start = performance.now();
    await page.decode(z, null);
    times.push(performance.now() - start);
  }
  return times;
}"""


def torch_times(model: LatentModel, latents: torch.Tensor) -> list[float]:
    """Return the milliseconds in which torch decodes each latent vector."""
    decoder, times = LatentDecoder(model), []
    for z in latents.split(1):
        start = time.perf_counter()
        with torch.no_grad():
            decoder(z).flatten().tolist()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def compare(model: LatentModel, path: Path) -> tuple[float, float, float]:
    """Return the milliseconds to a page's first image, and the median ones per image of the page and of torch."""
    from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

    with sync_playwright() as playwright:
        options = {"executable_path": CHROMIUM, "args": OPTIONS, "chromium_sandbox": False}
        opened = playwright.chromium.launch(**options).new_page()
        opened.goto(path.as_uri())
        first = opened.evaluate("page.ready")
        opened.wait_for_timeout(2000)  # the samples are decoded, and the code is compiled a second time, for speed
        ours, theirs = [], []
        for _ in range(TURNS):
            latents = torch.randn(NLATENTS, model.nlatent)
            ours += opened.evaluate(TIMED, latents.tolist())
            theirs += torch_times(model, latents)
    return first, statistics.median(ours), statistics.median(theirs)


def main() -> None:
    """Print a row for each model."""
    torch.set_num_threads(1)
    print(f"{processor_name()}, 1 thread")
    for settings in [sys.argv[1:]] if sys.argv[1:] else MODELS:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", ["data=synthetic", *settings])
        model = build(OmegaConf.to_container(cfg.model, resolve=True)).eval()
        latents = LatentKL(torch.zeros(model.nlatent), "no image")
        content = page_content(model, latents, ("benchmark", " ".join(settings)), [], "out=page.html")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "page.html"
            path.write_text(render(content, read_runtime()))
            first, ours, theirs = compare(model, path)
            row = f"{' '.join(settings):56} {path.stat().st_size / 1e6:5.1f} MB, first image after {first:5.0f} ms;"
        print(f"{row} {ours:7.2f} ms, torch {theirs:7.2f} ms: {ours / theirs:.2f}", flush=True)


if __name__ == "__main__":
    main()
