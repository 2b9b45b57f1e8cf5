"""Maps of latents: points, colours, the page in a browser, and what is refused."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browsing import opened
from detecting import save_pictures
from invoking import invoke
from PIL import Image

from vae_lab.detection.scores.anomaly import NegELBO, ReconstructionError
from vae_lab.errors import FilesFailed
from vae_lab.latents import folder
from vae_lab.latents.coloring import NONE, OTHERS, PALETTE, Coloring, color_values
from vae_lab.latents.encoding import encode_images
from vae_lab.latents.mapping import map_latents
from vae_lab.latents.projection import project_latents
from vae_lab.map import main
from vae_lab.runs.load import load_data, load_model
from vae_lab.training.loggers.packages import is_installed
from vae_lab.training.run import train_run

pytestmark = pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")  # umap's
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'<"


def clouds(n: int = 60, nlatent: int = 6) -> torch.Tensor:
    """Latents in two clouds, of unequal spread along the axes."""
    z = torch.randn(n, nlatent, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 0.1, nlatent)
    z[: n // 2, 0] += 5
    z[:, 1] *= 3
    return z


@pytest.mark.parametrize("nlatent", [2, 6, 1100])
def test_pca_is_that_of_scikit_learn_and_can_be_turned_back(nlatent: int) -> None:
    from sklearn.decomposition import PCA

    z = clouds(nlatent=nlatent)
    found, oracle = project_latents(z), PCA(2, svd_solver="full").fit(z.numpy())
    assert found.explained is not None
    np.testing.assert_allclose(found.explained, oracle.explained_variance_ratio_, rtol=1e-3)
    signs = np.sign((oracle.components_ * np.asarray(found.axes)).sum(1))
    np.testing.assert_allclose(found.coordinates, oracle.transform(z.numpy()) * signs, rtol=1e-2, atol=1e-2)
    back = oracle.inverse_transform(oracle.transform(z.numpy()))
    np.testing.assert_allclose(found.to_latents(found.coordinates), back, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("method", ["pca", "tsne", "umap"])
def test_a_method_keeps_clouds_apart_and_is_reproducible(method: str) -> None:
    if method == "umap" and not is_installed("umap"):
        pytest.skip("umap-learn is not installed: pip install 'vae_lab[umap]'")
    first, again = (project_latents(clouds(), method, seed=3, perplexity=10.0, nneighbors=8) for _ in range(2))
    assert first.coordinates.equal(again.coordinates)
    near = torch.cdist(first.coordinates, first.coordinates).fill_diagonal_(torch.inf).argmin(1)
    assert ((near < 30) == (torch.arange(60) < 30)).all()
    if method != "pca":
        with pytest.raises(ValueError, match=f"method={method} cannot turn points into latents; choose method=pca"):
            first.to_latents(first.coordinates)
        with pytest.raises(ValueError, match="all 60 images have the same latents"):
            project_latents(torch.ones(60, 4), method)


def test_latents_that_do_not_differ_are_one_point() -> None:
    found = project_latents(torch.ones(5, 4))
    assert found.explained == (0, 0)
    assert not found.coordinates.any()


COLORINGS = {
    "words": (["b", "a", "", "b"], None, {"a": [1], "b": [0, 3], NONE: [2]}),
    "few whole numbers": (["10", "9", "10", "9"], None, {"9": [1, 3], "10": [0, 2]}),
    "numbers": (["0.5", "", "-1e3", "2"], [0.5, np.nan, -1000, 2], None),
    "numbers and a word": (["0.5", "x"], None, {"0.5": [0], "x": [1]}),
    "nothing": (["", ""], None, {NONE: [0, 1]}),
}


@pytest.mark.parametrize("name", COLORINGS)
def test_values_are_numbers_or_groups(name: str) -> None:
    texts, numbers, groups = COLORINGS[name]
    found = color_values("size", texts)
    if numbers is None:
        assert found.numbers is None
        assert {group: rows for group, (_, rows) in found.groups().items()} == groups
    else:
        np.testing.assert_array_equal(found.numbers, numbers)


def test_groups_without_a_colour_are_put_together() -> None:
    names = [str(i) for i in range(len(PALETTE) + 5) for _ in range(2 if i < len(PALETTE) - 1 else 1)]
    groups = Coloring("class", names).groups()
    assert list(groups) == [*map(str, range(len(PALETTE) - 1)), OTHERS]
    assert len(groups[OTHERS][1]) == 6
    assert len({colour for colour, _ in groups.values()}) == len(PALETTE)


@pytest.fixture(scope="module")
def pictures(blobs_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty blobs and eight of noise in two folders, one with a hostile name, and a file that is no picture."""
    root = save_pictures(blobs_run, tmp_path_factory.mktemp("pictures"))
    (root / "strange" / "7.png").rename(root / "strange" / f"{HOSTILE.replace('/', '')}.png")
    (root / "normal" / "05-bad.png").write_text("no picture")
    return root


def embedded(page: Path, name: str) -> Any:
    """The JSON in a page."""
    (found,) = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', page.read_text())
    return json.loads(found)


def points_of(page: Path) -> dict[int, tuple[float, float, str]]:
    """The place and the group of each image on a page, by its row."""
    return {
        row: (x, y, trace["name"])
        for trace in embedded(page, "figure")["data"]
        for row, x, y in zip(trace["customdata"], trace["x"], trace["y"], strict=True)
    }


def test_a_page_has_a_point_for_each_usable_image(
    blobs_run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "BLOCK", 7)  # several blocks
    with pytest.raises(FilesFailed, match=r"1 of 29 files are not on .*map\.html; the log has the reasons"):
        map_latents(run=blobs_run, images=pictures, out=tmp_path / "map.html")
    files = sorted(path for path in pictures.rglob("*.png") if path.name != "05-bad.png")
    expected = project_latents(encode_images(load_model(blobs_run), files))
    points = points_of(tmp_path / "map.html")
    found = torch.tensor([points[row][:2] for row in range(28)])
    torch.testing.assert_close(found, expected.coordinates, rtol=1e-3, atol=1e-3)
    assert [points[row][2] for row in range(28)] == [path.parent.name for path in files]
    texts = embedded(tmp_path / "map.html", "points")["texts"]
    assert texts[0] == "normal/00.png · class normal"
    page = (tmp_path / "map.html").read_text()
    shares = [
        f"principal component {i} ({100 * x:.0f} % of variance)" for i, x in enumerate(expected.explained or (), 1)
    ]
    titles = [embedded(tmp_path / "map.html", "figure")["layout"][axis]["title"]["text"] for axis in ("xaxis", "yaxis")]
    assert titles == shares
    assert (
        "28 of 29 images, each a point at its posterior mean, placed by PCA of the 4 latents; coloured by class."
        in page
    )


HOVER = """<script>
tiles.decode().then(() => {
  const row = points.texts.findIndex((text) => text.includes("onerror"));
  show(row, {clientX: 5, clientY: 5});
  const drawn = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const bright = drawn.reduce((sum, value) => sum + value, 0) / drawn.length;
  const named = card.textContent.includes("onerror");
  document.body.dataset.seen = [canvas.width, bright > 100, card.style.visibility, named];
});
</script>"""


def test_the_page_shows_the_image_of_a_point_and_runs_no_name(blobs_run: Path, pictures: Path, tmp_path: Path) -> None:
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", HOSTILE], ["0.png", f"{HOSTILE}/script>"]])
    page, settings = tmp_path / "map.html", {"color": HOSTILE, "labels": tmp_path / "labels.csv"}
    assert map_latents(run=blobs_run, images=pictures / "strange", out=page, **settings) == 8
    document, console = opened(page)
    assert (console, "<title>owned" in document) == ("", False)
    assert document.count('class="point plotly') == 8
    assert document.count("onerror=\"document.title='owned'\"&gt;") > 2  # in the legend and the caption
    document, console = opened(page, HOVER)
    assert (console, "<title>owned" in document) == ("", False)
    assert 'data-seen="112,true,visible,true"' in document


def test_colours_come_from_a_csv(blobs_run: Path, pictures: Path, tmp_path: Path) -> None:
    images, table = pictures / "strange", tmp_path / "labels.csv"
    names = sorted(path.name for path in images.iterdir())
    rows = [f"{name},{'big' if i % 2 else ''},{i / 3}" for i, name in enumerate(names) if i < 6]
    table.write_text("\n".join(["path,kind,size", "nowhere.png,big,1", *(row.replace('"', "") for row in rows)]))
    settings: dict[str, Any] = {"run": blobs_run, "images": images, "labels": table}
    assert map_latents(**settings, color="kind", out=tmp_path / "map.html") == 8
    assert [points_of(tmp_path / "map.html")[row][2] for row in range(8)] == [
        NONE if i % 2 == 0 or i >= 6 else "big" for i in range(8)
    ]
    assert map_latents(**settings, color="size", out=tmp_path / "map.html") == 8
    shaded = embedded(tmp_path / "map.html", "figure")["data"][1]
    np.testing.assert_allclose(shaded["marker"]["color"], [i / 3 for i in range(6)])
    assert shaded["marker"]["colorbar"]["title"]["text"] == "size"


def test_a_map_of_validation_images_is_a_sample_with_classes_and_scores(tmp_path: Path, blobs_run: Path) -> None:
    score = NegELBO(nsamples=2, seed=0)
    settings: dict[str, Any] = {"run": blobs_run, "n": 12, "seed": 5, "score": score, "color": "score"}
    pages = [tmp_path / "a.html", tmp_path / "b.html"]
    for page in pages:
        assert map_latents(**settings, out=page) == 12
    assert pages[0].read_text() == pages[1].read_text()
    rows = [int(re.findall(r"validation image (\d+)", text)[0]) for text in embedded(pages[0], "points")["texts"]]
    with torch.no_grad():
        expected = score(load_model(blobs_run), load_data(blobs_run).splits.val.__getitems__(rows).image)
    marker = embedded(pages[0], "figure")["data"][1]["marker"]
    np.testing.assert_allclose(marker["color"], expected, rtol=1e-4)
    assert marker["colorbar"]["title"]["text"] == "score NegELBO [nats]"
    assert "12 of 50 validation images" in pages[0].read_text()
    assert ReconstructionError().unit == "squared error"


@pytest.mark.parametrize("color", ["class", "score", "kind"])
def test_a_map_is_a_picture_too(color: str, blobs_run: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,kind\nstrange/0.png,$x^2_$\n")
    labels, score = (
        (tmp_path / "labels.csv" if color == "kind" else None),
        ReconstructionError() if color == "score" else None,
    )
    for _ in range(2):  # the second call replaces the picture of the first
        with pytest.raises(FilesFailed):
            map_latents(run=blobs_run, images=pictures, out=tmp_path / "a.png", color=color, labels=labels, score=score)
    shown = np.array(Image.open(tmp_path / "a.png").convert("RGB"))
    assert shown.shape[0] > 500
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 20


@pytest.fixture(scope="module")
def narrow(made_once: Any) -> Path:
    """A run with one latent."""
    small = ["data=synthetic", "model=mlp", "model.encoder.width=8", "model.nlatent=1", "logger=none", "threads=1"]
    short = ["trainer.max_steps=2", "trainer.val_check_interval=2"]
    return made_once("one latent", lambda folder: train_run([*small, *short, f"folder={folder}"]))


COMMANDS = {
    "validation images": ((), 0, "50 validation images, each a point at its posterior mean"),
    "a score": (("color=score", "score=rate"), 0, "coloured by score Rate [nats]"),
    "one image": (("images={pictures}/strange/0.png",), 2, "holds 1 usable image, and a map needs at least 2"),
    "few images": (
        ("images={pictures}/strange", "method=tsne"),
        2,
        "perplexity=30 must be below the number of images, 8",
    ),
    "few neighbours": (("images={pictures}/strange", "method=umap"), 2, "needs more images than nneighbors=15 and at"),
    "a sample too small": (("n=1",), 2, "n must be a whole number of at least 2, not 1"),
    "one latent": (("run={narrow}",), 2, "the model has 1 latent, and a map needs 2; encode writes the values"),
    "no such method": (("method=mds",), 2, "method must be one of pca, tsne, umap, not mds"),
    "no such column": (("color=size", "labels={csv}", "images={pictures}"), 2, "which has kind; choose one of these"),
    "a class in place of a column": (
        ("labels={csv}", "images={pictures}"),
        2,
        "color=class is not a column of labels=",
    ),
    "no CSV": (("color=size",), 2, "color=size must be class, score, or a column of a CSV that labels= names"),
    "other paths": (
        ("color=kind", "labels={csv}", "images={pictures}/strange"),
        3,
        "names none of the images, such as",
    ),
    "no such CSV": (("color=kind", "labels=no.csv", "images={pictures}"), 3, "must be a CSV with a column path"),
    "a CSV of no files": (("color=kind", "labels={csv}"), 2, "the run's validation images have none; name files by"),
    "a score with a fit": (("color=score", "score=typicality"), 2, "choose one that needs a model alone"),
    "another ending": (("out=map.txt",), 2, "the ending of out= must be one of .html, .png, not .txt"),
    "another's file": (("out=mine.html",), 2, "mine.html is not a map; choose another out=, or force=true"),
    "no run": (("run=nowhere",), 3, "there is no checkpoint at"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_ends_with_a_sentence(  # noqa: PLR0917
    name: str, blobs_run: Path, pictures: Path, narrow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: Any, capfd: Any,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    settings, code, said = COMMANDS[name]
    Path("labels.csv").write_text("path,kind\nelsewhere.png,big\n")
    Path("mine.html").write_text("<!doctype html>mine")
    places = {"pictures": pictures, "narrow": narrow, "csv": tmp_path / "labels.csv"}
    line = [f"run={blobs_run}", "threads=1", "out=map.html", *(one.format(**places) for one in settings)]
    found = invoke(main, "map", *line, monkeypatch=monkeypatch)
    output = "".join(capfd.readouterr()) + caplog.text
    assert (found, said in output) == (code, True), output
    assert Path("map.html").exists() == (code == 0)
    assert Path("mine.html").read_text() == "<!doctype html>mine"


def test_umap_without_its_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "umap", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"method=umap needs umap-learn: pip install 'vae_lab\[umap\]'"):
        project_latents(clouds(), "umap")
