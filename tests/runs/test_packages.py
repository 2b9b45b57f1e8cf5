"""Classes of other people's packages: which of them a run folder may be made of."""

import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import torch
from invoking import invoke
from omegaconf import DictConfig, OmegaConf

from vae_lab.detect import main as detect
from vae_lab.detection.calibration import Calibration, score_config
from vae_lab.detection.score_images import score_images
from vae_lab.evaluate import main as evaluate
from vae_lab.exploring.explored import Explored
from vae_lab.generate import main as generate
from vae_lab.runs.configs import check_config
from vae_lab.runs.load import load_data, load_model, without_side_effects
from vae_lab.runs.packages import LIBRARIES, read_trust
from vae_lab.training.run import train_run

ROOT = Path(__file__).parents[2]
VAE = {"_target_": "vae_lab.models.vae.VAE"}
NETWORK = {"_target_": "otherlab.Encoder", "_partial_": True}
GELU = {"_target_": "torch.nn.GELU", "_partial_": True}
BLOBS = {"_target_": "vae_lab.data.synthetic.SyntheticBlobs", "nimages": 8}
FEW = ["nll_images=4", "nsamples=2", "ngenerated=8", "nbound=2", "features=vgg", "ngroups=2", "nreplicates=2", "k=1"]
TINY = [
    "data=synthetic",
    "model=mlp",
    "trainer.max_steps=4",
    "trainer.val_check_interval=4",
    "trainer.precision=32-true",
]


@pytest.mark.parametrize(
    ("trust", "packages"),
    [(None, ()), ([], ()), ("otherlab", ("otherlab",)), (["otherlab", "sabotage"], ("otherlab", "sabotage"))],
    ids=str,
)
def test_trust_names_packages(trust: Any, packages: tuple[str, ...]) -> None:
    assert read_trust(trust) == packages


NO_PACKAGES = {
    "os": "is part of Python or a dependency of vae_lab",
    "builtins": "is part of Python",
    "torch": "is part of Python",
    "hydra": "is part of Python",
    "vae_lab": "the classes of vae_lab need no trust; leave vae_lab out",
    "hydra_plugins": "leave hydra_plugins out",
    "otherlabs": "the package otherlabs is not installed; install it, or add its folder to PYTHONPATH",
    "otherlab.Encoder": r"name the whole package, trust=\[otherlab\]",
    "__main__": r"is not a package; name packages, as in trust=\[mylab\]",
    "": "is not a package",
    "../otherlab": "is not a package",
    "otherlab ": "is not a package",
}


@pytest.mark.parametrize("name", NO_PACKAGES)
def test_what_no_run_folder_is_trusted_with_is_told(name: str) -> None:
    with pytest.raises(ValueError, match=rf"trust=\[{re.escape(name)}\].*{NO_PACKAGES[name]}"):
        read_trust(["otherlab", name])


@pytest.mark.parametrize("trust", [5, {"otherlab": True}, [5], [None], [["otherlab"]]], ids=str)
def test_a_trust_that_is_no_list_of_names_is_refused(trust: Any) -> None:
    with pytest.raises(ValueError, match=r"not a list of packages|is not a package"):
        read_trust(trust)


def test_all_that_vae_lab_requires_is_known() -> None:
    texts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    required = {re.split(r"[^\w-]", text, maxsplit=1)[0].lower().replace("_", "-") for text in texts}
    for name, distributions in packages_distributions().items():
        if required & {one.lower().replace("_", "-") for one in distributions} and not name.startswith("_"):
            assert name in LIBRARIES


ADMITTED = {
    "a class": NETWORK,
    "a function": {"_target_": "otherlab.make_encoder", "_partial_": True},
    "a classmethod": {"_target_": "otherlab.Encoder.plain", "_partial_": True},
    "what Hydra is told": NETWORK | {"_convert_": "none", "_recursive_": False, "_args_": [1, 28]},
    "a layer of torch": NETWORK | {"layer": GELU},
    "a layer of torch that is made": NETWORK | {"layer": {"_target_": "torch.nn.GELU"}},
    "a part of vae_lab below": NETWORK | {"inner": {"_target_": "vae_lab.models.conv.ConvEncoder", "_partial_": True}},
    "a list of parts below": NETWORK | {"all": [{"a": {"_target_": "vae_lab.probability.likelihoods.Bernoulli"}}]},
    "a part of vae_lab by another name": {"_target_": "otherlab.MLPEncoder", "_partial_": True},
}


@pytest.mark.parametrize("name", ADMITTED)
def test_classes_of_a_trusted_package_are_admitted(name: str) -> None:
    config = VAE | {"encoder": ADMITTED[name]}
    check_config(config, "model", ["otherlab"])
    with pytest.raises(
        ValueError,
        match=r"names 'otherlab\..*' as model.encoder, .* not a class of vae_lab.*trust=\[otherlab\]",
    ):
        check_config(config, "model")


NOT_ADMITTED = {
    "otherlab.os.system": "outside the package otherlab",
    "otherlab.subprocess.run": "defined as 'subprocess.run', outside the package otherlab",
    "otherlab.torch.hub.load": "defined as 'torch.hub.load', outside the package otherlab",
    "otherlab.nn.Linear": "outside the package otherlab",
    "otherlab.LatentModel": "defined as 'vae_lab.probability.latent_model.LatentModel'",
    "otherlab.Encoder.register_buffer": "outside the package otherlab",
    "otherlab.Encoder.__init__": "is not the name of a class",
    "otherlab.make_encoder.__globals__": "is not the name of a class",
    "otherlab.__builtins__": "is not the name of a class",
    "otherlab.twice": "is not a class",
    "otherlab.settings": "is not a class",
    "otherlab.settings.update": "is not a class",
    "otherlab": "is not a class",
    "otherlab.": "is not the name of a class",
    "otherlab..Encoder": "is not the name of a class",
    "otherlab.Nothing": "cannot be imported",
    "otherlabs.Encoder": r"if you trust the package otherlabs .*trust=\[otherlab,otherlabs\]",
    "os.system": "and trust= cannot allow it",
    "builtins.eval": "and trust= cannot allow it",
    "torch.hub.load": "and trust= cannot allow it",
    "torch.nn.functional.gelu": "and trust= cannot allow it",
    "vae_lab.training.loggers.csv.MetricsTable": "and trust= cannot allow it",
    "hydra.utils.instantiate": "and trust= cannot allow it",
    "": "and trust= cannot allow it",
}


@pytest.mark.parametrize("place", ["", "layer", "layers.0", "_args_.0"])
@pytest.mark.parametrize("target", NOT_ADMITTED)
def test_trust_admits_nothing_beyond_the_package(target: str, place: str) -> None:
    node: dict[str, Any] = {"_target_": target, "_partial_": True}
    below = {
        "encoder.layer": {"layer": node},
        "encoder.layers.0": {"layers": [node]},
        "encoder._args_.0": {"_args_": [node]},
    }
    config = VAE | {"encoder": NETWORK | below[place] if place in below else node}
    with pytest.raises(ValueError, match=NOT_ADMITTED[target]):
        check_config(config, "model", ["otherlab"])


@pytest.mark.parametrize("target", [5, None, ["otherlab.Encoder"], {"_target_": "otherlab.Encoder"}], ids=str)
def test_a_target_that_is_no_text_is_refused(target: object) -> None:
    with pytest.raises(ValueError, match="not a class of vae_lab for this role"):
        check_config(VAE | {"encoder": {"_target_": target}}, "model", ["otherlab"])


ROLES_STAY = {
    "torch beside a trusted class": VAE | {"encoder": NETWORK, "decoder": {"_target_": "torch.nn.GELU"}},
    "a likelihood as the encoder": VAE | {"encoder": {"_target_": "vae_lab.probability.likelihoods.Bernoulli"}},
    "images in a model": VAE | {"encoder": NETWORK | {"layer": BLOBS}},
}


@pytest.mark.parametrize("name", ROLES_STAY)
def test_packaged_classes_keep_their_roles(name: str) -> None:
    with pytest.raises(ValueError, match="not a class of vae_lab for this role"):
        check_config(ROLES_STAY[name], "model", ["otherlab"])


def test_a_part_of_vae_lab_below_a_trusted_class_is_made_as_ever() -> None:
    below = NETWORK | {"inner": {"_target_": "vae_lab.models.conv.ConvEncoder", "_args_": [1]}}
    with pytest.raises(ValueError, match=r"instantiates model\.encoder\.inner in a way"):
        check_config(VAE | {"encoder": below}, "model", ["otherlab"])


def test_nothing_is_fetched_or_written_at_any_depth() -> None:
    inner = {"download": True, "cache": "/x", "archive": {"_target_": "x"}, "root": "y"}
    off = {"download": False, "cache": None, "archive": None, "root": "y"}
    assert without_side_effects({"inner": [inner], "download": True, "n": 1}) == {
        "inner": [off],
        "download": False,
        "n": 1,
    }


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose encoder and images are classes of otherlab."""
    from hydra import compose, initialize_config_dir

    from vae_lab.system.config_dir import CONF

    folder = tmp_path_factory.mktemp("foreign") / "run"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*TINY, "data.image_size=8", "model.nlatent=2", "logger=none", f"folder={folder}"])
    OmegaConf.set_struct(cfg, False)
    cfg.model.encoder = NETWORK | {"layer": GELU}
    cfg.model.decoder.width = cfg.model.decoder.nblocks = 8
    cfg.data.inner = OmegaConf.to_container(cfg.data, resolve=True)
    cfg.data._target_ = "otherlab.Turned"
    train_run(cfg)
    return folder


COMMANDS = {
    "generate": (generate, ["n=2", "out=pictures", "sampler=gmm"]),
    "evaluate": (evaluate, FEW),
    "detect": (detect, ["images=pictures", "ncalibration=8", "alpha=0.5"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_reads_a_run_folder_takes_trust(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    shutil.copytree(foreign, tmp_path / "run")
    shutil.copytree(foreign / "figures", tmp_path / "pictures" if name == "detect" else tmp_path / "figures")
    monkeypatch.chdir(tmp_path)
    main, settings = COMMANDS[name]
    before = sorted(tmp_path.rglob("*"))
    assert invoke(main, name, "run=run", "threads=1", *settings, monkeypatch=monkeypatch) == 2
    (line,) = [line for line in capfd.readouterr().out.splitlines() if "otherlab" in line]
    assert line.endswith("type trust=[otherlab].")
    assert sorted(tmp_path.rglob("*")) == before
    assert invoke(main, name, "run=run", "threads=1", *settings, "trust=[otherlab]", monkeypatch=monkeypatch) == 0


def test_the_page_of_a_run_takes_trust_too(foreign: Path) -> None:
    with pytest.raises(ValueError, match=r"trust=\[otherlab\]"):
        Explored(foreign, score_config("neg_elbo"), Calibration())
    explored = Explored(foreign, score_config("neg_elbo"), Calibration(trust=["otherlab"]))
    assert explored.test_images() is not None
    assert "validation images" in explored.statistics().source


def test_python_takes_trust_too(foreign: Path) -> None:
    for load in (load_model, load_data):
        with pytest.raises(ValueError, match=r"trust=\[otherlab\]"):
            load(foreign)
        load(foreign, trust=["otherlab"])
    images = load_data(foreign, trust="otherlab").splits.test.pixels(slice(4))
    assert len(score_images(foreign, images, alpha=0.5, trust="otherlab").scores) == 4
    own = {"_target_": "otherlab.Brightness"}
    assert len(score_images(foreign, images, own, alpha=0.5, trust="otherlab").scores) == 4
    with pytest.raises(ValueError, match="builds a GELU, not a Score"):
        score_images(foreign, images, GELU | {"_partial_": False}, alpha=0.5, trust="otherlab")


ENCODER = ["~model.encoder.width", "~model.encoder.nblocks", "model.decoder.width=8", "model.decoder.nblocks=1"]
TOLD = {
    "trusted": ("otherlab.Encoder", r"detect read this run with trust=\[otherlab\]"),
    "never": ("otherlab.nn.Flatten", "detect will refuse this run: the stored config names 'otherlab.nn.Flatten'"),
}


@pytest.mark.parametrize("name", TOLD)
def test_training_tells_what_its_readers_have_to_trust(
    config: Callable[..., DictConfig], name: str, caplog: Any
) -> None:
    from vae_lab.train import say_packages

    target, sentence = TOLD[name]
    with caplog.at_level("INFO"):
        say_packages(config("model=mlp", *ENCODER, f"model.encoder._target_={target}"))
        say_packages(config("data=mnist", "model=mlp"))
    (line,) = caplog.messages
    assert re.search(sentence, line)


def test_trust_runs_no_code_of_a_package_that_it_does_not_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nosylab.py").write_text("import pathlib\npathlib.Path('marker').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"trust=\[otherlab,nosylab\]"):
        check_config(VAE | {"encoder": {"_target_": "nosylab.Net", "_partial_": True}}, "model", ["otherlab"])
    check_config(VAE, "model", ["nosylab"])
    assert not Path("marker").exists()
    assert "nosylab" not in sys.modules


def test_a_model_of_a_trusted_class_gives_the_same_numbers(foreign: Path) -> None:
    stored = torch.load(foreign / "checkpoints" / "best.ckpt", weights_only=True)
    model = load_model(foreign, trust=["otherlab"])
    assert type(model.encoder).__name__ == "Encoder"
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, stored["state_dict"][f"model.{name}"])
