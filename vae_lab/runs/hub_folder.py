"""Hub folders: a model's weights as safetensors and its config as JSON, read as if a stranger had written them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vae_lab.errors import DataError
from vae_lab.runs.configs import require_plain
from vae_lab.system.reading import Unreadable, is_there, read_json

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PREPARATION = ("max_pixels", "background", "binarize")
"""Settings of a run's data that say how its images were made from pictures."""
INSTALL = "pip install 'vae_lab[hub]'"


class Shared(NamedTuple):
    """The content of a Hub folder: the configs of the model and of its images, and the model's weights."""

    config: dict[str, Any]
    weights: dict[str, "Tensor"]
    data: dict[str, Any]


def is_hub_folder(path: Path) -> bool:
    """Return whether a folder holds the config of a shared model; a run folder holds checkpoints instead."""
    return is_there(path / CONFIG, links=True) and not (path / "checkpoints").exists()


def read_hub_folder(folder: Path) -> Shared:
    """Return the model config and the weights in a Hub folder; links are followed, as the Hub's cache consists of them.

    Raises:
        DataError: if the folder does not hold a model of vae_lab, or its weights are not a safetensors file.
        ValueError: if safetensors is not installed.
    """
    try:
        stored = read_json(folder / CONFIG, links=True)
    except Unreadable as error:
        raise DataError(f"{folder.absolute()} holds no model that vae_lab reads ({error}).") from error
    if not isinstance(stored.get("model"), dict):
        kind = f"; {CONFIG} is that of {stored['_class_name']!r:.100} of diffusers" if "_class_name" in stored else ""
        raise DataError(f"{folder.absolute()} holds no model of vae_lab{kind}.")
    data = stored.get("data", {})
    if not isinstance(data, dict):
        raise DataError(f"{folder.absolute()} has data={data!r:.100} in {CONFIG}, which must be settings.")
    require_plain([stored["model"], data])
    path = folder / WEIGHTS
    if not is_there(path, links=True):
        raise DataError(f"{folder.absolute()} has no {WEIGHTS}, and vae_lab reads weights of no other form from it.")
    return Shared(stored["model"], read_safetensors(path), data)


def read_safetensors(path: Path) -> dict[str, "Tensor"]:
    """Return the tensors in a safetensors file, on the CPU.

    Raises:
        DataError: if it is not a safetensors file, whose format holds tensors and no code.
        ValueError: if safetensors is not installed.
    """
    try:
        from safetensors.torch import load
    except ImportError as error:
        raise ValueError(f"{path.parent} is a Hub folder, whose weights need safetensors: {INSTALL}.") from error
    try:
        return load(path.read_bytes())  # load_file maps the file, and a file that shrinks then ends the process
    except OSError:
        raise
    except Exception as error:  # the reader raises errors of many types for damaged files
        raise DataError(f"{path.absolute()} is not a safetensors file that is safe to read ({error}).") from error
