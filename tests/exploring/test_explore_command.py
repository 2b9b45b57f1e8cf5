"""The command: its settings, its server, and the page in headless Chromium."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import CHROMIUM
from invoking import invoke
from PIL import Image
from sweeping import LIMIT

from benchmarks.browser import CHROMIUM_OPTIONS
from vae_lab.explore import main
from vae_lab.exploring.server import ADDRESS, FIRST_PORT, free_port, is_free

IMAGE = "[class*=st-key-sticky-{}] img"


def needs_streamlit() -> None:
    pytest.importorskip("streamlit", reason="Streamlit is not installed: pip install 'vae_lab[explore]'")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.socket() as other:
        other.bind((ADDRESS, 0))
        other.listen()
        yield other.getsockname()[1]


WRONG: dict[str, tuple[tuple[str, ...], int, str]] = {
    "a port that is in use": (
        ("port={}",),
        2,
        "is in use or reserved; choose another one, or port=null",
    ),
    "no port": (("port=0",), 2, "port must be a whole number of at least 1, not 0; port=null takes the first free one"),
    "a high port": (("port=65536",), 2, "port=65536 is above 65535"),
    "no run": (("run=nothing",), 3, "there is no checkpoint at"),
    "a port and a page": (
        ("out=page.html", "port=80"),
        2,
        "out=page.html writes a page that needs no server; leave",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_a_sentence(
    name: str, taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    needs_streamlit()
    words, code, sentence = WRONG[name]
    monkeypatch.chdir(tmp_path)
    given = [word.format(taken) for word in words]
    assert invoke(main, "explore", "run=run", "threads=1", *given, monkeypatch=monkeypatch) == code
    assert sentence in capfd.readouterr().out


def test_without_streamlit_the_command_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "streamlit", None)
    monkeypatch.chdir(tmp_path)
    assert invoke(main, "explore", "run=run", monkeypatch=monkeypatch) == 2
    assert "the page needs Streamlit 1.59 or later: pip install 'vae_lab[explore]'" in capfd.readouterr().out


def test_a_free_port_is_found(taken: int) -> None:
    assert not is_free(taken)
    assert is_free(free_port(None))
    assert free_port(None) >= FIRST_PORT


@pytest.fixture
def server(blobs_run: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """The command on a run, as a user starts it: its process, the address that it prints, and what it prints."""
    needs_streamlit()
    root, output = Path(__file__).parents[2], tmp_path / "output.txt"
    env = os.environ | {"PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}", "HOME": str(tmp_path)}
    line = [sys.executable, "-m", "vae_lab.explore", f"run={blobs_run}", "threads=1", "browser=false"]
    line += ["score=neg_elbo", "ncalibration=40", "nfit=60"]
    with output.open("wb") as file:
        process = subprocess.Popen(line, stdout=file, stderr=subprocess.STDOUT, cwd=tmp_path, env=env)
    try:
        yield process, wait_for(lambda: address_in(output), process), output
    finally:
        process.kill()
        process.wait()


def address_in(output: Path) -> str:
    found = re.search(r"http://127\.0\.0\.1:\d+", output.read_text())
    return found[0] if found else ""


def wait_for(find: Callable[[], Any], process: subprocess.Popen[bytes]) -> Any:
    """What `find` returns as soon as it is something, as long as the process runs."""
    until = time.monotonic() + LIMIT
    while time.monotonic() < until and process.poll() is None:
        found = find()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"nothing was found; the process ended with {process.poll()}")


def listening(port: int) -> set[str]:
    """The addresses on which a port is listened to, as Linux writes them."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {words[1].partition(":")[0] for words in lines if words[1].endswith(f":{port:04X}") and words[3] == "0A"}


class Visit:
    """A page in Chromium, with what its console said and what it asked for."""

    def __init__(self, chromium: Any, address: str) -> None:
        self.console: list[str] = []
        self.requests: list[str] = []
        self.page = chromium.new_page(viewport={"width": 1280, "height": 900})
        self.page.set_default_timeout(120_000)
        self.page.on("console", lambda one: self.console.append(one.text) if one.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.console.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)

    def changed(self, image: str, act: Callable[[], object]) -> None:
        """Do something, and wait until the image is another one."""
        before = self.page.locator(image).get_attribute("src")
        act()
        changed = "([image, before]) => { const now = document.querySelector(image); return now && now.src !== before }"
        self.page.wait_for_function(changed, arg=[image, before])

    def drag_slider(self, number: int) -> None:
        thumb = self.page.locator(".st-key-sliders [data-testid=stSliderThumbValue]").nth(number).locator("xpath=..")
        thumb.scroll_into_view_if_needed()
        box = thumb.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + 60, y, steps=3)
        self.page.mouse.up()


def test_the_page_works_in_a_browser_and_ctrl_c_ends_it(
    server: tuple[subprocess.Popen[bytes], str, Path], tmp_path: Path
) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    process, address, output = server
    assert listening(int(address.rpartition(":")[2])) == {"0100007F"}, "127.0.0.1 alone"
    Image.new("L", (40, 30), 200).save(tmp_path / "mine.png")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS, chromium_sandbox=False)
        visit = Visit(chromium, address)
        visit.page.wait_for_selector(".st-key-sliders [data-testid=stSliderThumbValue]")
        for number in (0, 1):
            visit.changed(IMAGE.format("decoded"), lambda number=number: visit.drag_slider(number))
        visit.page.get_by_role("tab", name="Your picture").click()
        visit.page.get_by_text("as the model sees it").wait_for()
        shown = "[role=tabpanel]:not([inert]) [data-testid=stImage] img"
        chooser = visit.page.locator("input[type=file]").first
        visit.changed(shown, lambda: chooser.set_input_files(tmp_path / "mine.png"))
        visit.page.get_by_role("tab", name="Map").click()
        visit.page.locator(".nsewdrag").wait_for()
        visit.changed(IMAGE.format("map"), lambda: visit.page.locator(".nsewdrag").click(position={"x": 30, "y": 30}))
        visit.page.get_by_text(re.compile(r"^decoded at \(-")).wait_for()
        assert visit.console == []
        assert {url.partition(":")[0] for url in visit.requests if not url.startswith(address)} <= {
            "data",
            "blob",
            "ws",
        }
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 130
        chromium.close()
    assert output.read_text().endswith("stopped by SIGINT, at once.\n")
