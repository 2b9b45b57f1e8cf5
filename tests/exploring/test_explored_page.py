"""The page as Streamlit runs it, without a browser: every tab, on each kind of model."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from vae_lab.data.grids import grid, to_uint8
from vae_lab.detection.calibration import Calibration, score_config
from vae_lab.detection.score_images import score_images
from vae_lab.latents.encoding import encode_images, log_likelihood, reconstruct_images
from vae_lab.latents.interpolation import decode_latents, interpolate_images
from vae_lab.reporting.plot_style import traces
from vae_lab.sampling.images import generate_images
from vae_lab.system.config_dir import CONF
from vae_lab.training.run import train_run

pytest.importorskip("streamlit", reason="Streamlit is not installed: pip install 'vae_lab[explore]'", minversion="1.59")

from streamlit.testing.v1 import AppTest  # pyright: ignore[reportMissingImports]

from vae_lab.exploring.explored import Explored
from vae_lab.exploring.page import TABS
from vae_lab.exploring.pictures import enlarged
from vae_lab.exploring.tabs.plane import CELLS, map_figure
from vae_lab.exploring.widgets import plain

SHORT = ["trainer.max_steps=20", "trainer.val_check_interval=20", "trainer.precision=32-true", "logger=none"]
SHORT += ["~callbacks.gallery", "~callbacks.latents", "model.encoder.width=32"]
KINDS = {
    "plain": ["data=synthetic", "data.nimages=400", "model=mlp", "model.nlatent=70"],
    "conditional": ["data=digits", "model=mlp", "model.nlatent=4", "model.nclasses=10"],
    "ladder": ["data=synthetic", "data.nimages=400", "model=ladder_mlp", "model.decoder.groups=[2,3]"],
}
HOW = Calibration(ncalibration=40, nfit=60)


@pytest.fixture
def explored(request: pytest.FixtureRequest, made_once: Callable[..., Path]) -> Explored:
    """The run of a kind."""
    return explore(made_once, request.param)


@pytest.fixture
def plain_run(made_once: Callable[..., Path]) -> Explored:
    return explore(made_once, "plain")


def explore(made_once: Callable[..., Path], kind: str) -> Explored:
    def make(folder: Path) -> None:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            train_run(compose("train", [*KINDS[kind], *SHORT, f"folder={folder}"]))

    return Explored(made_once(f"explored-{kind}", make), score_config("neg_elbo"), HOW)


def script(explored: "Explored") -> None:
    from vae_lab.exploring.page import show_page

    show_page(explored)


def opened(explored: Explored, *tabs: str) -> Any:
    """The page after its tabs were opened, the last one in front."""
    page = AppTest.from_function(script, args=(explored,), default_timeout=120).run()
    for tab in tabs:
        page.session_state["tab"] = tab
        page.run()
    return checked(page)


def checked(page: Any) -> Any:
    """The page, which shows no error."""
    assert [error.value for error in (*page.exception, *page.error)] == []
    return page


def pixels(page: Any, place: int = -1) -> np.ndarray:
    """The pixels of a picture of the page, [height, width, channels]."""
    content = base64.b64decode(page.get("image")[place].value[0].partition("base64,")[2])
    return np.atleast_3d(np.array(Image.open(io.BytesIO(content))))


def as_shown(image: torch.Tensor) -> np.ndarray:
    """The pixels of a single image as the page shows it."""
    return to_uint8(enlarged(image, 320))[0].permute(1, 2, 0).numpy()


def in_rows(images: torch.Tensor, ncolumns: int, width: int = 720) -> np.ndarray:
    return grid(enlarged(images.float(), width // ncolumns), ncolumns).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("explored", KINDS, indirect=True)
def test_every_tab_shows_its_pictures(explored: Explored) -> None:
    page = opened(explored, *TABS)
    assert len(page.get("image")) == 5
    for toggle in page.toggle:
        toggle.set_value(True)
    checked(page.run())
    assert len(page.get("image")) == 6, "and the neighbours"
    number = 1 if explored.model.nclasses else 3
    assert len(page.metric) == number
    test = explored.data().raw_splits.test[:1]
    assert page.metric[0].value == f"{-float(log_likelihood(explored.model, test)):.1f}"
    assert any("p-value needs an unconditional model" in one.value for one in page.caption) == (number == 1)


@pytest.mark.parametrize("explored", KINDS, indirect=True)
def test_a_slider_moves_one_latent(explored: Explored) -> None:
    page = opened(explored)
    model, images = explored.model, explored.data().raw_splits.test
    order = explored.statistics().order
    sliders = [one for one in page.slider if one.key.startswith("z ")]
    assert [one.key for one in sliders] == [f"z {latent}" for latent in order[:12]]
    start = encode_images(model, images[0])[0]
    label = images.labels[0] if model.nclasses else None
    assert (pixels(page) == as_shown(decode_latents(model, start[None], label).detach())).all()
    sliders[1].set_value(2.5)
    checked(page.run())
    moved = start.clone()
    moved[order[1]] = 2.5
    assert (pixels(page) == as_shown(decode_latents(model, moved[None], label).detach())).all()


@pytest.mark.parametrize("explored", ["plain", "conditional"], indirect=True)
def test_the_sliders_follow_a_new_start(explored: Explored) -> None:
    page, images = opened(explored), explored.data().raw_splits.test
    first = explored.statistics().order[0]
    {one.label: one for one in page.button}["All zero"].click()
    assert checked(page.run()).slider(key=f"z {first}").value == 0
    {one.label: one for one in page.button}["Draw from the prior"].click()
    drawn = checked(page.run()).slider(key=f"z {first}").value
    assert drawn == pytest.approx(float(page.session_state["latents"][first].clamp(-3, 3)))
    page.number_input(key="latents row").set_value(3)
    mean = encode_images(explored.model, images[3])[0, first]
    assert checked(page.run()).slider(key=f"z {first}").value == pytest.approx(float(mean), abs=1e-6)
    if explored.model.nclasses:
        assert page.selectbox(key="latents class").value == int(images.labels[3])


def test_more_sliders_can_be_shown(plain_run: Explored) -> None:
    page = opened(plain_run)
    page.number_input(key="latents shown").set_value(70)
    assert len([one for one in checked(page.run()).slider if one.key.startswith("z ")]) == 70


@pytest.mark.parametrize("explored", KINDS, indirect=True)
def test_samples_are_those_of_generate(explored: Explored) -> None:
    page = opened(explored, "Samples")
    assert (pixels(page) == in_rows(generate_images(explored.model, 16, 0, counts=explored.counts), 4)).all()
    page.slider(key="samples temperature").set_value(0.5)
    page.number_input(key="samples n").set_value(5)
    page.number_input(key="samples seed").set_value(7)
    which = "all" if explored.model.nclasses else None
    if which:
        page.selectbox(key="samples class").set_value(which)
    found = generate_images(explored.model, 5, 7, temperature=0.5, which=which, counts=explored.counts)
    assert (pixels(checked(page.run())) == in_rows(found, 5 if which else 3)).all()
    samplers = page.selectbox(key="samples sampler").options
    assert len(samplers) == (1 if "ladder" in str(explored.folder) else 3)


def test_a_fitted_sampler_is_fitted_once(plain_run: Explored) -> None:
    page = opened(plain_run, "Samples")
    page.selectbox(key="samples sampler").set_value("gmm")
    checked(page.run())
    found = generate_images(plain_run.model, 16, 0, sampler=plain_run.sampler("gmm"))
    assert (pixels(page) == in_rows(found, 4)).all()


def upload(page: Any, key: str, content: bytes, name: str = "mine.png") -> None:
    page.file_uploader(key=f"{key} file").set_value((name, content, "image/png"))
    page.run()


def png(image: torch.Tensor) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image[0].numpy()).save(content, format="PNG")
    return content.getvalue()


def test_an_uploaded_picture_is_judged_as_detect_does(plain_run: Explored) -> None:
    page = opened(plain_run, "Your picture")
    for toggle in page.toggle:
        toggle.set_value(True)
    own = plain_run.data().raw_splits.train.pixels(slice(1))
    upload(page, "picture", png(own[0]))
    checked(page)
    decoded = reconstruct_images(plain_run.model, own, layout="NCHW")
    expected = in_rows(torch.cat([own / 255, decoded, decoded]), 3)
    two_thirds = expected.shape[1] * 2 // 3  # beside the heat map
    assert (pixels(page, 1)[:, :two_thirds] == expected[:, :two_thirds]).all()
    judged = score_images(plain_run.run, own, "neg_elbo", layout="NCHW", ncalibration=40, nfit=60)
    assert page.metric[1].value == f"{float(judged.scores):.4g}"
    assert page.metric[2].value.startswith(f"{float(judged.p_values):.3g}, ")
    assert any("one of the run's train images" in one.value for one in page.caption)
    assert "distances 0.00, " in page.get("image")[2].captions[0], "it is its own neighbour"


def test_a_file_that_is_no_picture_is_refused_by_name(plain_run: Explored) -> None:
    page = opened(plain_run, "Your picture")
    upload(page, "picture", b"<svg>", "*evil*<b>.png")
    (error,) = page.error
    assert error.value.startswith(plain("*evil*<b>.png cannot be used (not an image"))
    assert r"\*evil\*\<b\>" in error.value
    assert not page.exception


def test_the_interpolation_is_that_of_two_pictures(plain_run: Explored) -> None:
    page, images = opened(plain_run, "Interpolation"), plain_run.data().raw_splits.test
    upload(page, "second", png(images.pixels(slice(4, 5))[0]))
    page.selectbox(key="interpolation path").set_value("linear")
    page.slider(key="interpolation n").set_value(5)
    found = interpolate_images(plain_run.model, images[[0, 4]], 5, path="linear")
    assert (pixels(checked(page.run())) == in_rows(found, 5, 1100)).all()


def test_the_map_has_points_by_class_and_a_grid_to_click_on(made_once: Callable[..., Path]) -> None:
    figure = map_figure(explore(made_once, "conditional"))
    *points, cells = traces(figure)
    assert len(points) == 10
    assert len(cells.x) == CELLS**2
    assert (cells.marker.opacity, cells.hoverinfo) == (0, "none")
    assert min(cells.x) < min(min(one.x) for one in points)


def test_without_its_images_a_run_is_explored_as_far_as_possible(plain_run: Explored) -> None:
    missing = Explored(plain_run.run, plain_run.score, HOW._replace(root="elsewhere"))
    page = opened(missing, "Samples")
    assert "images that the model generated, because" in page.caption[0].value
    assert len(page.get("image")) == 2
    page = AppTest.from_function(script, args=(missing,), default_timeout=120).run()
    for tab in ("Your picture", "Map"):
        page.session_state["tab"] = tab
        page.run()
    assert [one.value for one in page.info] == ["Choose a picture; the run's own images are missing."]
    assert [one.value.startswith("data\\.root=elsewhere") for one in page.error] == [True]
    assert not page.exception
