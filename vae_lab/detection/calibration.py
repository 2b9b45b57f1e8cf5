"""Loading of anomaly detectors from trained runs, with a cache of their calibration.

A calibration holds the scores of held-out normal images and the fitted state of the score. It is stored in the run
folder as calibration/<score>-<digest>.pt, or in the cache folder if the run folder is not writable.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import torch
import yaml

from vae_lab.data.binarize import prepared
from vae_lab.data.images import ImageSet
from vae_lab.detection.conformal import named_level, require_level
from vae_lab.detection.detector import (
    BATCH,
    CombinedDetector,
    Detector,
    EnsembleDetector,
    Hashes,
    Pixels,
    RunDetector,
    Scores,
    content_hashes,
    describe_pixels,
)
from vae_lab.detection.scores.anomaly import Score
from vae_lab.detection.scores.ensembles import Ensemble
from vae_lab.errors import DataError, require_choice, require_count
from vae_lab.runs.configs import build
from vae_lab.runs.folder import checkpoint_path, locate
from vae_lab.runs.load import load_checkpoint, load_data, load_model, weights_digest
from vae_lab.runs.packages import Trust
from vae_lab.runs.tensor_file import read_tensors
from vae_lab.system.atomic import whole
from vae_lab.system.config_dir import CONF
from vae_lab.system.folders import kept_path
from vae_lab.system.randomness import counter_seed

log = logging.getLogger(__name__)

RULE = "drawn from the whole part, which is kept as hashes"
"""Version of the way in which images are chosen and scored; calibrations of another version are not reused."""


class Calibration(NamedTuple):
    """Settings for loading and calibrating a detector.

    Attributes:
        checkpoint: "best" or "last".
        root: the folder that holds the run's images now; None for the one stored in the run.
        ncalibration: largest number of validation images that set the p-values.
        nfit: largest number of training images to which the score is fitted.
        trust: packages, besides vae_lab, whose classes the runs may use.
    """

    checkpoint: str = "best"
    root: str | None = None
    ncalibration: int = 1000
    nfit: int = 5000
    trust: Trust = None


class CalibrationSettings(TypedDict, total=False):
    """The fields of `Calibration` as optional keyword arguments."""

    checkpoint: str
    root: str | None
    ncalibration: int
    nfit: int
    trust: Trust


def score_config(name: str) -> dict[str, Any]:
    """Return the config conf/score/<name>.yaml, or the configs of its members by name if it combines scores.

    Raises:
        ValueError: if the name is unknown.
    """
    require_choice("score", name, sorted(path.stem for path in (CONF / "score").glob("*.yaml")))
    config: dict[str, Any] = yaml.safe_load((CONF / "score" / f"{name}.yaml").read_text(encoding="utf-8"))
    members = [str(entry).partition("@") for entry in config.get("defaults", ())]
    return {key: score_config(member) for member, _, key in members} or config


def load_detector(runs: Path | list[Path], config: dict[str, Any], how: Calibration) -> Detector:
    """Return the calibrated detector of one or several runs; the first call calibrates it and caches the result.

    Args:
        runs: run folders or checkpoint files; several for an ensemble.
        config: config of one score, or of several by name, as `score_config` returns it.
        how: settings for loading and calibration.

    Raises:
        DataError: if a run cannot be read, or its images when the calibration is not cached.
        ValueError: if the score does not fit these models.
    """
    runs = [runs] if isinstance(runs, Path) else runs
    if not runs:
        raise ValueError("run= names no run; name the folder of a finished run.")
    require_count("ncalibration", how.ncalibration)
    require_count("nfit", how.nfit)
    if "preferred" in config:
        config = choose_score(runs, config, how)
    if "_target_" in config:
        return load_score_detector(runs, config, how)
    members: dict[str, Detector] = {}
    refused: dict[str, list[str]] = {}
    for name, one in config.items():
        try:
            check_score_fits(runs, make_score(one), how)
        except ValueError as error:
            log.info("leaving out score %s: %s", name, error)
            refused.setdefault(str(error).rstrip("."), []).append(name)
        else:
            members[name] = load_score_detector(runs, one, how)
    if not members:
        reasons = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in refused.items())
        raise ValueError(f"none of these scores fits ({reasons}).")
    return CombinedDetector(members)


def choose_score(runs: list[Path], config: dict[str, Any], how: Calibration) -> dict[str, Any]:
    """Return the config of the preferred score, or of the other one if the preferred one cannot be used."""
    try:
        check_score_fits(runs, make_score(config["preferred"]), how)
    except ValueError as error:
        chosen: dict[str, Any] = config["otherwise"]
        check_score_fits(runs, make_score(chosen), how)  # an error of the run itself is no reason to choose
        log.info("score=auto is %s, because %s", chosen["_target_"].rpartition(".")[2], error)
        return chosen
    log.info("score=auto is %s", config["preferred"]["_target_"].rpartition(".")[2])
    return config["preferred"]


def check_level(runs: list[Path], how: Calibration, alpha: float, fdr: float | None) -> None:
    """Raise ValueError if alpha, or fdr if given, is below the smallest p-value that the runs' calibration can give.

    The check reads no image.
    """
    found = [run for run in runs if checkpoint_path(run, how.checkpoint).is_file()]  # loading reports missing ones
    nval = [int(load_checkpoint(run, how.checkpoint)["data"]["nval"]) for run in found]
    require_level(min([how.ncalibration, *nval]), *named_level(alpha, fdr))


def make_score(config: dict[str, Any]) -> Score | Ensemble:
    """Return the anomaly score that a Hydra config builds.

    The config must come from the caller, not from a run folder.

    Raises:
        ValueError: if the config describes another class.
    """
    score = build(config)
    if not isinstance(score, Score | Ensemble):
        raise ValueError(f"score: {config['_target_']} builds a {type(score).__name__}, not a Score or an Ensemble.")
    return score


def make_unfitted_score(config: dict[str, Any]) -> Score:
    """Return the anomaly score that a config builds, which needs neither normal images nor several runs.

    Raises:
        ValueError: if it needs them, or the config combines scores.
    """
    score = make_score(config) if "_target_" in config else None
    if not isinstance(score, Score) or type(score).fit is not Score.fit:
        raise ValueError(
            "score= compares with normal images or between runs; choose one that needs a model alone, such as"
            " neg_elbo, iwae_nll, rate or reconstruction_error, or use detect."
        )
    return score


def load_score_detector(runs: list[Path], config: dict[str, Any], how: Calibration) -> Detector:
    """Return the detector of one score: an EnsembleDetector if the score combines runs, else a RunDetector."""
    score = make_score(config)
    check_score_fits(runs, score, how)
    if isinstance(score, Ensemble):
        return EnsembleDetector([load_run(run, config["member"], how) for run in runs], score)
    return load_run(runs[0], config, how)


def check_score_fits(runs: list[Path], score: Score | Ensemble, how: Calibration) -> None:
    """Raise ValueError if a score cannot use these runs because of their number, their models or their data."""
    if isinstance(score, Ensemble):
        if len(runs) < 2:
            raise ValueError(f"{type(score).__name__} compares several runs: name them as run=[<folder>,<folder>].")
        if len({weights_digest(run, how.checkpoint) for run in runs}) < len(runs):
            raise ValueError("run= names the same checkpoint twice; name each run once.")
        seen = {json.dumps(load_checkpoint(run, how.checkpoint)["data"], sort_keys=True) for run in runs}
        if len(seen) > 1:
            raise ValueError("the runs were trained on different images or splits; name runs with the same data.")
    elif len(runs) > 1:
        raise ValueError(f"{type(score).__name__} takes one run; score=waic and score=ensemble_mean take several.")
    for run in runs:
        model = load_model(run, how.checkpoint, trust=how.trust)
        if model.nclasses:
            raise ValueError(f"{run} is conditional on classes, which new images do not have; train with nclasses=0.")
        (score.member if isinstance(score, Ensemble) else score).require(model)


def load_run(run: Path, config: dict[str, Any], how: Calibration) -> RunDetector:
    """Return a RunDetector for one run and one score; its calibration is read from the cache or else computed.

    Raises:
        DataError: if a weight is not finite.
    """
    score: Score = build(config)
    model = load_model(run, how.checkpoint, trust=how.trust)
    if not all(weights.isfinite().all() for weights in model.state_dict().values()):
        raise DataError(f"some weights of {run} are not finite; name another checkpoint or run.")
    binary = load_checkpoint(run, how.checkpoint)["hyper_parameters"]["data"].get("binarize") is not None
    path = calibration_path(run, config, how)
    if path.is_file():
        scores, own = read_calibration(path, score)
        return RunDetector(model, score, scores, binary=binary, key=path.stem, own=own)
    parts = load_data(run, how.checkpoint, root=how.root, trust=how.trust).raw_splits
    log.info("%s: scoring normal images of the run once, cached in %s", type(score).__name__, path)
    score.fit(
        model, [prepared(part, binary=binary) for part in draw_images(parts.train, how.nfit, "train").split(BATCH)]
    )
    scores = describe_pixels(model, score, draw_images(parts.val, how.ncalibration, "val"), binary=binary)["score"]
    own = {name: hash_images(part) for name, part in (("train", parts.train), ("val", parts.val))}
    try:
        with whole(path) as temporary:
            torch.save({"scores": scores, "state": score.state_dict(), "own": own}, temporary)
    except OSError as error:
        log.warning("the calibration cannot be cached in %s: %s", path.parent, error.strerror)
    return RunDetector(model, score, scores, binary=binary, key=path.stem, own=own)


def hash_images(images: ImageSet) -> Hashes:
    """Return a 64-bit hash of the pixels of each image."""
    return torch.cat([content_hashes(images.pixels(rows)) for rows in torch.arange(len(images)).split(BATCH)])


def calibration_path(run: Path, config: dict[str, Any], how: Calibration) -> Path:
    """Return the path of a run's calibration file, whose name depends on the weights and on the settings."""
    weights = weights_digest(run, how.checkpoint)
    rule = json.dumps([RULE, config, weights, how.ncalibration, how.nfit], sort_keys=True).encode()
    folder = locate(run, how.checkpoint).folder
    title = str(config["_target_"]).rpartition(".")[2].lower()
    name = f"calibration/{title}-{hashlib.blake2b(rule, digest_size=8).hexdigest()}.pt"
    return kept_path(folder, name, weights)


def read_calibration(path: Path, score: Score) -> tuple[Scores, dict[str, Hashes]]:
    """Load the fitted state into `score`, and return the cached calibration scores and hashes of the run's images.

    Raises:
        DataError: if the file is not a calibration of this score.
    """
    try:
        stored = read_tensors(path)
        score.load_state_dict(stored["state"])
        return stored["scores"].double(), stored["own"]
    except Exception as error:  # torch has no common type for the errors of a damaged or hostile file
        raise DataError(f"{path.absolute()} is not a calibration of vae_lab; delete it to make a new one.") from error


def draw_images(images: ImageSet, n: int, part: str) -> Pixels:
    """Return `n` random images of a part of the data, or all if it has fewer, drawn without replacement.

    The seed is fixed. The draw is random because the images of a part are in the order of their folders. The first `n`
    would come from the first folders alone, and p-values would be invalid.
    """
    generator = torch.Generator().manual_seed(counter_seed("calibration", part))
    return images.pixels(torch.randperm(len(images), generator=generator)[:n].sort().values)
