"""How long `explore` takes from the move of a slider to the new image, in its server and in Chromium.

    python -m benchmarks.explore_latency                       the seed's network on 28x28 pixels, trained for 4 steps
    python -m benchmarks.explore_latency <run folder> [moves]

In the server, a time is from the arrival of the browser's message to the message with the new image; in Chromium, from
the release of the mouse button to the frame with the new image. It needs `pip install 'vae_lab[explore]' playwright`
and Chromium. Only one person should use the machine.
"""

import os
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from benchmarks.browser import CHROMIUM_OPTIONS
from vae_lab.detection.calibration import Calibration, score_config
from vae_lab.exploring.explored import Explored
from vae_lab.exploring.server import ADDRESS, free_port, is_free, serve
from vae_lab.runs.provenance import processor_name
from vae_lab.system.config_dir import CONF
from vae_lab.training.run import train_run

SETTINGS = [
    "data=synthetic", "data.image_size=28", "model=conv", "logger=none", "trainer.max_steps=4",
    "trainer.val_check_interval=4", "trainer.precision=32-true", "~callbacks.gallery", "~callbacks.latents",
]  # fmt: skip
WATCH = """() => {
  window.took = []; let released = null, last = null;
  const image = () => document.querySelector("[class*=st-key-sticky-decoded] img");
  last = image().src;
  addEventListener("pointerup", () => { released = performance.now(); }, true);
  new MutationObserver(() => {
    const now = image();
    if (released === null || !now || now.src === last) return;
    last = now.src; const since = released; released = null;
    now.decode().then(() => requestAnimationFrame(() => window.took.push(performance.now() - since)));
  }).observe(document.body, {subtree: true, childList: true, attributes: true, attributeFilter: ["src"]});
}"""


def time_messages(times: list[float]) -> None:
    """Append the seconds from each message of the browser to the next message with an image to `times`."""
    from streamlit.runtime.app_session import AppSession  # pyright: ignore[reportMissingImports]

    arrived: list[float] = []
    arrive, send = AppSession.handle_backmsg, AppSession._enqueue_forward_msg  # noqa: SLF001 (there is no other place)

    @wraps(arrive)
    def on_arrival(session: Any, message: Any) -> None:  # noqa: ANN401
        arrived[:] = [time.perf_counter()]
        arrive(session, message)

    @wraps(send)
    def on_send(session: Any, message: Any) -> None:  # noqa: ANN401
        send(session, message)
        if arrived and message.delta.new_element.HasField("imgs"):
            times.append(time.perf_counter() - arrived.pop())

    AppSession.handle_backmsg, AppSession._enqueue_forward_msg = on_arrival, on_send  # noqa: SLF001  # pyright: ignore[reportAttributeAccessIssue]


def move_sliders(address: str, nmoves: int) -> list[float]:
    """Return the milliseconds from each release of the mouse button to the new image, of moves over all sliders."""
    from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *CHROMIUM_OPTIONS])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(address)
        page.wait_for_selector("[class*=st-key-sticky-decoded] img", timeout=120_000)
        page.wait_for_timeout(3000)
        page.evaluate(WATCH)
        thumbs = page.locator(".st-key-sliders [data-testid=stSliderThumbValue]").locator("xpath=..")
        for i in range(nmoves):
            thumb = thumbs.nth(i % min(8, thumbs.count()))
            box = thumb.bounding_box()
            assert box is not None
            x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            step = 40 if i // 8 % 2 else -40
            page.mouse.move(x, y)
            page.mouse.down()
            page.mouse.move(x + step, y, steps=4)
            page.mouse.up()
            page.wait_for_function(f"window.took.length > {i}", timeout=60_000)
        took = page.evaluate("window.took")
        browser.close()
    return took


def describe(name: str, milliseconds: list[float]) -> str:
    """Return a line with the median, the 95th percentile and the largest of some times."""
    p95 = statistics.quantiles(milliseconds, n=20)[-1]
    median, largest = statistics.median(milliseconds), max(milliseconds)
    return (
        f"{name}: median {median:.0f} ms, 95th percentile {p95:.0f}, largest {largest:.0f}, {len(milliseconds)} moves"
    )


def measure(run: Path, nmoves: int) -> None:
    """Print the times of a run."""
    explored = Explored(run, score_config("neg_elbo"), Calibration())
    port, sent, took = free_port(None), [], []
    time_messages(sent)

    def drive() -> None:
        try:
            while is_free(port):
                time.sleep(0.1)
            took.extend(move_sliders(f"http://{ADDRESS}:{port}", nmoves))
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    driver = threading.Thread(target=drive)
    driver.start()
    try:
        serve(explored, port, browser=False)
    except KeyboardInterrupt:
        driver.join()
    print(f"{processor_name()}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    print(describe("in the server", [1000 * seconds for seconds in sent[-nmoves:]]))
    print(describe("in Chromium", took))


def main() -> None:
    """Measure a run, or a model that is trained for 4 steps."""
    nmoves = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]), nmoves)
        return
    with tempfile.TemporaryDirectory() as folder:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            train_run(compose("train", [*SETTINGS, f"folder={folder}/run"]))
        measure(Path(folder) / "run", nmoves)


if __name__ == "__main__":
    main()
