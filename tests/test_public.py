"""The public functions and the commands: each can be imported after all others, and commands need no torch."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import vae_lab
from vae_lab.__main__ import COMMANDS, summary

if TYPE_CHECKING:
    from typing import assert_type

    import numpy as np
    import torch
    from omegaconf import DictConfig

    from vae_lab.data.datamodule import ImageData
    from vae_lab.detection.detector import Detections
    from vae_lab.probability.latent_model import LatentModel

    def types_seen_by_a_user(cfg: DictConfig, images: torch.Tensor) -> None:
        """`make types` fails if a function, which is loaded at its first use, returns another type, or Any."""
        model = assert_type(vae_lab.load_model("run"), LatentModel)
        data = assert_type(vae_lab.load_data("run"), ImageData)
        for held in (
            images,
            "a.png",
            [Path("a.png"), "b.png"],
            np.zeros((8, 8)),
            data.splits.test,
            data.splits.test[0],
        ):
            assert_type(vae_lab.encode_images(model, held), torch.Tensor)
        assert_type(vae_lab.reconstruct_images(model, images), torch.Tensor)
        assert_type(vae_lab.interpolate_images(model, images, n=5), torch.Tensor)
        assert_type(vae_lab.log_likelihood(model, images), torch.Tensor)
        assert_type(vae_lab.generate_images(model, n=4, seed=0), torch.Tensor)
        assert_type(vae_lab.score_images("run", images, ncalibration=100), Detections)
        assert_type(vae_lab.train_run(cfg), dict[str, object])
        assert_type(vae_lab.train_run(["data=digits"]), dict[str, object])


PACKAGE = Path(vae_lab.__file__).parent
ROOMS = [path.parent.name for path in PACKAGE.glob("*/__main__.py")]
"""Commands that are rooms: importing these hides nothing, because the command is `__main__` in them."""
MODULES = [f"{name}.__main__" if name in ROOMS else name for name in COMMANDS]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("order", ["commands first", pytest.param("functions first", marks=pytest.mark.slow)])
def test_no_function_hides_a_command_nor_a_command_a_function(order: str) -> None:
    imports = [
        *(f"import vae_lab.{name}" for name in MODULES),
        *(f"from vae_lab import {name}" for name in vae_lab.__all__),
    ]
    if order == "functions first":
        imports.reverse()
    checks = [
        *(f"assert callable(vae_lab.{name}.main), {name!r}" for name in MODULES),
        *(f"assert callable(vae_lab.{name}), {name!r}" for name in vae_lab.__all__),
    ]
    done = python("\n".join(["import vae_lab", *imports, *checks]))
    assert done.returncode == 0, done.stderr


def test_no_room_module_or_function_has_the_name_of_a_command() -> None:
    names = {path.stem for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE}
    rooms = {path.parent.name for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE}
    assert (names | rooms) & {*COMMANDS} == {*ROOMS}
    functions = {
        f"{path.stem}.{node.name}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in COMMANDS
    }
    assert not functions


def test_commands_and_the_package_load_no_torch() -> None:
    imports = [f"import vae_lab.{name}" for name in MODULES]
    done = python("\n".join(["import sys, vae_lab", *imports, "assert 'torch' not in sys.modules"]))
    assert done.returncode == 0, done.stderr


def test_the_package_lists_its_commands() -> None:
    done = subprocess.run([sys.executable, "-m", "vae_lab"], capture_output=True, text=True, timeout=60, check=False)
    doors = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__", "errors", "intervals"} | {*ROOMS}
    assert doors == {*COMMANDS}
    assert [line.split()[2] for line in done.stdout.splitlines()[1:]] == [f"vae_lab.{name}" for name in COMMANDS]
    assert all(summary(name) for name in COMMANDS)


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vae_lab.nothing  # pyright: ignore[reportAttributeAccessIssue]
    assert {*vae_lab.__all__} <= {*dir(vae_lab)}


@pytest.mark.parametrize("name", vae_lab.__all__)
def test_a_public_function_is_annotated_without_any(name: str) -> None:
    signature = inspect.signature(getattr(vae_lab, name))
    annotations = [signature.return_annotation, *(given.annotation for given in signature.parameters.values())]
    assert [str(said) for said in annotations if said is inspect.Signature.empty or "Any" in str(said)] == []
