"""A run folder read back. Nothing here trusts what it reads: tensors and plain values only, no class but our own."""

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vae_lab.conf_folder import CONF
from vae_lab.errors import DataError
from vae_lab.system.folders import expanded

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from vae_lab.data.module import ImageData
    from vae_lab.models.vae import LatentModel

PARTS = ("train", "val", "test")


def load_model(run: str | Path, checkpoint: str = "best", *, allow: Iterable[str] = ()) -> "LatentModel":
    """Return the trained model of a run folder, on the CPU and in evaluation mode; the data are not needed.

    Args:
        run: the run folder, or a checkpoint file.
        checkpoint: "best" or "last".
        allow: names of classes outside the packaged conf/ that the run's model may be made of.

    Raises:
        DataError: if there is no readable checkpoint.
        ValueError: if the stored config names a class that is neither in the packaged conf/ nor in `allow`.
    """
    import torch
    from hydra.utils import instantiate

    from vae_lab.randomness import seeded

    stored = load_checkpoint(run, checkpoint)
    config = stored["hyper_parameters"]["model"]
    check_config(config, packaged_targets() | set(allow))
    with seeded("load"):  # fresh weights are drawn and thrown away; whoever calls keeps their random numbers
        model: LatentModel = instantiate(config, _convert_="all")
    prefix = "model."
    weights = {name.removeprefix(prefix): w for name, w in stored["state_dict"].items() if name.startswith(prefix)}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"the weights in {run} do not fit the model that its config describes.") from error
    return model.to(memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]


def load_data(run: str | Path, checkpoint: str = "best", *, root: str | None = None) -> "ImageData":
    """Return the images that a run was trained on, as its config says.

    Args:
        run: the run folder, or a checkpoint file.
        checkpoint: "best" or "last".
        root: the folder that they lie in now; None looks where they were.

    Raises:
        DataError: if they are not there, or are not the same images in the same parts.
        ValueError: if the stored config names a class that is not shipped, or `root` is given and the data have none.
    """
    from hydra.utils import instantiate

    stored = load_checkpoint(run, checkpoint)
    config: dict[str, Any] = stored["hyper_parameters"]["data"]
    check_config(config, packaged_targets())
    if root is not None:
        if "root" not in config:
            raise ValueError(f"data.root={root}: the images of this run come with a package; leave data.root out.")
        config["root"] = root
    # a run folder may come from anybody: nothing is fetched for it, and nothing written where it says
    harmless = {"download": False, "archive": None, "cache": None}
    config |= {key: value for key, value in harmless.items() if key in config}
    data: ImageData = instantiate(config, _convert_="all")
    if data.fingerprint != stored["data"]:
        found, expected = (" + ".join(str(f[f"n{part}"]) for part in PARTS) for f in (data.fingerprint, stored["data"]))
        raise DataError(
            f"the images ({found}) are not those that {run} was trained on ({expected}), or not in the same parts; name"
            " the folder that holds those with data.root=."
        )
    return data


def load_checkpoint(run: str | Path, checkpoint: str = "best") -> dict[str, Any]:
    """Return the content of a run's checkpoint, read with `weights_only=True`.

    Raises:
        DataError: if it is not there, or holds anything but tensors and plain values.
    """
    import torch

    if checkpoint not in ("best", "last"):
        raise ValueError(f"checkpoint must be best or last, not {checkpoint}.")
    path = checkpoint_path(run, checkpoint)
    if not path.is_file():
        last = checkpoint_path(run, "last")
        remedy = "checkpoint=last is there" if last.is_file() else "run= takes the folder of a finished run"
        raise DataError(f"there is no checkpoint at {path.absolute()}; {remedy}.")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        _ = stored["hyper_parameters"]["model"], stored["state_dict"]
    except Exception as error:  # torch names no common type for what a damaged or hostile file can raise
        raise DataError(
            f"{path.absolute()} is no checkpoint of vae_lab that is safe to read ({type(error).__name__})."
        ) from error
    return stored


def checkpoint_path(run: str | Path, checkpoint: str) -> Path:
    """Return where a run folder has its checkpoint; a path that is no folder is taken for the checkpoint itself."""
    path = expanded(run)
    return path / "checkpoints" / f"{checkpoint}.ckpt" if path.is_dir() else path


def weights_digest(run: str | Path, checkpoint: str) -> str:
    """Return a hash of a run's checkpoint; nothing if there is none."""
    file = checkpoint_path(run, checkpoint)
    return hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest() if file.is_file() else ""


class Located(NamedTuple):
    """A run folder, and which of its checkpoints is meant."""

    folder: Path
    checkpoint: str

    def names(self) -> dict[str, str]:
        """Return both as they are called in what is written."""
        return {"run": self.folder.name, "checkpoint": self.checkpoint}


def locate(run: str | Path, checkpoint: str) -> Located:
    """Return the folder and the checkpoint of a run given as a folder, or as a checkpoint file in one."""
    path = expanded(run).absolute()
    if not path.is_file():
        return Located(path, checkpoint)
    return Located(path.parent.parent if path.parent.name == "checkpoints" else path.parent, path.stem)


def load_summary(run: str | Path) -> dict[str, Any]:
    """Return a run's summary.json."""
    path = expanded(run) / "summary.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"there is no readable summary at {path.absolute()}.") from error


def encode(model: "LatentModel", images: "Float[Tensor, 'n channels height width']") -> "Float[Tensor, 'n nlatent']":
    """Return the posterior means of images with pixels in [0, 1], on the CPU."""
    import torch

    device = next(model.parameters()).device
    with torch.no_grad():
        return torch.cat([one.posterior(part.to(device)).mean.cpu() for one, part in model.split(images, 256)])


@cache
def packaged_targets() -> frozenset[str]:
    """Return every `_target_` in the packaged conf/ that a run may be made of: no search or sweeper."""
    import yaml

    paths = (path for path in CONF.rglob("*.yaml") if path.relative_to(CONF).parts[0] not in ("search", "hydra"))
    configs = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in paths)
    return frozenset(target for config in configs for target in _targets(config))


def check_config(config: object, allowed: Iterable[str]) -> None:
    """Raise ValueError if a stored config names a class that is not allowed, or holds an interpolation."""
    foreign = sorted(set(_targets(config)) - set(allowed))
    if foreign:
        raise ValueError(
            f"the stored config names {', '.join(map(repr, foreign))}, which vae_lab does not ship; if you trust it,"
            " pass load_model(…, allow=[that name])."
        )
    if "${" in repr(config):
        raise ValueError("the stored config holds an interpolation, which a stored config never does; it was edited.")


def _targets(config: object) -> Iterable[str]:
    """Yield the value of every `_target_` key at any depth."""
    if isinstance(config, dict):
        if "_target_" in config:
            yield str(config["_target_"])
        for value in config.values():
            yield from _targets(value)
    elif isinstance(config, list):
        for value in config:
            yield from _targets(value)
