"""Pictures of a detection: their sizes, order and marks."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from vae_lab.detection.figures import contact_sheet, heat_map, heat_sheet, roc_figure
from vae_lab.detection.scores.anomaly import pixel_errors


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_roc_has_a_curve_for_each_score_best_first(tmp_path: Path) -> None:
    figure = roc_figure({"weak": (noise(50), noise(9, seed=1)), "strong": (noise(30), noise(20) + 1)})
    figure.savefig(tmp_path / "roc.png")
    for axes in figure.axes:
        labels = [line.get_label() for line in axes.get_lines()]
        assert labels[0] == "strong: AUROC 1.0000"
        assert str(labels[1]).startswith("weak: AUROC 0.")
    drawn = torch.as_tensor(figure.axes[0].get_lines()[0].get_ydata())
    assert (drawn[0], drawn[-1]) == (0, 1)


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 20, 40)])
def test_the_sheet_shows_the_strangest_first_and_frames_the_flagged(
    channels: int, height: int, width: int, tmp_path: Path
) -> None:
    images, scores = noise(5, channels, height, width), torch.tensor([1.0, 9.0, 3.0, 9.0, 2.0])
    p, names = torch.tensor([0.5, 0.01, 0.2, 0.01, 0.3]).double(), ["a", "b", "$x^$", "d", "日本" + "long" * 9 + ".png"]
    figure = contact_sheet(images, scores, p, names, p < 0.05, ncolumns=2)
    figure.savefig(tmp_path / "sheet.png", dpi=50)
    (axes,) = figure.axes
    captions = [text.get_text() for text in axes.texts]
    assert captions[:3] == ["b\n9   p = 0.010", "d\n9   p = 0.010", "$x^$\n3   p = 0.20"]
    assert captions[3].startswith("??longlo…")
    assert captions[4].startswith("a\n1 ")
    for shown, i in zip(axes.images, (1, 3, 2, 4, 0), strict=True):
        expected = images[i].expand(3, -1, -1).permute(1, 2, 0)
        torch.testing.assert_close(torch.as_tensor(shown.get_array()), expected)
    assert [patch.get_extents().transformed(axes.transData.inverted()).x0 for patch in axes.patches] == pytest.approx(
        [0.06, 1.06]
    )
    with Image.open(tmp_path / "sheet.png") as picture:
        left, right = figure.get_size_inches() * 50
        assert picture.size == pytest.approx((left, right), abs=1)
        assert len(picture.convert("RGB").getcolors(10**6) or []) > 100


def test_a_sheet_needs_a_name_for_each_image() -> None:
    for n, names in ((2, ["a"]), (0, [])):
        numbers = torch.zeros(n)
        with pytest.raises(ValueError, match=f"{n} images and {len(names)} names"):
            contact_sheet(noise(n, 1, 8, 8), numbers, numbers.double(), names, numbers > 0)


def test_errors_are_absolute_and_spread_but_not_lost() -> None:
    images = torch.zeros(1, 3, 15, 21)
    images[0, :2, 7, 10] = 0.6
    blurred = pixel_errors(images, torch.zeros_like(images))
    assert torch.equal(pixel_errors(torch.zeros_like(images), images), blurred)
    assert blurred.sum().item() == pytest.approx(0.4, rel=1e-4)
    assert blurred.argmax() == images[:, 0].argmax()
    assert 0.01 < blurred[0, 7, 10] < 0.1
    assert pixel_errors(images[..., :2, :2], images[..., :2, :2]).shape == (1, 2, 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_heat_is_where_the_error_is(channels: int) -> None:
    images = noise(4, channels, 16, 24)
    decoded = images.clone()
    decoded[1, :, 4:8, 5:9] = 1 - decoded[1, :, 4:8, 5:9]
    decoded[2] = (images[2] + 0.2).clamp(max=1)
    errors = pixel_errors(images, decoded)
    found = heat_map(images, errors, full=0.3)
    assert found.shape == (4, 3, 16, 24)
    assert 0 <= found.min() <= found.max() <= 1
    grey = 0.5 * images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    torch.testing.assert_close(found[[0, 3]], grey[[0, 3]])
    changed = (found[1] - grey[1]).abs().sum(0) > 0.01
    assert changed[5:7, 6:8].all()
    assert not changed[:, 13:].any()
    alone = [heat_map(*pair, full=0.3) for pair in zip(images.split(1), errors.split(1), strict=True)]
    torch.testing.assert_close(torch.cat(alone), found)
    assert not torch.equal(heat_map(images, errors)[2], found[2])
    assert heat_sheet(images, errors, npairs=2).shape == (3, 2 * (48 + 2) + 2, 4 * (72 + 2) + 2)
