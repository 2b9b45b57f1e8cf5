"""The page to send, opened from its file in headless Chromium without a network."""

import html
import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from browsing import CHROMIUM
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from benchmarks.browser import CHROMIUM_OPTIONS
from vae_lab.errors import StorageError
from vae_lab.exporting import web_runtime
from vae_lab.exporting.graphs import PACKAGES
from vae_lab.exporting.page import Content, LatentKL, global_script, page_content, rank_latents, render, write_page
from vae_lab.exporting.parts import LatentDecoder
from vae_lab.probability.latent_model import LatentModel
from vae_lab.runs.configs import build
from vae_lab.runs.load import load_model
from vae_lab.system.config_dir import CONF

GREY_LEVEL = 1 / 255
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
MOVED = """(slider) => { slider.value = slider.max; slider.dispatchEvent(new Event("input")); }"""


@pytest.fixture(scope="module")
def runtime() -> dict[str, bytes]:
    """The files of ONNX Runtime Web, where the packages that a page is made with are."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} are not installed: pip install 'vae_lab[export]'")
    try:
        return web_runtime.read_runtime()
    except (StorageError, ValueError) as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS, chromium_sandbox=False)
        yield chromium
        chromium.close()


class Visit:
    """A page opened without a network, what its console said, and what it asked for besides its own file."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, script: str = "") -> None:
        self.console: list[str] = []
        self.requests: list[str] = []
        context = browser.new_context(viewport={"width": width, "height": 800})
        context.set_offline(True)
        self.page = context.new_page()
        self.page.set_default_timeout(60_000)
        if script:
            self.page.add_init_script(script)
        self.page.on("console", lambda message: self.console.append(message.text))
        self.page.on("pageerror", lambda error: self.console.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.first = self.page.evaluate("page.ready")
        assert self.requests.pop(0) == path.as_uri()

    def shown(self) -> list[float]:
        """The newest pixels, after the latents that the page shows have been decoded."""
        return self.page.evaluate("page.become(page.latents())")

    def latents(self) -> torch.Tensor:
        return torch.tensor([self.page.evaluate("page.latents()")], dtype=torch.float32)


@torch.no_grad()
def decoded(model: LatentModel, z: torch.Tensor, label: int | None = None) -> list[float]:
    """The pixels that the model decodes."""
    given = () if label is None else (torch.tensor([label]),)
    return LatentDecoder(model)(z, *given).flatten().tolist()


@pytest.fixture(scope="module")
def sent(runtime: Any, trained: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run, in another folder than the run."""
    return write_page(trained[0], tmp_path_factory.mktemp("sent") / "page.html")


def test_the_page_of_a_run_decodes_as_the_model_does_without_a_network(
    browser: Any, sent: Path, trained: tuple[Path, dict[str, Any]]
) -> None:
    model, visit = load_model(trained[0]), Visit(browser, sent)
    mean = visit.shown()
    sliders = visit.page.locator("#latents input[type=range]")
    assert sliders.count() == model.nlatent == 8
    assert mean == pytest.approx(decoded(model, torch.zeros(1, 8)), abs=GREY_LEVEL / 10)
    for i in range(3):
        sliders.nth(i).evaluate(MOVED)
    moved = visit.shown()
    z = visit.latents()
    assert (z == 4).sum() == 3
    assert moved == pytest.approx(decoded(model, z), abs=GREY_LEVEL / 10)
    assert moved != pytest.approx(mean, abs=GREY_LEVEL / 10)
    assert canvas_of(visit) == [round(255 * value) for value in moved]
    assert (visit.console, visit.requests) == ([], [])
    text = visit.page.inner_text("body")
    assert "SyntheticBlobs, 16 x 16 pixels · 4 steps · test/neg_elbo" in text
    assert re.search(r"z \d\s+\d\.\d\d nats\s+4\.00", text)
    assert "8 validation images" in text


def canvas_of(visit: Visit) -> list[int]:
    """The red bytes of the large picture."""
    data = visit.page.evaluate("""() => { const { width, height } = document.getElementById("image");
      return [...document.getElementById("image").getContext("2d").getImageData(0, 0, width, height).data]; }""")
    return data[::4]


def test_each_control_of_the_page_does_what_it_says(browser: Any, sent: Path) -> None:
    visit = Visit(browser, sent, width=400)
    page = visit.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    start = visit.latents()
    page.get_by_role("button", name="Draw from the prior").press("Enter")
    drawn = visit.latents()
    assert (drawn != start).all()
    page.get_by_role("button", name="Keep as A").click()
    page.get_by_role("button", name="Continue from sample 5").click()
    sample = visit.latents()
    page.get_by_role("button", name="Keep as B").click()
    position = page.get_by_label("Position between A and B")
    for key, expected in (("Home", drawn), ("End", sample)):
        position.press(key)
        torch.testing.assert_close(visit.latents(), expected)
    for _ in range(50):
        position.press("ArrowLeft")
    lengths = [z.norm().item() for z in (drawn, sample)]
    assert min(lengths) * 0.9 < visit.latents().norm() < max(lengths)
    page.get_by_role("button", name="Back to the mean").click()
    assert not visit.latents().any()
    page.get_by_label("Temperature").press("Home")
    page.get_by_role("button", name="Draw from the prior").click()
    assert 0 < visit.latents().norm() < 1
    with page.expect_download() as download:
        page.get_by_role("button", name="Download PNG").click()
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    assert visit.console == []


def test_a_browser_without_webassembly_is_told_so(browser: Any, sent: Path) -> None:
    visit = Visit(browser, sent, script="delete globalThis.WebAssembly")
    assert visit.first is None
    assert "This browser has no WebAssembly" in visit.page.inner_text("#status")
    assert visit.page.locator("#draw").is_disabled()


def untrained(*settings: str) -> LatentModel:
    """A small model of a config, with random weights."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["data=synthetic", *settings])
    torch.manual_seed(0)
    return build(OmegaConf.to_container(cfg.model, resolve=True)).eval()


def content_of(model: LatentModel, title: str = "run", classes: tuple[str, ...] = ()) -> Content:
    latents = LatentKL(torch.rand(model.nlatent), "4 images")
    return page_content(model, latents, (title, title), classes, "out=page.html")


MLP = ("model=mlp", "model.encoder.width=16")
KINDS = {
    "classes": (*MLP, "model.nclasses=3", "model.nlatent=40"),
    "mixture": (*MLP, "prior=vamp", "data.image_size=16"),
    "ladder": ("model=ladder_mlp", "model.encoder.width=16", "model.decoder.groups=[4,3]"),
    "direction": ("model=fastgan", "model.encoder.widths=[8]", "model.decoder.widths=[8]", "data.image_size=32"),
    "colour": ("model=resnet", "model.encoder.widths=[8]", "data.channels=3", "likelihood=logistic"),
}


@pytest.mark.parametrize("kind", [k if k == "classes" else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
def test_the_page_of_each_kind_of_model_draws_and_decodes(
    browser: Any, runtime: dict[str, bytes], tmp_path: Path, kind: str
) -> None:
    model, path = untrained(*KINDS[kind]), tmp_path / "page.html"
    path.write_text(render(content_of(model, HOSTILE, (HOSTILE,)), runtime))
    visit = Visit(browser, path)
    visit.page.click("#draw")
    label = None
    if model.nclasses:
        assert visit.page.locator("#label option").all_inner_texts() == [HOSTILE, "1", "2"]
        visit.page.select_option("#label", "2")
        label = 2
    assert visit.shown() == pytest.approx(decoded(model, visit.latents(), label), abs=GREY_LEVEL / 10)
    sliders = visit.page.locator("#latents input[type=range]")
    assert sliders.count() == min(16, model.nlatent)
    if model.nlatent > 16:
        visit.page.click("#more")
        assert sliders.count() == model.nlatent or kind == "direction"
    assert visit.page.locator("#mean").is_visible() == (kind != "direction")
    assert visit.page.title() == f"{HOSTILE}: latent space"
    assert visit.page.locator("img").count() == 0
    assert (visit.console, visit.requests) == ([], [])


@pytest.mark.slow
def test_draws_of_the_page_have_the_moments_of_the_prior(
    browser: Any, runtime: dict[str, bytes], tmp_path: Path
) -> None:
    model, path = untrained(*KINDS["mixture"]), tmp_path / "page.html"
    path.write_text(render(content_of(model), runtime))
    visit = Visit(browser, path)
    drawn = visit.page.evaluate(
        "async () => { const found = []; for (let i = 0; i < 2000; i++) found.push(await page.draw()); return found; }"
    )
    z, prior = torch.tensor(drawn), model.prior()
    torch.testing.assert_close(z.mean(0), prior.mean.detach(), atol=0.12, rtol=0)
    torch.testing.assert_close(z.std(0), prior.stddev.detach(), atol=0.1, rtol=0)


def test_a_page_forbids_connections_and_foreign_scripts(sent: Path) -> None:
    text = sent.read_text()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; script-src ")
    assert not re.search("connect-src|unsafe-inline|unsafe-eval(?<!wasm-unsafe-eval)", policy)
    assert html.unescape(policy).count("'sha256-") == 3
    assert not re.search(r'(?:src|href)="', text[: text.index('id="binary-data"')])
    assert sent.stat().st_size < 25e6


class Deciding(nn.Module):
    """A decoder whose path depends on the latents."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.inner(z) if z.mean() > 0 else self.inner(-z)


def test_a_model_that_cannot_be_exported_is_refused_in_a_sentence(runtime: Any) -> None:
    model = untrained(*MLP)
    model.decoder = Deciding(model.decoder)
    with pytest.raises(ValueError, match=r"out=page\.html: the decoder of this model is not a graph of tensors \("):
        content_of(model)


def test_without_the_data_latents_are_ranked_on_generated_images(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    run, conditional = tmp_path / "run", untrained(*KINDS["classes"])
    (run / "checkpoints").mkdir(parents=True)
    assert rank_latents(run, "best", load_model(trained[0]), None).images == "100 images decoded from the prior"
    assert rank_latents(run, "best", conditional, None).rates.shape == (40,)


@pytest.mark.parametrize("out", ["page.png", "page", "."])
def test_out_has_to_be_a_page(trained: tuple[Path, dict[str, Any]], out: str) -> None:
    with pytest.raises(ValueError, match=rf"out={re.escape(out)} is not the name of a page"):
        write_page(trained[0], out)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, trained: tuple[Path, dict[str, Any]]) -> None:
    monkeypatch.setattr("vae_lab.exporting.graphs.PACKAGES", ("onnx_nowhere",))
    with pytest.raises(
        ValueError, match=r"out=a\.html needs the packages onnx_nowhere: pip install 'vae_lab\[export\]'"
    ):
        write_page(trained[0], "a.html")


ARCHIVE = """#!/bin/sh
mkdir -p package/dist && touch package/dist/{ort.wasm.bundle.min.mjs,ort-wasm-simd-threaded.wasm}
tar czf onnxruntime-web.tgz package
"""
NPMS = {
    "": (ValueError, r"needs onnxruntime-web \S+, which npm fetches: install npm"),
    "#!/bin/sh\nexit 7": (StorageError, r"cannot be fetched from npm's registry \(npm ended with code 7\)"),
    "#!/bin/sh\nexit 0": (StorageError, "cannot be fetched from npm's registry"),
    ARCHIVE.replace("{", "").replace("}", "").replace(",", " package/dist/"): (
        StorageError,
        "is not the one whose SHA-256",
    ),
}


@pytest.mark.parametrize("npm", NPMS, ids=["no npm", "npm fails", "npm sends nothing", "npm sends other files"])
def test_no_other_files_than_the_known_ones_are_used(npm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "mkdir", "touch", "tar", "gzip"):
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    if npm:
        (tmp_path / "bin" / "npm").write_text(npm)
        (tmp_path / "bin" / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("VAE_LAB_CACHE", str(tmp_path / "cache"))
    kind, words = NPMS[npm]
    with pytest.raises(kind, match=words) as caught:
        web_runtime.read_runtime()
    assert str(tmp_path / "cache" / "onnxruntime-web-1.30.0") in str(caught.value)
    assert not list(tmp_path.rglob("cache/*/*"))


def test_exports_of_a_module_become_a_global_variable() -> None:
    assert global_script("var a=1;export{a as one,b as default};\n") == "var a=1;globalThis.ort={one:a,default:b};\n"
