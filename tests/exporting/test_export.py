"""Exported models compute what the models do, in other programs too."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from invoking import invoke
from omegaconf import OmegaConf
from packaging.requirements import Requirement
from torch import nn

import vae_lab
from vae_lab.export import main
from vae_lab.exporting.graphs import FORMATS, PACKAGES, load_program, require_onnx, write_program
from vae_lab.exporting.parts import Part, parts_of
from vae_lab.exporting.run import DESCRIPTION, build_score, export_model, export_run
from vae_lab.probability.latent_model import LatentModel
from vae_lab.runs.configs import build
from vae_lab.runs.load import load_model
from vae_lab.system.config_dir import CONF

NEEDS = {"model=fastgan": ["data.image_size=32"], "model=resnet_fast": ["data.image_size=32"]}
NARROW = {
    "model=conv": ["model.encoder.widths=[8,8,8]"],
    "model=fastgan": ["model.encoder.widths=[8]", "model.decoder.widths=[8]"],
    "model=ladder": ["model.encoder.widths=[8,8]", "model.decoder.groups=[[2,1],[1,1]]"],
    "model=ladder_mlp": ["model.encoder.width=16", "model.decoder.groups=[4,3]"],
    "model=mlp": ["model.encoder.width=16"],
    "model=resnet": ["model.encoder.widths=[8]"],
    "model=resnet_fast": ["model.encoder.widths=[8]"],
}
MODELS = [f"model={path.stem}" for path in sorted((CONF / "model").glob("*.yaml"))]
LIKELIHOODS = [f"likelihood={path.stem}" for path in sorted((CONF / "likelihood").glob("*.yaml"))]
OTHERS = [
    *LIKELIHOODS,
    "prior=vamp",
    "model.nclasses=3",
    "model=resnet model.encoder.spatial=true model.nlatent=32 model.nclasses=2",
]
SCORE = {"_target_": "vae_lab.detection.scores.anomaly.NegELBO", "nsamples": 1, "seed": 0}


@pytest.fixture(params=FORMATS)
def to(request: pytest.FixtureRequest) -> str:
    """Each format whose packages are installed."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if request.param == "onnx" and missing:
        pytest.skip(f"{', '.join(missing)} are not installed: pip install 'vae_lab[export]'")
    return request.param


def untrained(choice: str) -> LatentModel:
    """A small model of a config, with random weights."""
    model, *others = choice.split() if choice.startswith("model=") else ("model=mlp", choice)
    settings = [model, *NARROW.get(model, []), *NEEDS.get(model, []), *others]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["data=synthetic", *settings])
    torch.manual_seed(0)
    model = build(OmegaConf.to_container(cfg.model, resolve=True))
    return model.to(memory_format=torch.channels_last).eval()


CHOICES = [*MODELS, *OTHERS]


@pytest.mark.slow  # the other tests export one model
@pytest.mark.parametrize("choice", CHOICES)
def test_every_kind_of_model_is_exported_and_equal(choice: str, to: str, tmp_path: Path) -> None:
    model = untrained(choice)
    files = export_model(model, tmp_path, to=to, score=build_score(SCORE), tolerance=1e-4)
    assert (
        {Path(name).stem for name in files} == {"encoder", "decoder", "score"} == {p.stem for p in tmp_path.iterdir()}
    )
    assert all(0 <= file["largest_difference"] <= 1e-4 for file in files.values())
    for part in parts_of(model, build_score(SCORE)):
        inputs = [value[50:55] for value in part.inputs.values()]
        exported = FORMATS[to].load(tmp_path / f"{part.name}{FORMATS[to].suffix}")(*inputs)
        for found, expected in zip(exported, part(*inputs), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def exported(trained: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that returns the folder of a run's model exported in a format."""
    folder = tmp_path_factory.mktemp("exported")

    def make(to: str) -> Path:
        if not (folder / to).exists():
            export_run(trained[0], folder / to, to=to, score=None if to == "onnx" else SCORE)
        return folder / to

    return make


STRANGER = """
import sys
assert not {"torch", "vae_lab"} & {name for name in sys.modules}
import json
import numpy
import onnxruntime
described = json.load(open(sys.argv[1] + "/export.json"))
z = numpy.load(sys.argv[1] + "/z.npy")
decoder = onnxruntime.InferenceSession(sys.argv[1] + "/decoder.onnx")
(image,) = decoder.run(["image"], {"z": z})
encoder = onnxruntime.InferenceSession(sys.argv[1] + "/encoder.onnx")
mean, log_sigma = encoder.run(["mean", "log_sigma"], {"image": image})
assert [*image.shape[1:]] == described["files"]["decoder.onnx"]["outputs"]["image"][1:]
assert "torch" not in sys.modules and "vae_lab" not in sys.modules
numpy.savez(sys.argv[1] + "/found.npz", image=image, mean=mean, log_sigma=log_sigma)
"""


def test_a_stranger_decodes_with_onnxruntime_and_numpy_alone(
    trained: tuple[Path, dict[str, Any]], exported: Callable[[str], Path], tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = shutil.copytree(exported("onnx"), tmp_path / "given")
    site = tmp_path / "site"
    site.mkdir()
    for package in ["onnxruntime", "numpy", *(metadata.requires("onnxruntime") or [])]:
        link(package, site)
    assert Path(onnxruntime.__file__).parent.name in {path.name for path in site.iterdir()}
    z = torch.randn(7, 8)
    np.save(folder / "z.npy", z.numpy())
    path = f"import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p] + [{str(site)!r}]\n"
    line = [sys.executable, "-I", "-S", "-c", path + STRANGER, str(folder)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = np.load(folder / "found.npz")
    model = load_model(trained[0])
    image = model.generative(z).mean.detach()
    np.testing.assert_allclose(found["image"], image, atol=1e-4)
    np.testing.assert_allclose(found["mean"], model.posterior(image).mean.detach(), atol=1e-4)


def link(requirement: str, site: Path) -> None:
    """Link what an installed package consists of into a folder."""
    part = metadata.distribution(Requirement(requirement).name)
    for top in {file.parts[0] for file in part.files or [] if file.parts[0] not in ("..", "__pycache__")}:
        if not (site / top).exists():
            (site / top).symlink_to(Path(str(part.locate_file(top))))


def test_the_exported_score_is_that_of_detect(
    trained: tuple[Path, dict[str, Any]], exported: Callable[[str], Path]
) -> None:
    model = load_model(trained[0])
    images = torch.rand(5, 1, 16, 16)
    (found,) = load_program(exported("torch_export") / "score.pt2")(images)
    torch.testing.assert_close(found, build(SCORE)(model, images), rtol=1e-5, atol=1e-4)


def test_exported_files_tell_their_inputs_and_nothing_of_this_machine(exported: Callable[[str], Path], to: str) -> None:
    folder = exported(to)
    described = json.loads((folder / DESCRIPTION).read_text())
    assert {*described["files"], DESCRIPTION} == {path.name for path in folder.iterdir()}
    encoder = described["files"][f"encoder{FORMATS[to].suffix}"]
    assert encoder["inputs"] == {"image": ["batch", 1, 16, 16]}
    assert encoder["outputs"] == {"mean": ["batch", 8], "log_sigma": ["batch", 8]}
    assert encoder["largest_difference"] <= 1e-4
    root = str(Path(vae_lab.__file__).parents[1]).encode()
    assert [path.name for path in folder.iterdir() if root in path.read_bytes()] == []


def test_a_part_that_differs_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def write_other(part: Part, path: Path) -> None:
        with torch.no_grad():
            next(part.module.parameters()).add_(0.1)
        write_program(part, path)
        with torch.no_grad():
            next(part.module.parameters()).sub_(0.1)

    monkeypatch.setitem(FORMATS, "torch_export", FORMATS["torch_export"]._replace(write=write_other))
    with pytest.raises(ValueError, match=r"encoder\.pt2 differs from the model by \d.*, more than tolerance=0.0001"):
        export_model(untrained("model=mlp"), tmp_path, to="torch_export", score=None, tolerance=1e-4)
    assert list(tmp_path.iterdir()) == []


class Deciding(nn.Module):
    """An encoder whose path depends on the image."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.inner(image) if image.mean() > 0.5 else self.inner(1 - image)


def test_a_network_that_is_no_graph_is_refused_in_a_sentence(tmp_path: Path) -> None:
    model = untrained("model=mlp")
    model.encoder = Deciding(model.encoder)
    with pytest.raises(ValueError, match="to=torch_export: the encoder of this model is not a graph of tensors"):
        export_model(model, tmp_path, to="torch_export", score=None, tolerance=1e-4)
    assert list(tmp_path.iterdir()) == []


REFUSED = {
    "to=tflite": "to must be one of onnx, torch_export, hub, not tflite.",
    "to=diffusers": "to=diffusers: no model of vae_lab consists of the blocks of diffusers' AutoencoderKL",
    "tolerance=0.0": "tolerance must be a finite number above 0, not 0.0.",
    "score=iwae_nll": "score: IwaeNLL cannot be exported, because it searches",
    "score=auto": "score: several scores cannot be exported",
    "out=model.onnx": "out=model.onnx is the name of a file; name a folder, in which",
}


@pytest.mark.parametrize("setting", REFUSED)
def test_wrong_settings_of_export_end_with_a_sentence(
    trained: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    setting: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [setting] if setting.startswith("to=") else ["to=torch_export", setting]
    assert invoke(main, "export", f"run={trained[0]}", "threads=1", *given, monkeypatch=monkeypatch) == 2
    assert REFUSED[setting] in "".join(capfd.readouterr())
    assert list(tmp_path.iterdir()) == []


def test_export_writes_into_the_run_folder(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    run = shutil.copytree(trained[0], tmp_path / "run")
    arguments = (f"run={run}", "to=torch_export", "threads=1", "score=rate")
    assert invoke(main, "export", *arguments, monkeypatch=monkeypatch) == 0
    printed = "".join(capfd.readouterr())
    assert re.search(r"decoder\.pt2 differs from the model by at most \d\.\de-\d+ on 100 inputs", printed)
    made = run / "exported" / "torch_export"
    assert {path.name for path in made.iterdir()} == {"encoder.pt2", "decoder.pt2", "score.pt2", DESCRIPTION}


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vae_lab.exporting.graphs.PACKAGES", ("onnx_nowhere",))
    with pytest.raises(ValueError, match=r"needs the packages onnx_nowhere: pip install 'vae_lab\[export\]'"):
        require_onnx()
