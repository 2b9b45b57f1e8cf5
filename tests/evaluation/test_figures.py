"""Figures of a run: the words on them, and the order of their rows."""

from pathlib import Path

import pytest
import torch

from vae_lab.data.captions import captioned
from vae_lab.data.grids import grid
from vae_lab.evaluation.figures import samples, traversals
from vae_lab.runs.load import load_data, load_model
from vae_lab.training.callbacks.curves import (
    ADVERSARIAL,
    DISTANCE,
    LOSS,
    NEG_ELBO,
    RATE,
    choose_panels,
    curves_figure,
    read_curves,
)


@pytest.mark.parametrize("rows", [["one", "two\nlines", "three"], ["", "x", ""], []])
def test_words_stand_outside_of_the_picture(rows: list[str]) -> None:
    picture = grid(torch.rand(9, 1, 60, 60), 3)
    height, width = picture.shape[1:]
    found = captioned(picture, "A caption of many words that needs more than one line, and says so. " * 2, rows)
    top = found.shape[1] - height
    left = next(x for x in range(found.shape[2]) if found[:, top:, x : x + width].equal(picture))
    assert (found[:, :top] < 128).any()
    texts = [bool((found[0, top + i * height // 3 : top + (i + 1) * height // 3, :left] < 128).any()) for i in range(3)]
    assert texts == ([bool(row) for row in rows] or [False] * 3)


def test_traversals_are_in_the_order_of_kl(blobs_run: Path) -> None:
    model, images = load_model(blobs_run), load_data(blobs_run).splits.val.__getitems__(slice(8)).image
    with torch.no_grad():
        posterior = model.posterior(images)
        rates = (0.5 * (posterior.mean.square() + posterior.variance - 1) - posterior.log_sigma).mean(0)  # pyright: ignore[reportAttributeAccessIssue]
        rows = []
        for latent in rates.argsort(descending=True)[:3].tolist():
            z = posterior.mean[:1].repeat(5, 1)
            z[:, latent] = torch.linspace(-3, 3, 5)
            rows.append(model.generative(z).mean)
    expected = grid(torch.cat(rows), 5)
    found = traversals(model, images, ndimensions=3, ncolumns=5)
    shown = found[:, -expected.shape[1] :, -expected.shape[2] :]
    assert (shown.int() - expected.int()).abs().max() <= 1


def test_samples_without_classes_have_a_caption_alone(blobs_run: Path) -> None:
    found = samples(load_model(blobs_run), 64)
    assert found.shape[2] == 8 * 66 + 2
    assert found.shape[1] > 8 * 66 + 2


def test_a_run_has_a_loss_curve_and_a_map(blobs_run: Path) -> None:
    names = {path.name for path in (blobs_run / "figures").iterdir()}
    assert {"curves.png", "map.png", "latents.png"} <= names
    curves = read_curves(blobs_run / "metrics.csv")
    assert {"train/loss", "val/neg_elbo", "val/rate"} <= curves.keys()
    assert curves["val/neg_elbo"][0] == [100]


def test_the_curves_of_adversarial_runs_leave_out_a_loss_whose_terms_change(tmp_path: Path) -> None:
    table = tmp_path / "metrics.csv"
    table.write_text(
        "step,train/loss,train/generator_loss,train/distortion,train/rate,val/neg_elbo,val/kid_lite2,val/rkid_lite2\n"
        "1,9e9,1,30,5,,,\n2,9,1,20,4,25,300,900\n3,nan,1,10,3,20,30,90\n"
    )
    curves = read_curves(table)
    assert curves["train/neg_elbo"] == ([1, 2, 3], [35, 24, 13])
    assert curves["train/loss"][0] == [1, 2]
    panels = choose_panels(curves)
    assert panels[:2] == [NEG_ELBO, RATE]
    assert (panels[2].title, panels[2].logarithmic) == (DISTANCE, True)
    assert panels[2].metrics == {"val/kid_lite2": "samples", "val/rkid_lite2": "reconstructions"}
    assert choose_panels(name for name in curves if "kid" not in name)[2] == ADVERSARIAL
    assert choose_panels(["train/loss", "val/neg_elbo"]) == [LOSS, RATE]
    figure = curves_figure(curves)
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "linear", "log"]
    figure.savefig(tmp_path / "curves.png")
