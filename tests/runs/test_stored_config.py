"""A stranger's run folder: whatever its config and files hold, one sentence, nothing made and nothing filled."""

import json
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vae_lab.detection.calibration import read_calibration
from vae_lab.detection.scores.anomaly import NegELBO
from vae_lab.errors import DataError
from vae_lab.runs.configs import MAX_VALUES, Role, check_config, packaged_roles, require_plain
from vae_lab.runs.folder import load_summary, read_summary, state_at_rest
from vae_lab.runs.load import load_checkpoint, load_data, load_model
from vae_lab.runs.tensor_file import read_tensors
from vae_lab.sampling.store import read_sampler
from vae_lab.system.config_dir import CONF
from vae_lab.system.reading import MAX_BYTES, Unreadable, read_json

Trained = tuple[Path, dict[str, Any]]
Config = dict[str, Any]
LOGGER: Config = {
    "_target_": "vae_lab.training.loggers.wandb.WeightsAndBiases",
    "project": "x",
    "id": None,
    "group": None,
    "name": "x",
    "tags": [],
    "mode": "offline",
    "folder": "made",
    "timeout": 1.0,
}
MNIST: Config = {"_target_": "torchvision.datasets.MNIST", "root": "made", "download": True}
KEEPER: Config = {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": "made"}
TABLE: Config = {"_target_": "vae_lab.training.loggers.csv.MetricsTable", "path": "made"}
ARCHIVE: Config = {"_target_": "vae_lab.data.files.download.ZipArchive", "url": "https://example.org"}
BLOBS: Config = {"_target_": "vae_lab.data.synthetic.SyntheticBlobs", "nimages": 8}
FOREIGN = [LOGGER, MNIST, KEEPER, TABLE, ARCHIVE, {"_target_": "torch.optim.Adam"}, {"_target_": "os.system"}]


def forged(trained: Trained, place: Path, change: Callable[[Config], object]) -> Path:
    """A run folder whose stored config, model and data among it, was changed."""
    stored = torch.load(trained[0] / "checkpoints" / "best.ckpt", weights_only=True)
    change(stored["hyper_parameters"])
    (place / "checkpoints").mkdir(parents=True)
    torch.save(stored, place / "checkpoints" / "best.ckpt")
    return place


def put(path: str, value: object) -> Callable[[Config], None]:
    """What puts a value into a config."""

    def change(config: Config) -> None:
        *above, last = path.split(".")
        for key in above:
            config = config[key]
        config[last] = value

    return change


def name(value: object) -> str:
    """How a config is called in a test's name."""
    return str(value["_target_"]).rpartition(".")[2] if isinstance(value, dict) and "_target_" in value else str(value)


@pytest.mark.parametrize("config", [*FOREIGN, BLOBS], ids=name)
@pytest.mark.parametrize("place", ["model", "model.encoder", "model.likelihood", "model.prior", "model.nlatent"])
def test_no_other_class_is_taken_for_a_part_of_a_model(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, config: Config
) -> None:
    run = forged(trained, tmp_path / "run", put(place, config))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"names '{config['_target_']}' as {place}, .* not a class of vae_lab"):
        load_model(run)
    assert list(Path().iterdir()) == [Path("run")]


@pytest.mark.parametrize("config", [*FOREIGN, {"_target_": "vae_lab.models.vae.VAE"}], ids=name)
@pytest.mark.parametrize("place", ["data", "data.seed", "data.root", "data.archive.inside"])
def test_no_other_class_is_taken_for_a_part_of_data(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, config: Config
) -> None:
    def change(stored: Config) -> None:
        stored["data"]["archive"] = {}
        put(place, config)(stored)

    run = forged(trained, tmp_path / "run", change)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"names '{config['_target_']}' as {place}, .* not a class of vae_lab"):
        load_data(run)
    assert list(Path().iterdir()) == [Path("run")]


def test_a_data_set_is_made_as_a_function_alone() -> None:
    whole: Config = {"_target_": "vae_lab.data.mnist.IdxImages", "dataset": MNIST}
    with pytest.raises(ValueError, match=r"instantiates data\.dataset in a way that vae_lab never does"):
        check_config(whole, "data")
    check_config(whole | {"dataset": {"_target_": MNIST["_target_"], "_partial_": True}}, "data")


@pytest.mark.parametrize("key", ["_args_", "_recursive_", "_convert_", "_partial_"])
@pytest.mark.parametrize("place", ["model", "model.likelihood"])
def test_a_stored_config_says_nothing_else_to_hydra(trained: Trained, tmp_path: Path, place: str, key: str) -> None:
    run = forged(trained, tmp_path / "run", put(f"{place}.{key}", ["x"] if key == "_args_" else True))
    with pytest.raises(ValueError, match=f"instantiates {place} in a way that vae_lab never does"):
        load_model(run)


@pytest.mark.parametrize("group", ["model", "data"])
def test_every_packaged_config_is_allowed_in_its_role(group: str) -> None:
    roles = packaged_roles(group)
    assert roles[group].classes
    assert all(target.startswith(("vae_lab.", "torchvision.")) for role in roles.values() for target in role.classes)
    assert not any("${" in place for place in roles)


def test_groups_that_a_model_refers_to_have_their_role_in_it() -> None:
    for group in ("likelihood", "prior"):
        assert packaged_roles("model")[f"model.{group}"] == packaged_roles(group)[group]
    assert packaged_roles("data")["data.dataset"] == Role(
        frozenset({"torchvision.datasets.MNIST", "torchvision.datasets.FashionMNIST"}), partial=True
    )


HUGE = [
    ("model.encoder.nblocks", 1_000_000),
    ("model.decoder.nblocks", 1_000_000),
    ("model.encoder.width", 10**9),
    ("model.nlatent", 10**9),
    ("model.image_size", 10**6),
    ("model.channels", 10**9),
    ("model.nclasses", 10**9),
    ("model.encoder.width", 2**63),
]


@pytest.fixture(scope="module")
def flat(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run with a fully connected model, never trained."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["data=synthetic", "model=mlp", "model.encoder.width=8", "folder=."])
    model = instantiate(cfg.model, _convert_="all")
    stored = torch.load(trained[0] / "checkpoints" / "best.ckpt", weights_only=True)
    stored["hyper_parameters"]["model"] = OmegaConf.to_container(cfg.model, resolve=True)
    stored["state_dict"] = {f"model.{key}": value for key, value in model.state_dict().items()}
    folder = tmp_path_factory.mktemp("flat")
    (folder / "checkpoints").mkdir()
    torch.save(stored, folder / "checkpoints" / "best.ckpt")
    return folder, trained[1]


@pytest.mark.parametrize(("place", "size"), HUGE)
def test_sizes_are_held_against_the_weights(flat: Trained, tmp_path: Path, place: str, size: int) -> None:
    run = forged(flat, tmp_path / "run", put(place, size))
    load_model(flat[0])
    started = time.monotonic()
    with pytest.raises(DataError, match="do not fit the model of its config"):
        load_model(run)
    assert time.monotonic() - started < 5


def test_a_stored_config_refers_to_nothing(flat: Trained, tmp_path: Path) -> None:
    run = forged(flat, tmp_path / "run", put("model.nlatent", "${oc.env:HOME}"))
    with pytest.raises(ValueError, match="holds an interpolation"):
        load_model(run)


def test_images_have_the_size_of_the_model(flat: Trained, tmp_path: Path) -> None:
    run = forged(flat, tmp_path / "run", put("data.image_size", 32))
    with pytest.raises(DataError, match="has image_size=32 for the data, and 16 for the model"):
        load_data(run)


def test_no_more_layers_are_made_than_there_are_weights(flat: Trained, tmp_path: Path) -> None:
    made = 0

    def count(*_: object) -> None:
        nonlocal made
        made += 1

    run = forged(flat, tmp_path / "run", put("model.decoder.nblocks", 1_000_000))
    with (
        torch.nn.modules.module.register_module_parameter_registration_hook(count),
        pytest.raises(DataError, match="larger than its weights"),
    ):
        load_model(run)
    assert made < 300


SHAPES = [
    ("data", (1, 2)),
    ("data", [1]),
    ("data", None),
    ("data", {}),
    ("model", "x"),
    ("model", {}),
    ("objective", []),
    ("task", 1),
    ("data.seed", {1, 2}),
    ("data.seed", torch.zeros(1)),
    ("data.seed", b"x"),
    ("data.seed", 2**64),
    ("data.seed", [0] * MAX_VALUES),
    ("data.nimages", "many"),
    ("data.nimages", [1]),
    ("data.image_size", 10**9),
    ("data.unheard_of", 1),
    ("model.unheard_of", 1),
    ("model.encoder", 1),
    ("model.encoder.widths", 5),
    ("model.nlatent", -1),
    ("model.likelihood", {"variance": 1}),
]


@pytest.mark.parametrize(("place", "value"), SHAPES, ids=lambda value: str(value)[:20])
def test_a_config_of_another_shape_is_refused_in_a_sentence(
    trained: Trained, tmp_path: Path, place: str, value: object
) -> None:
    run = forged(trained, tmp_path / "run", put(place, value))
    part = "data" if place.startswith("data") else "model"
    with pytest.raises((DataError, ValueError)) as caught:
        {"data": load_data, "model": load_model}[part](run)
    assert type(caught.value) in (DataError, ValueError)
    assert "\n" not in str(caught.value)


def test_what_holds_itself_ends() -> None:
    config: Config = {"_target_": "vae_lab.models.vae.VAE"}
    config["likelihood"] = config
    laughs: list[object] = []
    for _ in range(50):
        laughs = [laughs] * 10
    for endless in (config, laughs):
        with pytest.raises(DataError, match="nested too deeply"):
            require_plain(endless)


def test_a_zip_bomb_is_refused_unread(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "bomb.ckpt"
    with (
        zipfile.ZipFile(trained[0] / "checkpoints" / "best.ckpt") as good,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bad,
    ):
        for entry in good.infolist():
            bad.writestr(entry.filename, bytes(10**8) if entry.filename.endswith("/0") else good.read(entry))
    assert path.stat().st_size < 5_000_000
    with pytest.raises(DataError, match="unpacks to more bytes than it has"):
        load_checkpoint(path)


class Filled:
    """A bytearray of so many zeros, once it is read."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return bytearray, (self.nbytes,)


REPEATING = {
    "one number a billion times": lambda: torch.zeros(1).expand(10**9),
    "no memory at all": lambda: torch.zeros(10**9, device="meta"),
    "a bytearray": lambda: Filled(10**9),
}


@pytest.mark.parametrize("make", REPEATING.values(), ids=REPEATING.keys())
def test_tensors_larger_than_their_file_are_refused(trained: Trained, tmp_path: Path, make: Any) -> None:
    path = tmp_path / "bad.pt"
    torch.save({"weights": [make()]}, path)
    with pytest.raises(ValueError, match=r"larger than its memory|bytearray"):
        read_tensors(path)
    for read in (read_sampler, lambda path: read_calibration(path, NegELBO(nsamples=1, seed=0)), load_checkpoint):
        with pytest.raises(DataError):
            read(path)


def test_weights_that_share_their_memory_are_no_larger_than_the_file(flat: Trained, tmp_path: Path) -> None:
    stored = torch.load(flat[0] / "checkpoints" / "best.ckpt", weights_only=True)
    shared = torch.zeros(100_000)
    stored["state_dict"] = {f"model.{i}": shared.view(-1) for i in range(1000)}
    torch.save(stored, tmp_path / "bad.ckpt")
    with pytest.raises(DataError, match="share memory"):
        load_model(tmp_path / "bad.ckpt")


NESTED = "[" * 100_000 + "]" * 100_000
SUMMARIES = {
    "a list": "[1]",
    "a number": "1",
    "nested": NESTED,
    "nested in an object": f'{{"classes": {NESTED}}}',
    "cut short": '{"status": "comp',
    "huge": " " * (MAX_BYTES + 1),
    "no text": "\ud800",
}


def write_summary(kind: str, folder: Path) -> Path:
    """A summary that is none."""
    path = folder / "summary.json"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a dead link":
        path.symlink_to(folder / "nowhere")
    elif kind != "missing":
        path.write_bytes(SUMMARIES[kind].encode("utf-8", "surrogatepass"))
    return path


@pytest.mark.parametrize("kind", [*SUMMARIES, "a pipe", "a folder", "a dead link", "missing"])
def test_a_summary_that_is_none_is_told_at_once(tmp_path: Path, kind: str) -> None:
    path = write_summary(kind, tmp_path)
    with pytest.raises(DataError, match="no readable summary"):
        load_summary(tmp_path)
    with pytest.raises(Unreadable):
        read_json(path)
    assert read_summary(tmp_path) == {}
    assert state_at_rest(tmp_path).status == "missing"


def test_a_summary_may_be_linked_to_but_not_shown_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text(json.dumps({"status": "completed"}))
    (tmp_path / "summary.json").symlink_to(tmp_path / "real.json")
    assert load_summary(tmp_path) == read_summary(tmp_path) == {"status": "completed"}
    with pytest.raises(Unreadable):
        read_json(tmp_path / "summary.json")


def test_classes_are_names(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"classes": 5}')
    with pytest.raises(DataError, match="not a list of names"):
        load_summary(tmp_path)
