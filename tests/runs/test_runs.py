"""A run read back: the same numbers, no data, and no trust."""

import os
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vae_lab.errors import DataError
from vae_lab.latents.encoding import encode_images
from vae_lab.runs.configs import check_config
from vae_lab.runs.load import load_model
from vae_lab.sampling.images import generate_images, save_images

Trained = tuple[Path, dict[str, Any]]


def test_a_model_read_back_gives_the_same_numbers(trained: Trained) -> None:
    stored = torch.load(trained[0] / "checkpoints" / "best.ckpt", weights_only=True)
    model = load_model(trained[0])
    assert not model.training
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, stored["state_dict"][f"model.{name}"])
    images = torch.rand(5, 1, 16, 16)
    torch.testing.assert_close(encode_images(model, images), model.posterior(images).mean)


def test_loading_leaves_the_random_numbers_alone(trained: Trained) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_model(trained[0])
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_the_same_seed_gives_the_same_pixels_whatever_the_batch_size(
    trained: Trained, tmp_path: Path, batch_size: int
) -> None:
    together, apart = (
        generate_images(load_model(trained[0]), 20, 5, 20),
        generate_images(load_model(trained[0]), 9, 5, batch_size),
    )
    torch.testing.assert_close(apart, together[:9], atol=1e-12, rtol=0)
    save_images(together, tmp_path / "a")
    save_images(apart, tmp_path / "b")
    for i in range(9):
        assert (tmp_path / "a" / f"{i:05d}.png").read_bytes() == (tmp_path / "b" / f"{i:05d}.png").read_bytes()
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [*(f"{i:05d}.png" for i in range(9)), "grid.png"]


def test_seeds_and_images_differ(trained: Trained) -> None:
    one, other = generate_images(load_model(trained[0]), 2, 0), generate_images(load_model(trained[0]), 2, 1)
    assert not torch.allclose(one, other)
    assert not torch.allclose(one[0], one[1])


def test_a_png_gets_the_grid(trained: Trained, tmp_path: Path) -> None:
    save_images(generate_images(load_model(trained[0]), 9, 0), tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (3 * 64 + 4 * 2, 3 * 64 + 4 * 2)
        assert picture.convert("L").entropy() > 1


@pytest.mark.parametrize(("n", "batch_size"), [(0, 1), (-1, 1), (1, 0)])
def test_counts_are_checked(trained: Trained, n: int, batch_size: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        generate_images(load_model(trained[0]), n, 0, batch_size)


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("place", ["hyper_parameters", "callbacks", "optimizer_states", "state_dict", "whole"])
@pytest.mark.parametrize("variable", ["0", "1"])
def test_code_in_a_checkpoint_never_runs(
    trained: Trained, tmp_path: Path, place: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", variable)
    stored = torch.load(trained[0] / "checkpoints" / "best.ckpt", weights_only=True)
    marker = tmp_path / "marker"
    path = tmp_path / "bad.ckpt"
    if place == "whole":
        path.write_bytes(pickle.dumps(Payload(marker)))
    else:
        torch.save(stored | {place: Payload(marker)}, path)
    with pytest.raises(DataError, match="safe to read"):
        load_model(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "target",
    ["os.system", "builtins.exec", "torch.load", "torch.hub.load", "vae_lab.models.vae.VAE.load", "joblib.load"],
)
@pytest.mark.parametrize("nest", [lambda c: c, lambda c: {"encoder": c}, lambda c: {"a": [{"b": c}]}])
def test_a_stored_config_names_only_what_is_shipped(target: str, nest: Any) -> None:
    config = {"_target_": "vae_lab.models.vae.VAE"} | nest({"_target_": target})
    with pytest.raises(ValueError, match="not a class of vae_lab for this role"):
        check_config(config, "model")
    with pytest.raises(ValueError, match=r"trust=\["):
        check_config(config, "model", [target.partition(".")[0]])


def test_a_stored_config_holds_no_interpolation() -> None:
    with pytest.raises(ValueError, match="interpolation"):
        check_config({"_target_": "vae_lab.models.vae.VAE", "notes": "${oc.env:HOME}"}, "model")


@pytest.mark.parametrize("damage", [b"", b"x" * 100, None])
def test_a_damaged_checkpoint_is_one_sentence(trained: Trained, tmp_path: Path, damage: bytes | None) -> None:
    good = (trained[0] / "checkpoints" / "best.ckpt").read_bytes()
    path = tmp_path / "bad.ckpt"
    path.write_bytes(good[: len(good) // 2] if damage is None else damage)
    start = time.process_time()
    with pytest.raises(DataError, match="safe to read"):
        load_model(path)
    assert time.process_time() - start < 5
    with pytest.raises(DataError, match="no checkpoint"):
        load_model(tmp_path / "missing")
