"""Hub folders: weights as safetensors, config.json, a model card and pictures, for huggingface_hub."""

import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vae_lab.errors import DataError, StorageError
from vae_lab.exporting.card import model_card
from vae_lab.exporting.graphs import largest_difference
from vae_lab.exporting.parts import parts_of
from vae_lab.runs.folder import locate, read_summary
from vae_lab.runs.hub_folder import CONFIG, INSTALL, PREPARATION, WEIGHTS
from vae_lab.runs.load import load_model, read_model
from vae_lab.runs.packages import Trust
from vae_lab.runs.provenance import versions
from vae_lab.system.atomic import write_whole
from vae_lab.system.folders import expanded, require_writable
from vae_lab.system.reading import Unreadable, read_json

if TYPE_CHECKING:
    from vae_lab.probability.latent_model import LatentModel

log = logging.getLogger(__name__)

PACKAGES = ("huggingface_hub", "safetensors")
CARD = "README.md"
VERSION = "vae_lab_version"
"""The key of config.json by which export recognises its own folders."""


def share_run(
    run: str | Path,
    out: str | Path | None = None,
    *,
    checkpoint: str = "best",
    license: str | None = None,  # noqa: A002 (the Hub's name for it)
    pictures: Sequence[str] = ("samples",),
    push: str | None = None,
    private: bool = True,
    tolerance: float = 1e-4,
    trust: Trust = None,
) -> Path:
    """Write a run's model as a folder for the Hugging Face Hub, upload it if asked, and return the folder.

    Args:
        run: the run folder, or a checkpoint file.
        out: the folder to write to; None stands for `exported/hub` in the run folder.
        checkpoint: "best" or "last".
        license: the license of the weights, as the Hub writes it: apache-2.0, cc-by-4.0, …; None states none.
        pictures: names of PNG files in the run's `figures` that the model card shows.
        push: <user>/<name>, a repository of the Hub to upload the folder to; None uploads nothing.
        private: whether a repository that does not exist yet is made private.
        tolerance: largest accepted difference of the written model from the run's on 100 inputs.
        trust: packages other than vae_lab whose classes the run may use.

    Raises:
        DataError: if a picture does not exist.
        StorageError: if the upload fails.
        ValueError: if a setting is wrong, or packages are missing.
    """
    require_packages()
    place = locate(run, checkpoint)
    folder = place.folder / "exported" / "hub" if out is None else expanded(out)
    require_own_folder(folder)
    require_writable(folder)
    figures = find_figures(place.folder, pictures)
    model = load_model(run, checkpoint, trust=trust)
    about = describe_model(model, run, checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as temporary:
        aside = Path(temporary)
        (aside / CONFIG).write_text(json.dumps(about, indent=2), encoding="utf-8")
        save_weights(model, aside / WEIGHTS)
        require_equal(model, load_model(aside, trust=trust), tolerance)
        card = model_card(
            model, about, place.folder, license=license, pictures=[path.name for path in figures], repository=push
        )
        (aside / CARD).write_text(card, encoding="utf-8")
        for path in figures:
            shutil.copyfile(path, aside / path.name)
        for path in sorted(aside.iterdir()):
            write_whole(folder / path.name, path.read_bytes())
    log.info("%s in %s", ", ".join(sorted(path.name for path in folder.iterdir())), folder)
    if license is None:
        log.info("the model card states no license, which forbids others to use the model; name one with hub.license=")
    if push is not None:
        upload(folder, push, private=private)
    return folder


def find_figures(run: Path, names: Sequence[str]) -> list[Path]:
    """Return the PNG files of a run's figures.

    Raises:
        DataError: if one does not exist.
    """
    figures = [run / "figures" / f"{name}.png" for name in names]
    missing = [str(path) for path in figures if not path.is_file()]
    if missing:
        raise DataError(f"there is no {missing[0]}; name other figures of the run with hub.pictures=, or none by [].")
    return figures


def describe_model(model: "LatentModel", run: str | Path, checkpoint: str) -> dict[str, Any]:
    """Return the content of config.json: the configs of the model and of its images, its classes and its origin."""
    place, shared = locate(run, checkpoint), read_model(run, checkpoint)
    return {
        "library_name": "vae_lab",
        VERSION: versions().get("vae_lab", "unknown"),
        **place.names(),
        "classes": read_summary(place.folder).get("classes", []) if model.nclasses else [],
        "model": shared.config,
        "data": {name: shared.data[name] for name in PREPARATION if name in shared.data},
    }


def require_packages() -> None:
    """Raise ValueError unless the packages that write Hub folders are installed."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ValueError(f"to=hub needs the packages {', '.join(missing)}: {INSTALL}.")


def require_own_folder(folder: Path) -> None:
    """Raise ValueError if a folder holds anything but an earlier export to the Hub, whose files are replaced."""
    if folder.is_file():
        raise ValueError(f"out={folder} is a file; name a folder.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        own = VERSION in read_json(folder / CONFIG)
    except Unreadable:
        own = False
    if not own:
        raise ValueError(f"out={folder} holds other files, which would be uploaded too; name an empty folder.")


def save_weights(model: "LatentModel", path: Path) -> None:
    """Write the weights of a model as a safetensors file; each tensor is stored whole, also if modules share it."""
    from safetensors.torch import save_file

    weights = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in model.state_dict().items()}
    save_file(weights, path, metadata={"format": "pt"})


def require_equal(model: "LatentModel", written: "LatentModel", tolerance: float) -> None:
    """Raise ValueError if a model read from a Hub folder differs from the run's by more than `tolerance`."""
    for ours, theirs in zip(parts_of(model, None), parts_of(written, None), strict=True):
        difference = largest_difference(ours, lambda *inputs, part=theirs: list(part(*inputs)))
        if not difference <= tolerance:
            raise ValueError(
                f"to=hub: the {ours.name} as written differs from the run's by {difference:.1e}, more than"
                f" tolerance={tolerance:g}; the folder was not kept."
            )
        log.info("the %s as written differs from the run's by at most %.1e on 100 inputs", ours.name, difference)


def upload(folder: Path, repository: str, *, private: bool) -> None:
    """Upload a Hub folder to a repository of the Hub, which is made if it does not exist.

    Raises:
        StorageError: if the Hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository, folder_path=folder, ignore_patterns=[".*"], commit_message="Upload by vae_lab"
        )
    except Exception as error:  # of the network, the Hub and its client
        reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        raise StorageError(
            f"hub.push={repository}: {folder} was written, but not uploaded ({reason}); log in by `hf auth login` or"
            " set HF_TOKEN, and push again."
        ) from error
    log.info("uploaded to %s", done.commit_url)
