"""Loading of models, tasks and data from an untrusted run folder."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_lab.errors import DataError, require_choice
from vae_lab.runs.configs import build, check_config, require_plain
from vae_lab.runs.folder import checkpoint_path, load_summary, locate
from vae_lab.runs.hub_folder import Shared, is_hub_folder, read_hub_folder
from vae_lab.runs.identity import file_digest
from vae_lab.runs.metrics import PARTS
from vae_lab.runs.packages import Trust
from vae_lab.system.folders import expanded

if TYPE_CHECKING:
    from torch import Tensor

    from vae_lab.data.datamodule import ImageData
    from vae_lab.probability.latent_model import LatentModel


def load_model(run: str | Path, checkpoint: str = "best", *, trust: Trust = None) -> "LatentModel":
    """Return the trained model of a run or Hub folder, on the CPU and in evaluation mode; the data are not needed.

    Args:
        run: the run folder, a checkpoint file, or a Hub folder as `python -m vae_lab.export to=hub` writes it.
        checkpoint: "best" or "last"; a Hub folder has one alone.
        trust: packages other than vae_lab whose classes the model may use; see docs/extending.md.

    Raises:
        DataError: if there is no readable checkpoint, or its weights do not fit the model of its config.
        ValueError: if the stored config names a class that is neither shipped for its role nor in a trusted package.

    Example:
        >>> from vae_lab import load_model
        >>> model = load_model("outputs/digits")  # the run of train_run's example
        >>> model.nlatent, model.likelihood
        (40, Gaussian(variance=0.5))
    """
    import torch

    from vae_lab.data.pictures import read_preparation

    config, weights, data = read_model(run, checkpoint)
    check_config(config, "model", trust)
    with as_data_error(f"the weights in {run} do not fit the model of its config"):
        model = build_model_within(config, weights)
        model.load_state_dict(weights)
    model.preparation = read_preparation(data)
    return model.to(memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]


def read_model(run: str | Path, checkpoint: str = "best") -> Shared:
    """Return the unchecked config and the weights of the model of a run folder, a checkpoint file or a Hub folder.

    Raises:
        DataError: if there is no readable checkpoint or Hub folder.
    """
    folder = expanded(run)
    if is_hub_folder(folder):
        return read_hub_folder(folder)
    stored = load_checkpoint(run, checkpoint)
    prefix = "model."
    weights = {name.removeprefix(prefix): w for name, w in stored["state_dict"].items() if name.startswith(prefix)}
    return Shared(stored["hyper_parameters"]["model"], weights, stored["hyper_parameters"]["data"])


def load_task(path: str | Path, kind: type, parts: Mapping[str, Any], *, trust: Trust = None) -> Any:  # noqa: ANN401
    """Return the task (LightningModule) stored in a checkpoint file, on the CPU and in evaluation mode.

    Args:
        path: the file.
        kind: the class of the task.
        parts: its arguments, if the checkpoint comes from your own Trainer and holds no config.
        trust: packages other than vae_lab whose classes the task may use.

    Raises:
        DataError: if the file is not a readable checkpoint, or its weights do not fit.
        ValueError: if the checkpoint holds no config and `parts` is empty, or if it holds a task of another class.
    """
    from vae_lab.runs.tensor_file import read_tensors

    file = expanded(path)
    if not file.is_file():
        raise DataError(f"there is no checkpoint at {file.absolute()}.")
    with as_data_error(f"{file.absolute()} is not a checkpoint that is safe to read"):
        stored = read_tensors(file)
    if parts:
        task = kind(**parts)
    else:
        config = stored.get("hyper_parameters")
        if not isinstance(config, dict) or not isinstance(config.get("task"), dict):
            raise ValueError(
                f"{file.absolute()} holds no config of a run; pass the model= and objective= of the training."
            )
        require_plain(config)
        check_config(config["task"], "task", trust)
        with as_data_error(f"the config in {file.absolute()} describes no task", passing=(ValueError,)):
            task = build(config["task"])
    if not isinstance(task, kind):
        name = type(task).__name__
        raise ValueError(f"{file.absolute()} holds a {name}; call {name}.load_from_checkpoint.")
    with as_data_error(f"the weights in {file.absolute()} do not fit the task"):
        task.load_state_dict(stored["state_dict"])
    return task.eval()


def build_model_within(config: dict[str, Any], weights: Mapping[str, "Tensor"]) -> "LatentModel":
    """Return an untrained model of a config, after a check that its size fits its stored weights.

    Raises:
        ValueError: if the model is larger than the weights; it is raised before memory is allocated.
    """
    import torch

    from vae_lab.system.randomness import seeded

    with torch.device("meta"), limit_size(weights):
        build(config)
    with seeded("load"):  # building draws initial weights; the caller's generators are restored
        return build(config)


@contextmanager
def limit_size(weights: Mapping[str, "Tensor"]) -> Iterator[None]:
    """Raise ValueError if modules built in the block have more than about twice the tensors or numbers of `weights`.

    Twice as many are allowed, because buffers may not be stored and weights may be registered in two forms.
    """
    from torch import Tensor
    from torch.nn.modules import module

    left = {"tensors": 2 * len(weights) + 100, "numbers": 2 * sum(w.numel() for w in weights.values()) + 1000}

    def count(_: object, name: str, value: object) -> None:
        if isinstance(value, Tensor):
            left["tensors"] -= 1
            left["numbers"] -= value.numel()
        if min(left.values()) < 0:
            raise ValueError(f"the model is larger than its weights, at {name}.")

    with ExitStack() as hooks:
        hooks.enter_context(module.register_module_parameter_registration_hook(count))
        hooks.enter_context(module.register_module_buffer_registration_hook(count))
        yield


@contextmanager
def as_data_error(what: str, *, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn errors in the block into a DataError that begins with `what`, except OSError, MemoryError and `passing`."""
    from hydra.errors import InstantiationException

    try:
        yield
    except Exception as error:  # classes raise errors of any type for wrong arguments
        cause: BaseException = error
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, (OSError, MemoryError, *passing)):
            raise
        reason = " ".join(str(cause).split())[:300].rstrip(".") or type(cause).__name__
        raise DataError(f"{what} ({reason}).") from error


def load_data(
    run: str | Path, checkpoint: str = "best", *, root: str | None = None, trust: Trust = None
) -> "ImageData":
    """Return the `ImageData` of a run, after a check that its images are those that the run was trained on.

    Args:
        run: the run folder, or a checkpoint file.
        checkpoint: "best" or "last".
        root: the folder of the images if they have been moved; None uses the folder in the run's config.
        trust: packages other than vae_lab whose classes the data may use.

    Raises:
        DataError: if the images are missing, or differ from those of the training, or are split differently.
        ValueError: if the stored config names a class that is not allowed in its role, or if `root` is given for data
            without a root.

    Example:
        >>> from vae_lab import load_data
        >>> data = load_data("outputs/digits")  # the run of train_run's example
        >>> len(data.splits.train), len(data.splits.val), len(data.splits.test)
        (1437, 180, 180)
        >>> next(iter(data.train_dataloader())).image.shape
        torch.Size([32, 1, 28, 28])
    """
    stored = load_checkpoint(run, checkpoint)
    config: dict[str, Any] = stored["hyper_parameters"]["data"]
    check_config(config, "data", trust)
    check_sizes(config, stored["hyper_parameters"]["model"])
    if root is not None:
        if "root" not in config:
            raise ValueError(f"data.root={root}: the data of this run have no folder; leave data.root out.")
        config["root"] = root
    config = without_side_effects(config)
    with as_data_error(f"the stored config of {run} describes no readable images", passing=(DataError, ValueError)):
        data: ImageData = build(config)
        fingerprint = data.fingerprint
    if fingerprint != stored["data"]:
        found, expected = (" + ".join(str(f.get(f"n{part}")) for part in PARTS) for f in (fingerprint, stored["data"]))
        raise DataError(
            f"the images ({found}) are not those that {run} was trained on ({expected}), or are split differently; name"
            " the folder of the original images with data.root=."
        )
    return data


def without_side_effects(node: Any) -> Any:  # noqa: ANN401
    """Return a stored data config without downloads and without a cache folder, at any depth.

    A run folder may come from anybody, so it must not decide what is downloaded or where files are written.
    """
    if isinstance(node, dict):
        off = {"download": False, "archive": None, "cache": None}
        return {key: off[key] if key in off else without_side_effects(value) for key, value in node.items()}
    return [without_side_effects(value) for value in node] if isinstance(node, list) else node


def fingerprint(config: dict[str, Any]) -> dict[str, int | str]:
    """Return the split sizes and hashes of the images that a resolved `data` config describes; the images are decoded.

    Raises:
        DataError: if the images are missing, unreadable or too few.
    """
    return build(config).fingerprint


def load_checkpoint(run: str | Path, checkpoint: str = "best") -> dict[str, Any]:
    """Return the content of a run's checkpoint file, read with `weights_only=True`.

    Raises:
        DataError: if the checkpoint is missing, or holds anything but tensors and plain values.
    """
    from vae_lab.runs.tensor_file import read_tensors

    require_choice("checkpoint", checkpoint, ("best", "last"))
    path = checkpoint_path(run, checkpoint)
    if not path.is_file():
        raise DataError(f"there is no checkpoint at {path.absolute()}; {remedy_for_missing(run)}.")
    try:
        stored = read_tensors(path)
        check_layout(stored, path.stat().st_size)
    except Exception as error:  # damaged and hostile files raise errors of many types
        reason = str(error).rstrip(".") if type(error) is ValueError else type(error).__name__
        raise DataError(f"{path.absolute()} is not a vae_lab checkpoint that is safe to read ({reason}).") from error
    require_plain(stored["hyper_parameters"])
    return stored


def remedy_for_missing(run: str | Path) -> str:
    """Return the end of an error message that says why a run has no checkpoint or how to get one."""
    if is_hub_folder(expanded(run)):
        return "a Hub folder holds a model alone; name the run folder that it was made of"
    if checkpoint_path(run, "last").is_file():
        return "choose checkpoint=last, which exists"
    try:
        status = load_summary(locate(run, "last").folder).get("status")
    except DataError:
        status = None
    if status == "fast_dev_run":
        return "the run used trainer.fast_dev_run, which keeps no checkpoint; train without it"
    if status == "completed":
        return (
            "the run kept none because of trainer.enable_checkpointing or its callbacks; train with callbacks=default"
        )
    return "name a finished run with run=; python -m vae_lab.runs ls lists them"


def check_layout(stored: Any, nbytes: int) -> None:  # noqa: ANN401
    """Raise ValueError unless a checkpoint holds a run's config, and weights of at most `nbytes` bytes."""
    config, fingerprint, weights = (stored[key] for key in ("hyper_parameters", "data", "state_dict"))
    sections = (config[key] for key in ("model", "data", "objective", "task"))
    if not all(isinstance(node, dict) for node in (fingerprint, weights, *sections)):
        raise ValueError("it holds no config of a run.")
    if sum(weight.numel() * weight.itemsize for weight in weights.values()) > nbytes:
        raise ValueError("it holds weights that share memory.")


def check_sizes(data: dict[str, Any], model: dict[str, Any]) -> None:
    """Raise DataError if image_size or channels differ between the stored configs of the data and of the model."""
    for key in ("image_size", "channels"):
        if key in data and data[key] != model.get(key, data[key]):
            raise DataError(f"the stored config has {key}={data[key]} for the data, and {model[key]} for the model.")


def weights_digest(run: str | Path, checkpoint: str) -> str:
    """Return a hash, 16 hexadecimal digits, of a run's checkpoint file; "" if the file does not exist."""
    return file_digest(checkpoint_path(run, checkpoint))


def trains_sigma(run: str | Path, checkpoint: str) -> bool:
    """Return whether a run's objective trains the standard deviation of its posteriors."""
    objective = str(load_checkpoint(run, checkpoint)["hyper_parameters"]["objective"].get("_target_"))
    return not objective.endswith((".Autoencoder", ".RAEL2"))
