"""A Hub folder holds the run's model and its numbers, goes to a Hub and back, and runs no code of its author."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from invoking import invoke
from loopback_hub import LoopbackHub, loopback_hub

from vae_lab.errors import DataError, StorageError
from vae_lab.export import main
from vae_lab.generate import main as generate
from vae_lab.runs.load import load_data, load_model
from vae_lab.system.config_dir import CONF
from vae_lab.training.run import train_run

huggingface_hub = pytest.importorskip("huggingface_hub")
safetensors = pytest.importorskip("safetensors.torch")

from vae_lab.exporting.hub import share_run  # noqa: E402

Trained = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def run(made_once: Callable[..., Path]) -> Path:
    """A run of two classes and a fully connected model, with pictures."""

    def make(folder: Path) -> None:
        settings = ["data=synthetic", "data.nimages=64", "model=mlp", "model.encoder.width=16", "model.nlatent=3"]
        length = ["trainer.max_steps=4", "trainer.val_check_interval=4", "trainer.precision=32-true", "logger=none"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            train_run(compose("train", [*settings, *length, "model.nclasses=10", f"folder={folder}"]))

    return made_once("hub", make)


@pytest.fixture(scope="module")
def shared_folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Hub folder of the run."""
    return share_run(run, tmp_path_factory.mktemp("hub") / "model", license="cc-by-4.0")


@pytest.fixture
def given(shared_folder: Path, tmp_path: Path) -> Path:
    """A copy of the Hub folder, to be tampered with."""
    return shutil.copytree(shared_folder, tmp_path / "given")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A Hub on the loopback address, to which the user is logged in."""
    with loopback_hub() as server:
        files = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


def require_same(folder: Path, run: Path) -> None:
    """Compare the models of a Hub folder and of a run."""
    ours, theirs = load_model(run).state_dict(), load_model(folder).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_hub_folder_is_loaded_without_the_run(run: Path, given: Path, tmp_path: Path) -> None:
    assert {path.name for path in given.iterdir()} == {"README.md", "config.json", "model.safetensors", "samples.png"}
    require_same(given, run)
    with pytest.raises(DataError, match="a Hub folder holds a model alone; name the run folder that it was made of"):
        load_data(given)


def test_the_model_card_has_the_numbers_of_the_run(run: Path, shared_folder: Path) -> None:
    card = huggingface_hub.ModelCard.load(shared_folder / "README.md")
    assert (card.data.license, card.data.library_name) == ("cc-by-4.0", "vae_lab")
    summary = json.loads((run / "summary.json").read_text())
    assert f"| test/neg_elbo | {summary['test/neg_elbo']:.6g} |" in card.text
    assert f"on {summary['data']['ntrain']} images" in card.text
    assert "![samples.png](samples.png)" in card.text
    assert "The model is conditional: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9." in card.text
    assert (
        str(run.parent) not in (shared_folder / "README.md").read_text() + (shared_folder / "config.json").read_text()
    )


def test_the_code_of_the_model_card_works(given: Path) -> None:
    code = re.search(r"```python\n(.*?)```", (given / "README.md").read_text(), re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1].replace("<this folder>", str(given)), names)
    assert names["images"].shape == (16, 1, 16, 16)


def test_a_folder_goes_to_a_hub_and_comes_back(
    hub: LoopbackHub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = (f"run={run}", "to=hub", f"out={tmp_path / 'hub'}", "hub.push=me/digits", "threads=1")
    assert invoke(main, "export", *arguments, monkeypatch=monkeypatch) == 0, capfd.readouterr()
    assert f"uploaded to {hub.url}/me/digits/commit/" in capfd.readouterr().out
    assert hub.private == {"me/digits": True}
    files = hub.repositories["me/digits"]
    assert {name for name in files if not name.startswith(".")} == {path.name for path in (tmp_path / "hub").iterdir()}
    assert b'load_model(snapshot_download("me/digits"))' in files["README.md"]
    pulled = huggingface_hub.snapshot_download("me/digits", cache_dir=tmp_path / "cache", endpoint=hub.url)
    require_same(Path(pulled), run)


def test_a_failed_upload_ends_with_a_sentence(hub: LoopbackHub, run: Path, tmp_path: Path) -> None:
    hub.token = "another"
    with pytest.raises(StorageError, match=r"push=me/digits: .* was written, but not uploaded \(.*401.*log in by"):
        share_run(run, tmp_path / "hub", push="me/digits")
    require_same(tmp_path / "hub", run)


def change(path: str, value: object) -> Callable[[Path], object]:
    """What writes a value into config.json."""

    def write(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        node = config
        *above, last = path.split(".")
        for key in above:
            node = node[key]
        node[last] = value
        (folder / "config.json").write_text(json.dumps(config))

    return write


def put_torch_file(folder: Path) -> None:
    torch.save(safetensors.load((folder / "model.safetensors").read_bytes()), folder / "model.safetensors")


def rename_torch_file(folder: Path) -> None:
    torch.save(safetensors.load((folder / "model.safetensors").read_bytes()), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def put_other_weights(folder: Path) -> None:
    safetensors.save_file({"x": torch.ones(3)}, folder / "model.safetensors")


def cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


TAMPERED = {
    "a foreign class": (change("model._target_", "os.system"), ValueError, "names 'os.system' as model, which is not"),
    "a foreign class inside": (change("model.prior._target_", "torch.hub.load"), ValueError, "as model.prior, which"),
    "a package of others": (change("model.encoder._target_", "mylab.Net"), ValueError, r"type trust=\[mylab\]"),
    "an interpolation": (change("model.nlatent", "${oc.env:HOME}"), ValueError, "holds an interpolation"),
    "a large model": (change("model.decoder.width", 10**7), DataError, "larger than its weights"),
    "a list for a model": (change("model", [1]), DataError, "holds no model of vae_lab"),
    "another library": (change("model", None), DataError, "holds no model of vae_lab"),
    "a torch file for weights": (put_torch_file, DataError, "is not a safetensors file that is safe to read"),
    "a torch file beside": (rename_torch_file, DataError, "has no model.safetensors, and vae_lab reads weights of no"),
    "other weights": (put_other_weights, DataError, "do not fit the model of its config"),
    "half the weights": (cut, DataError, "is not a safetensors file that is safe to read"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), DataError, "damaged or cut short"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_folder_is_refused_in_a_sentence(given: Path, name: str) -> None:
    tamper, kind, sentence = TAMPERED[name]
    tamper(given)
    with pytest.raises(kind, match=sentence):
        load_model(given)


def test_a_folder_of_diffusers_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(
        DataError, match=r"holds no model of vae_lab; config.json is that of 'AutoencoderKL' of diffusers"
    ):
        load_model(tmp_path)


def test_commands_that_need_no_data_read_a_hub_folder(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new.png"
    assert invoke(generate, "generate", f"run={given}", "n=2", "threads=1", f"out={out}", monkeypatch=monkeypatch) == 0
    assert out.is_file()


REFUSED = {
    "hub.pictures=[nothing]": (3, "nothing.png; name other figures of the run with hub.pictures="),
    "out=full": (2, "out=full holds other files, which would be uploaded too; name an empty folder."),
    "to=onnx hub.push=me/x": (2, "hub.push=me/x uploads a Hub folder; choose to=hub, not to=onnx."),
}


@pytest.mark.parametrize("settings", REFUSED)
def test_wrong_settings_of_hub_end_with_a_sentence(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], settings: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    arguments = (f"run={run}", "to=hub", "out=made", *settings.split(), "threads=1")
    code, sentence = REFUSED[settings]
    assert invoke(main, "export", *arguments, monkeypatch=monkeypatch) == code
    assert sentence in "".join(capfd.readouterr())
    assert sorted(tmp_path.rglob("*")) == before


def test_a_second_export_replaces_the_first(run: Path, given: Path) -> None:
    share_run(run, given, license="mit", pictures=[])
    assert "license: mit" in (given / "README.md").read_text()
