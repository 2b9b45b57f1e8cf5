"""Models conditional on classes: one body of laws for every network, and what a run makes of the labels."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from invoking import invoke
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor, nn

from vae_lab.data.grids import grid
from vae_lab.data.images import ImageSet
from vae_lab.evaluation import extractors
from vae_lab.evaluation.figures import reconstructions, samples, traversals
from vae_lab.evaluation.headline import headline
from vae_lab.evaluation.metrics.class_accuracy import class_accuracy, fit_linear_classifier, is_recognised
from vae_lab.evaluation.metrics.features import EfficientNetLite, train_classifier
from vae_lab.evaluation.metrics.latents import posterior_statistics
from vae_lab.evaluation.run import classes_section, evaluate_run
from vae_lab.generate import main
from vae_lab.latents.encoding import encode_images
from vae_lab.models.conv import ConvDecoder, ConvEncoder
from vae_lab.models.mlp import MLPDecoder, MLPEncoder
from vae_lab.models.resnet import ResDecoder, ResEncoder
from vae_lab.models.vae import VAE
from vae_lab.probability.latent_model import latent_rates
from vae_lab.probability.likelihoods import Gaussian, SigmaVAE
from vae_lab.probability.priors import StandardNormal, VampPrior
from vae_lab.probability.scores import importance_estimate
from vae_lab.runs.identity import differences
from vae_lab.runs.inference import decode_samples
from vae_lab.runs.load import load_data, load_model
from vae_lab.sampling.images import check_class, generate_images
from vae_lab.system.config_dir import CONF
from vae_lab.system.randomness import reseed, seeded
from vae_lab.training.run import build_parts, train_run

Compose = Callable[..., DictConfig]
CONV: dict[str, Any] = {"widths": [4, 4], "strides": [2, 2], "kernel": 4, "padding": 1, "slope": 0.01}
RES: dict[str, Any] = {"widths": [8], "groups": 4, "smallest": 4, "spatial": False}
GRID = RES | {"spatial": True}
PAIRS = {
    "conv": (partial(ConvEncoder, **CONV), partial(ConvDecoder, output_bias=None, **CONV)),
    "mlp": (partial(MLPEncoder, width=8, nblocks=1), partial(MLPDecoder, width=8, nblocks=1)),
    "resnet": (partial(ResEncoder, **RES), partial(ResDecoder, **RES)),
    "spatial": (partial(ResEncoder, **GRID), partial(ResDecoder, **GRID)),
}
NCLASSES, NLATENT, SIZE = 4, 16, 8
LABELS = torch.tensor([2, 0, 3, 2, 1])


def vae(pair: str, nclasses: int = NCLASSES, **settings: Any) -> VAE:
    torch.manual_seed(0)
    encoder, decoder = PAIRS[pair]
    shared = {"likelihood": SigmaVAE(-1.0, 10.0), "prior": StandardNormal, "channels": 3, "image_size": SIZE}
    return VAE(**{"encoder": encoder, "decoder": decoder, "nlatent": NLATENT, "nclasses": nclasses} | shared | settings)


def pictures(n: int = len(LABELS)) -> Tensor:
    return torch.rand(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pair", PAIRS)
def test_without_classes_a_model_given_labels_is_itself(pair: str) -> None:
    model, image = vae(pair, 0), pictures()
    assert model.given(LABELS) is model
    assert [(one, len(part)) for one, part in model.split(image, 2)] == [(model, 2), (model, 2), (model, 1)]
    weights = vae(pair, 0).state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("pair", PAIRS)
def test_each_class_has_its_own_posterior_and_images(pair: str) -> None:
    model, one = vae(pair), pictures(1)
    classes = torch.arange(NCLASSES)
    given = model.given(classes)
    means = given.posterior(one.expand(NCLASSES, -1, -1, -1)).mean
    decoded = given.generative(torch.zeros(NCLASSES, NLATENT)).mean
    for values in (means, decoded):
        assert all((values[i] - values[j]).abs().max() > 1e-4 for i in classes for j in classes[:i])
    assert given is not model
    assert given.state_dict().keys() == model.state_dict().keys()
    assert all(a is b for a, b in zip(given.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
@pytest.mark.parametrize("pair", PAIRS)
def test_labels_follow_their_images_through_all_draws(pair: str, shape: tuple[int, ...]) -> None:
    model, image = vae(pair), pictures()
    noise = torch.randn(*shape, 1, NLATENT)
    given = model.given(LABELS)
    together = given.infer(given.posterior(image), shape, noise).generative.mean.unflatten(0, (*shape, len(LABELS)))
    for i in range(len(LABELS)):
        own = model.given(LABELS[i : i + 1])
        alone = own.infer(own.posterior(image[i : i + 1]), shape, noise).generative.mean
        torch.testing.assert_close(together[..., i, :, :, :].reshape(alone.shape), alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("chunk", [2, 7, 1000])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_bound_of_mixed_classes_is_that_of_each_class_apart(pair: str, chunk: int) -> None:
    model, image, noise = vae(pair), pictures(), torch.randn(6, 1, NLATENT)
    together = importance_estimate(model.given(LABELS), image, 6, chunk, noise)
    for label in LABELS.unique():
        rows = label == LABELS
        apart = importance_estimate(model.given(LABELS[rows]), image[rows], 6, chunk, noise)
        torch.testing.assert_close(together.nll[rows], apart.nll, atol=1e-3, rtol=1e-5)
    other = importance_estimate(model.given(LABELS.flip(0)), image, 6, chunk, noise)
    assert (other.nll - together.nll).abs().max() > 1e-2


@pytest.mark.parametrize("pair", PAIRS)
def test_every_parameter_of_a_conditional_model_receives_a_gradient(pair: str) -> None:
    model, image = vae(pair), pictures()
    inference = model.given(LABELS)(image)
    (inference.generative.log_prob(image).mean() + inference.posterior.mean.mean()).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


def test_statistics_of_many_images_keep_their_labels_and_pictures_have_a_row_for_each_class() -> None:
    model, labels, image = vae("mlp"), torch.arange(300) % NCLASSES, pictures(300)
    whole = model.given(labels)
    means, _ = posterior_statistics(whole, image)
    torch.testing.assert_close(means, whole.posterior(image).mean.detach())
    torch.testing.assert_close(encode_images(whole, image), means)
    found = samples(model, 22, classes=["a", "b", "c", "d"])
    frame = found[:, -NCLASSES * 58 - 2 :][:, :: NCLASSES * 58 + 1]  # the lines above and below the grid
    assert (frame[0] < 255).sum(1).tolist() == [5 * 58 + 2] * 2
    assert reconstructions(model.given(LABELS), pictures()).shape[0] == 3


def test_a_traversal_stays_in_the_class_of_the_first_image() -> None:
    model = vae("mlp")
    first = model.given(LABELS[:1])
    with torch.no_grad():
        z = first.posterior(pictures()[:1]).mean
        z[0, 0] = -3
        expected = grid(first.generative(z).mean, 1)  # without a frame, since it is alone
    many = model.given(LABELS)
    order = latent_rates(many.infer(many.posterior(pictures()), noise=torch.zeros(1, NLATENT))).mean(0).argsort()
    above = 58 * order.flip(0).tolist().index(0)
    figure = traversals(many, pictures(), NLATENT)[:, -NLATENT * 58 - 2 :, -11 * 58 - 2 :]
    corner = figure[:, above + 2 : above + 58, 2:58]
    assert (corner.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("call", [lambda m: m(pictures()), lambda m: m.generative(torch.zeros(2, NLATENT))])
def test_a_conditional_model_asks_for_labels(call: Callable[[VAE], object]) -> None:
    with pytest.raises(ValueError, match=r"conditional on 4 classes; call model\.given\(label\)"):
        call(vae("mlp"))
    with pytest.raises(ValueError, match="3 labels were given for"):
        call(vae("mlp").given(LABELS[:3]))


@pytest.mark.parametrize("label", [-1, NCLASSES])
def test_a_label_that_is_no_class_is_refused(label: int) -> None:
    with pytest.raises(ValueError, match="must be from 0 to 3"):
        vae("mlp").given(torch.tensor([0, label]))


WRONG = [
    ({"nclasses": -1}, r"model\.nclasses must be"),
    ({"nclasses": True}, r"model\.nclasses must be"),
    (
        {"prior": partial(VampPrior, channels=3, image_size=SIZE, ncomponents=2, logit_mean=0.0, logit_std=1.0)},
        r"choose prior=standard_normal",
    ),
]


@pytest.mark.parametrize(("settings", "message"), WRONG, ids=lambda value: str(value)[:12])
def test_what_cannot_be_conditional_is_said(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vae("mlp", **settings)


def test_a_ladder_knows_no_classes(config: Compose) -> None:
    with pytest.raises(InstantiationException, match="a ladder cannot be conditional; choose model=conv"):
        train_run(config("model=ladder_mlp", "model.nclasses=10"))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        model = instantiate(compose("train", ["data=synthetic", "model=ladder_mlp", "folder=x"]).model)
    assert model.given(LABELS) is model


def test_generated_sets_have_the_labels_frequencies_and_posteriors_their_own() -> None:
    model = vae("mlp").eval()
    only = torch.full((7,), 3)
    found = decode_samples(model, model.prior(), 6, labels=only, name="prior", seed=0)
    with seeded("evaluate", "prior", 0, 0):
        z = model.prior().sample((6,))
    with torch.no_grad():
        torch.testing.assert_close(found, model.given(only[:1]).generative(z).mean)
    pixels = (pictures() * 255).to(torch.uint8)
    of_images = [
        decode_samples(model, ImageSet(pixels, labels), 5, labels=only, name="posterior", seed=0)
        for labels in (LABELS, LABELS.flip(0))
    ]
    assert not torch.allclose(of_images[0], of_images[1])


class Bright(nn.Module):
    """Decodes a class to a grey level of its own."""

    def __init__(self, nin: int, image_size: int, nout: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([-4.0, 0.0, 4.0]))
        self.shape = (nout, image_size, image_size)

    def forward(self, z: Tensor) -> Tensor:
        return (z[:, 1:] @ self.weight)[:, None, None, None].expand(-1, *self.shape)


@pytest.mark.parametrize(("order", "share"), [([0, 1, 2], [1, 1, 1]), ([1, 0, 2], [0, 0, 1])])
def test_class_accuracy_is_the_share_that_is_recognised(order: list[int], share: list[int]) -> None:
    labels = torch.arange(90) % 3
    levels = torch.tensor([5, 127, 250], dtype=torch.uint8)[labels]
    images = ImageSet(levels[:, None, None, None].repeat(1, 1, SIZE, SIZE), labels)
    classifier = train_classifier(images, nbatches=20, batch_size=30, learning_rate=1e-2, seed=0)
    settings: dict[str, Any] = {"channels": 1, "nlatent": 1, "likelihood": Gaussian(0.5)}
    model = vae("mlp", 3, **settings, decoder=Bright)
    with torch.no_grad():
        model.decoder.weight.copy_(torch.tensor([-4.0, 0.0, 4.0])[order])  # pyright: ignore[reportCallIssue]
    found = class_accuracy(model, classifier, images, images, nimages=4, seed=0)
    assert found.each_class == dict(zip("012", share, strict=True))
    assert found.class_accuracy == pytest.approx(sum(share) / 3)
    assert found.real_accuracy == 1


def test_a_linear_classifier_of_features_recognises_unseen_images_of_rare_classes_too() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 0, 0, 0, 1] * 12)
    noise = torch.randint(0, 120, (120, 3, 32, 32), generator=generator, dtype=torch.uint8)
    noise[labels == 1, :, ::4] += 120  # stripes
    training, unseen = ImageSet(noise[:100], labels[:100]), ImageSet(noise[100:], labels[100:])
    classifier = fit_linear_classifier(EfficientNetLite("lite0"), training, nimages=100)
    assert is_recognised(classifier, *unseen.__getitems__(slice(None))).tolist() == [1.0] * 20
    wrong = fit_linear_classifier(EfficientNetLite("lite0"), ImageSet(noise[:100], 1 - labels[:100]), nimages=100)
    assert is_recognised(wrong, *unseen.__getitems__(slice(None))).tolist() == [0.0] * 20


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional run of 4 steps on 200 images of 10 classes."""
    folder = tmp_path_factory.mktemp("conditional") / "run"
    overrides = [
        "data=synthetic", "data.nimages=200", "model=mlp", "model.encoder.width=16", "model.nlatent=3",
        "model.nclasses=10", "trainer.max_steps=4", "trainer.val_check_interval=4", "trainer.precision=32-true",
        "logger=none", f"folder={folder}",
    ]  # fmt: skip
    with initialize_config_dir(str(CONF), version_base="1.3"):
        train_run(compose("train", overrides))
    return folder


def test_a_conditional_run_is_read_back(run: Path) -> None:
    stored = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    first, second = load_model(run), load_model(run)
    assert first.nclasses == 10
    assert all(torch.equal(weight, stored[f"model.{name}"]) for name, weight in first.state_dict().items())
    image, labels = torch.rand(3, 1, 16, 16), torch.tensor([9, 0, 4])
    assert torch.equal(encode_images(first.given(labels), image), encode_images(second.given(labels), image))
    with Image.open(run / "figures" / "samples.png") as picture:
        assert picture.size == (6 * 66 + 2 + 20, 10 * 66 + 2 + 48)  # and the names of classes, and two lines of caption


def test_a_class_changes_the_image_and_not_the_hand(run: Path) -> None:
    model = load_model(run)
    everything = generate_images(model, 3, 0, which="all")
    assert everything.shape == (30, 1, 16, 16)
    for label in (0, 9):
        alone = generate_images(model, 3, 0, 2, which=label)
        torch.testing.assert_close(everything[3 * label : 3 * label + 3], alone, atol=1e-12, rtol=0)
    mixed, fewer = generate_images(model, 20, 0), generate_images(model, 5, 0, 3)
    torch.testing.assert_close(mixed[:5], fewer, atol=1e-12, rtol=0)
    twenty = generate_images(model, 20, 0, which="all").unflatten(0, (10, 20))
    drawn = [(twenty[:, i] - mixed[i]).abs().amax((1, 2, 3)).argmin().item() for i in range(20)]
    assert len(set(drawn)) > 4


def test_the_command_writes_a_row_for_each_class(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert generated(monkeypatch, f"run={run}", "class=all", "n=2", f"out={tmp_path / 'rows.png'}") == 0
    with Image.open(tmp_path / "rows.png") as picture:
        assert picture.size == (2 * 66 + 2, 10 * 66 + 2)
    assert generated(monkeypatch, f"run={run}", "class=all", "n=2", f"out={tmp_path / 'classes'}") == 0
    assert len(list((tmp_path / "classes").glob("[0-9]/0000[01].png"))) == 20
    assert generated(monkeypatch, f"run={run}", "class=7", "n=2", f"out={tmp_path / 'seven'}") == 0
    assert (tmp_path / "seven/00001.png").read_bytes() == (tmp_path / "classes/7/00001.png").read_bytes()


def generated(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of the command."""
    return invoke(main, "generate", *arguments, monkeypatch=monkeypatch)


@pytest.mark.parametrize("which", [10, -1, "three", 1.5, True])
def test_a_class_that_is_none_is_refused(run: Path, which: object) -> None:
    with pytest.raises(ValueError, match="choose a number from 0 to 9, or all"):
        check_class(load_model(run), which)
    with pytest.raises(ValueError, match="is unconditional; leave class out"):
        check_class(vae("mlp", 0), which)
    with pytest.raises(ValueError, match="class=10"):
        generate_images(load_model(run), 2, 0, which=10)


def test_a_class_of_a_sub_folder_goes_by_its_name(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(20):
        path = tmp_path / "images" / ("dark", "light")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), 10 * number).save(path)
    folder = ("data=folder", f"data.root={tmp_path / 'images'}", "data.labels=subfolders", "data.image_size=16")
    some = ("data.batch_size=4", "data.channels=1", "model=mlp", "model.encoder.width=16", "model.nclasses=2")
    train_run(config(*folder, *some))
    run = tmp_path / "run"
    assert json.loads((run / "summary.json").read_text())["classes"] == ["dark", "light"]
    for which in ("light", 1):
        assert generated(monkeypatch, f"run={run}", f"class={which}", "n=2", f"out={tmp_path / f'{which}.png'}") == 0
    assert (tmp_path / "light.png").read_bytes() == (tmp_path / "1.png").read_bytes()
    capfd.readouterr()
    assert generated(monkeypatch, f"run={run}", "class=lihgt", "n=2", "out=x.png") == 2
    assert 'class=lihgt: choose a number from 0 to 1, or all, or one of "dark", "light".' in "".join(capfd.readouterr())


def test_a_conditional_run_is_evaluated_given_the_labels(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(extractors, "TRAINING", extractors.TRAINING | {"nbatches": 3, "batch_size": 16})
    settings: dict[str, Any] = {
        "split": "test", "checkpoint": "best", "root": None, "seed": 0, "device": "cpu", "features": "vgg",
        "nsamples": 20, "nll_images": 5, "ngenerated": 12, "nbound": 2, "chunk": 50, "ngroups": 2, "nreplicates": 5,
        "k": 2, "nreference": 20, "side": 8,
    }  # fmt: skip
    result = evaluate_run(run, tmp_path / "out", **settings)
    assert list(result["classes"]) == ["class_accuracy", "real_accuracy", "each_class"]
    assert len(result["classes"]["each_class"]) == 10
    assert json.loads((tmp_path / "out" / "evaluation-test.json").read_text())["classes"] == result["classes"]
    lines = headline(result)
    assert lines[0].startswith("-log p(x | y)")
    assert "class accuracy" in lines[1]
    page = (tmp_path / "out" / "evaluation-test.html").read_text()
    assert "A classifier of the training images" in page
    assert result["caveats"]
    assert all(f"Warning: {sentence}" in page for sentence in result["caveats"])
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    assert [key for key in result["classes"] if f"`{key}`" not in text] == []


def test_classes_that_do_not_fit_the_images_end_training_at_the_start(config: Compose, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"10 classes; choose model\.nclasses=10"):
        train_run(config("model.nclasses=9", folder="few"))
    for number in range(12):
        Image.new("L", (16, 16), 20 * number).save(tmp_path / f"{number}.png")
    flat = ("data=folder", f"data.root={tmp_path}", "data.image_size=16", "data.batch_size=4", "model.nclasses=2")
    with pytest.raises(ValueError, match=r"have no classes; choose model\.nclasses=0.*data\.labels=subfolders"):
        train_run(config(*flat, folder="none"))


def test_idle_classes_are_told(config: Compose, caplog: pytest.LogCaptureFixture) -> None:
    train_run(config("data=digits", "data.only=[3,5]", "model.nclasses=10", "model.encoder.widths=[4,4,4]"))
    line = "no training image is of the classes [2, 3, 4, 5, 6, 7, 8, 9]: images generated for them are meaningless"
    assert f"{line}; the images have 2 classes, and model.nclasses=2 is enough" in caplog.messages


def test_kept_classes_are_those_of_the_model_by_their_names(
    config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config("data=digits", "data.only=[3,7]", "model=mlp", "model.encoder.width=16", "model.nclasses=2")
    assert train_run(cfg)["classes"] == ["3", "7"]
    assert not any("no training image is of" in line for line in caplog.messages)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(extractors, "TRAINING", extractors.TRAINING | {"nbatches": 3, "batch_size": 16})
    model, data = load_model(tmp_path / "run"), load_data(tmp_path / "run")
    section = classes_section(model, extractors.RandomVGG(1), data, "test", seed=0)
    assert list(section["classes"]["each_class"]) == ["3", "7"]


def test_a_run_from_before_there_were_classes_can_be_resumed() -> None:
    old = {"nlatent": 8, "decoder": {"widths": [4], "bias": None}}
    assert not differences(old, old | {"nclasses": 0, "decoder": {"widths": [4], "spatial": False}})
    assert differences(old, old | {"nclasses": 10})
    assert differences({"beta": 0.0}, {"beta": 1.0})


@pytest.mark.parametrize("phase", ["train", "val"])
def test_the_task_tells_the_model_the_labels(config: Compose, phase: str) -> None:
    unlogged = ("model.nclasses=10", "model=mlp", "model.encoder.width=16", "trainer.log_every_n_steps=0")
    data, task, task.trainer = build_parts(config(*unlogged), {})
    batch = data.splits.train.__getitems__(slice(8))
    turned = batch._replace(label=9 - batch.label)
    found = []
    for one in (batch, batch, turned):
        reseed(task.device, "test")
        if phase == "val":
            task.validation_step(one, 0)
            found.append(float(task.means.compute()["neg_elbo"]))
            task.means.reset()
        else:
            found.append(task.training_step(one, 0)["loss"].item())
    assert found[0] == found[1] != found[2]
