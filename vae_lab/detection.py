"""How strange images are to a run, with a p-value each: what `detect` calls, and a notebook may.

A score is made a p-value by its rank among held-out normal images of the run's own validation part. Those scores, and
what a score has to learn of normal images, lie in the run folder as calibration/<score>-<digest>.pt once computed.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from hydra.utils import instantiate
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor

from vae_lab.conf_folder import CONF
from vae_lab.data.binarize import binarized
from vae_lab.data.images import Images, scaled
from vae_lab.errors import DataError
from vae_lab.evaluation.conformal import p_values, require_level, verdicts
from vae_lab.evaluation.detection import CONSTANTS, constant_images, inverted
from vae_lab.files import whole
from vae_lab.models.vae import LatentModel
from vae_lab.probability.anomaly import Score
from vae_lab.progress import track
from vae_lab.runs import check_config, checkpoint_path, load_checkpoint, load_data, load_model, packaged_targets

log = logging.getLogger(__name__)

BATCH = 250
Pixels = UInt8[Tensor, "n channels height width"]


class Judged(NamedTuple):
    """What is said of each image.

    Attributes:
        scores: higher is stranger; nats, where the score has a unit.
        p_values: how likely a normal image is to look at least as strange.
        flagged: whether the p-value is at most alpha.
    """

    scores: Float64[Tensor, " n"]
    p_values: Float64[Tensor, " n"]
    flagged: Bool[Tensor, " n"]


class Detector:
    """A model with a fitted score and the scores of normal images that training has not seen.

    Args:
        model: in evaluation mode.
        score: fitted.
        calibration: scores of held-out normal images.
        binary: whether the model takes zeros and ones only; an image's are then drawn from its own content.
        key: what the scores depend on.
    """

    def __init__(
        self, model: LatentModel, score: Score, calibration: Float64[Tensor, " n"], *, binary: bool, key: str
    ) -> None:
        self.model = model
        self.score = score
        self.calibration = calibration
        self.binary = binary
        self.key = key

    def scores(self, pixels: Pixels) -> Float64[Tensor, " n"]:
        """Return the score of each image; it depends on that image alone."""
        return score_pixels(self.model, self.score, pixels, binary=self.binary)

    def judge(self, scores: Float64[Tensor, " n"], alpha: float) -> Judged:
        """Return p-values and verdicts of scores.

        Raises:
            ValueError: if alpha is so small that nothing could be flagged.
        """
        require_level(len(self.calibration), alpha)
        p = p_values(self.calibration, scores)
        return Judged(scores, p, verdicts(p, alpha))

    def preferred(self) -> dict[str, float]:
        """Return the constant images that the score calls more normal than most normal images; see `inverted`."""
        constants = constant_images(self.model.channels, self.model.image_size, self.model.image_size)
        found = self.scores((constants * 255).round().to(torch.uint8))
        return inverted(self.calibration, {name: found[i : i + 1] for i, name in enumerate(CONSTANTS)})


def score_config(name: str) -> dict[str, Any]:
    """Return the settings of a packaged score.

    Raises:
        ValueError: if there is none of that name.
    """
    names = sorted(path.stem for path in (CONF / "score").glob("*.yaml"))
    if name not in names:
        raise ValueError(f"score={name}: there are {', '.join(names)}.")
    return yaml.safe_load((CONF / "score" / f"{name}.yaml").read_text())


def load_detector(
    run: Path, config: dict[str, Any], *, checkpoint: str, root: str | None, ncalibration: int, nfit: int
) -> Detector:
    """Return a run's detector; the first time for a score, normal images are scored and the result is kept.

    Args:
        run: a run folder, or a checkpoint file.
        config: of the score, as `score_config` returns it.
        checkpoint: "best" or "last".
        root: where the run's images lie now, or None.
        ncalibration: validation images that set the p-values, at most.
        nfit: training images that a score learns from, at most.

    Raises:
        DataError: if the run or, the first time, its images cannot be read.
        ValueError: if the score is not for this model.
    """
    check_config(config, packaged_targets())
    model = load_model(run, checkpoint)
    score: Score = instantiate(config, _convert_="all").eval()
    binary = load_checkpoint(run, checkpoint)["hyper_parameters"]["data"].get("binarize") is not None
    path = calibration_path(run, config, checkpoint, ncalibration, nfit)
    if path.is_file():
        return Detector(model, score, read_calibration(path, score), binary=binary, key=path.stem)
    parts = load_data(run, checkpoint, root=root).grey_parts
    log.info("%s: scoring normal images of the run, once; kept in %s", type(score).__name__, path)
    score.fit(model, [prepared(part, binary=binary) for part in first(parts.train, nfit).split(BATCH)])
    scores = score_pixels(model, score, first(parts.val, ncalibration), binary=binary)
    with whole(path) as temporary:
        torch.save({"scores": scores, "state": score.state_dict()}, temporary)
    return Detector(model, score, scores, binary=binary, key=path.stem)


def calibration_path(run: Path, config: dict[str, Any], checkpoint: str, ncalibration: int, nfit: int) -> Path:
    """Return where a run keeps a calibration: another checkpoint or other settings, another file."""
    file = checkpoint_path(run, checkpoint)
    weights = hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest() if file.is_file() else ""
    rule = json.dumps([config, weights, ncalibration, nfit], sort_keys=True).encode()
    folder = run if run.is_dir() else run.parent.parent
    title = str(config["_target_"]).rpartition(".")[2].lower()
    return folder / "calibration" / f"{title}-{hashlib.blake2b(rule, digest_size=8).hexdigest()}.pt"


def read_calibration(path: Path, score: Score) -> Float64[Tensor, " n"]:
    """Return the calibration scores of a file, and put what the score had learned into it.

    Raises:
        DataError: if it is no calibration of this score.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        score.load_state_dict(stored["state"])
        return stored["scores"].double()
    except Exception as error:  # torch names no common type for what a damaged or hostile file can raise
        raise DataError(f"{path.absolute()} is no calibration of vae_lab; delete it to make a new one.") from error


def first(images: Images, n: int) -> Pixels:
    """Return the first `n` images of a part, whose order is a permutation already."""
    return images.pixels(slice(n))


def prepared(pixels: Pixels, *, binary: bool) -> Float[Tensor, "n channels height width"]:
    """Return images as the model takes them; zeros and ones are drawn from each image's own content."""
    if binary:
        pixels = torch.stack([binarized(image, "detect", content_hash(image)) for image in pixels])
    return scaled(pixels)


def content_hash(image: UInt8[Tensor, "channels height width"]) -> str:
    """Return a hash of an image's pixels."""
    return hashlib.blake2b(image.contiguous().numpy().data, digest_size=8).hexdigest()


def score_pixels(model: LatentModel, score: Score, pixels: Pixels, *, binary: bool) -> Float64[Tensor, " n"]:
    """Return the score of each image."""
    parts = [
        score(model, prepared(part, binary=binary)).double()
        for part in track(pixels.split(BATCH), type(score).__name__)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def to_pixels(images: Float[Tensor, "n channels height width"] | Pixels) -> Pixels:
    """Return images, pixels in [0, 1] or 0 to 255 as uint8, as uint8."""
    if images.dtype == torch.uint8:
        return images
    if images.numel() and (images.min() < 0 or images.max() > 1):
        raise ValueError(f"pixels must lie in [0, 1], not {images.min():.3g} to {images.max():.3g}.")
    return (images * 255).round().to(torch.uint8)
