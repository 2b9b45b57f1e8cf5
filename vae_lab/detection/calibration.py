"""Detectors of trained runs by name, with calibration scores that are computed once and cached.

It lies in the run folder as calibration/<score>-<digest>.pt, or in the cache if that folder cannot be written: the
scores of held-out normal images, and what the score has to learn of normal ones.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import torch
import yaml

from vae_lab.data.images import ImageSet
from vae_lab.detection.conformal import require_level
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
    prepared,
)
from vae_lab.detection.scores.anomaly import Score
from vae_lab.detection.scores.ensembles import Ensemble
from vae_lab.errors import DataError, require_count
from vae_lab.probability.latent_model import LatentModel
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
"""How images are chosen and scored; what was kept under another rule is not used again."""


class Calibration(NamedTuple):
    """How a detector is made of a run.

    Attributes:
        checkpoint: "best" or "last".
        root: where the run's images lie now, or None.
        ncalibration: validation images that set the p-values, at most.
        nfit: training images that a score learns from, at most.
        trust: packages beside vae_lab that the runs may be made of.
    """

    checkpoint: str = "best"
    root: str | None = None
    ncalibration: int = 1000
    nfit: int = 5000
    trust: Trust = None


class CalibrationSettings(TypedDict, total=False):
    """Those fields of `Calibration` that have other values than its defaults."""

    checkpoint: str
    root: str | None
    ncalibration: int
    nfit: int
    trust: Trust


def score_config(name: str) -> dict[str, Any]:
    """Return the settings of a packaged score.

    Raises:
        ValueError: if there is none of that name.
    """
    names = sorted(path.stem for path in (CONF / "score").glob("*.yaml"))
    if name not in names:
        raise ValueError(f"score={name}: there are {', '.join(names)}.")
    config: dict[str, Any] = yaml.safe_load((CONF / "score" / f"{name}.yaml").read_text(encoding="utf-8"))
    members = [str(entry).partition("@")[0] for entry in config.get("defaults", ())]
    return {member: score_config(member) for member in members} or config


def load_detector(runs: Path | list[Path], config: dict[str, Any], how: Calibration) -> Detector:
    """Return the detector of a run or of several; the first time for a score, normal images are scored and kept.

    Args:
        runs: run folders, or checkpoint files; several for an ensemble.
        config: of the score, or of several by name, as `score_config` returns it.
        how: it is made.

    Raises:
        DataError: if a run or, the first time, its images cannot be read.
        ValueError: if the score is not for these models.
    """
    runs = [runs] if isinstance(runs, Path) else runs
    if not runs:
        raise ValueError("run= names no run; name the folder of a finished one.")
    require_count("ncalibration", how.ncalibration)
    require_count("nfit", how.nfit)
    if "_target_" in config:
        return load_one(runs, config, how)
    members: dict[str, Detector] = {}
    refused: dict[str, list[str]] = {}
    for name, one in config.items():
        try:
            check_fit(runs, make_score(one), how)
        except ValueError as error:
            log.info("without %s: %s", name, error)
            refused.setdefault(str(error).rstrip("."), []).append(name)
        else:
            members[name] = load_one(runs, one, how)
    if not members:
        reasons = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in refused.items())
        raise ValueError(f"none of these scores fits ({reasons}).")
    return CombinedDetector(members)


def check_level(runs: list[Path], how: Calibration, alpha: float) -> None:
    """Raise ValueError if alpha is so small that nothing could be flagged: before the runs' images are scored."""
    there = [run for run in runs if checkpoint_path(run, how.checkpoint).is_file()]  # of others it is told later
    nval = [int(load_checkpoint(run, how.checkpoint)["data"]["nval"]) for run in there]
    require_level(min([how.ncalibration, *nval]), alpha)


def make_score(config: dict[str, Any]) -> Score | Ensemble:
    """Return the score that a config describes; it comes from the caller and not from a run folder.

    Raises:
        ValueError: if it describes something else.
    """
    score = build(config)
    if not isinstance(score, Score | Ensemble):
        raise ValueError(
            f"score: {config['_target_']} makes a {type(score).__name__}, which is no Score and no Ensemble."
        )
    return score


def load_one(runs: list[Path], config: dict[str, Any], how: Calibration) -> Detector:
    """Return the detector of one score."""
    score = make_score(config)
    check_fit(runs, score, how)
    if isinstance(score, Ensemble):
        return EnsembleDetector([load_run(run, config["member"], how) for run in runs], score)
    return load_run(runs[0], config, how)


def check_fit(runs: list[Path], score: Score | Ensemble, how: Calibration) -> None:
    """Raise ValueError if a score is not for so many runs, not for these models, or the runs' images differ."""
    if isinstance(score, Ensemble):
        if len(runs) < 2:
            raise ValueError(f"{type(score).__name__} compares several runs: name them as run=[<folder>,<folder>].")
        if len({weights_digest(run, how.checkpoint) for run in runs}) < len(runs):
            raise ValueError("run= names one checkpoint twice, which agrees with itself; name each run once.")
        seen = {json.dumps(load_checkpoint(run, how.checkpoint)["data"], sort_keys=True) for run in runs}
        if len(seen) > 1:
            raise ValueError("the runs were trained on different images, or on different parts of them.")
    elif len(runs) > 1:
        raise ValueError(f"{type(score).__name__} is for one run; score=waic and score=ensemble_mean are for several.")
    for run in runs:
        model = load_model(run, how.checkpoint, trust=how.trust)
        if model.nclasses:
            raise ValueError(f"{run} is conditional on classes, which images to be judged don't tell: train without.")
        (score.member if isinstance(score, Ensemble) else score).require(model)


def load_run(run: Path, config: dict[str, Any], how: Calibration) -> RunDetector:
    """Return the detector of one run and one score."""
    score: Score = build(config)
    model = load_model(run, how.checkpoint, trust=how.trust)
    require_finite(model, run)
    binary = load_checkpoint(run, how.checkpoint)["hyper_parameters"]["data"].get("binarize") is not None
    path = calibration_path(run, config, how)
    if path.is_file():
        scores, own = read_calibration(path, score)
        return RunDetector(model, score, scores, binary=binary, key=path.stem, own=own)
    parts = load_data(run, how.checkpoint, root=how.root, trust=how.trust).raw_splits
    log.info("%s: scoring normal images of the run, once; kept in %s", type(score).__name__, path)
    score.fit(model, [prepared(part, binary=binary) for part in drawn(parts.train, how.nfit, "train").split(BATCH)])
    scores = describe_pixels(model, score, drawn(parts.val, how.ncalibration, "val"), binary=binary)["score"]
    own = {name: hashes_of(part) for name, part in (("train", parts.train), ("val", parts.val))}
    try:
        with whole(path) as temporary:
            torch.save({"scores": scores, "state": score.state_dict(), "own": own}, temporary)
    except OSError as error:
        log.warning("the calibration cannot be kept in %s: %s", path.parent, error.strerror)
    return RunDetector(model, score, scores, binary=binary, key=path.stem, own=own)


def hashes_of(images: ImageSet) -> Hashes:
    """Return a hash of each image of a part, so that it is recognised when the images are no longer read."""
    rows = torch.arange(len(images)).split(BATCH)
    return torch.cat([content_hashes(images.pixels(some)) for some in rows])


def calibration_path(run: Path, config: dict[str, Any], how: Calibration) -> Path:
    """Return where the calibration of a run is kept: another checkpoint or other settings, another file."""
    weights = weights_digest(run, how.checkpoint)
    rule = json.dumps([RULE, config, weights, how.ncalibration, how.nfit], sort_keys=True).encode()
    folder = locate(run, how.checkpoint).folder
    title = str(config["_target_"]).rpartition(".")[2].lower()
    name = f"calibration/{title}-{hashlib.blake2b(rule, digest_size=8).hexdigest()}.pt"
    return kept_path(folder, name, weights)


def require_finite(model: LatentModel, run: Path) -> None:
    """Raise DataError if some of a model's weights are not numbers."""
    if not all(weights.isfinite().all() for weights in model.state_dict().values()):
        raise DataError(f"some weights of {run} are not finite, so it judges no image; name another checkpoint or run.")


def read_calibration(path: Path, score: Score) -> tuple[Scores, dict[str, Hashes]]:
    """Return the calibration scores of a file and the hashes of the run's images; the score gets what it had learned.

    Raises:
        DataError: if it is no calibration of this score.
    """
    try:
        stored = read_tensors(path)
        score.load_state_dict(stored["state"])
        return stored["scores"].double(), stored["own"]
    except Exception as error:  # torch names no common type for what a damaged or hostile file can raise
        raise DataError(f"{path.absolute()} is no calibration of vae_lab; delete it to make a new one.") from error


def drawn(images: ImageSet, n: int, part: str) -> Pixels:
    """Return `n` images of a part, or all if it has no more, drawn without replacement and the same every time.

    A part keeps the order of its files, so its first images would be those of the first folders alone, and a p-value
    among them no p-value.
    """
    generator = torch.Generator().manual_seed(counter_seed("calibration", part))
    return images.pixels(torch.randperm(len(images), generator=generator)[:n].sort().values)
