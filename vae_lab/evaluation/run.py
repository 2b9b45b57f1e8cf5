"""Evaluation of a run: the metrics of docs/evaluation.md as JSON and as an HTML page."""

import json
import logging
import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from vae_lab.data.datamodule import ImageData
from vae_lab.data.images import ImageSet
from vae_lab.evaluation.caveats import caveats
from vae_lab.evaluation.comparison import compare_spectra
from vae_lab.evaluation.extractors import trained_classifier
from vae_lab.evaluation.html import Page, render
from vae_lab.evaluation.judging import Compared, Judgement, judge_samples, perceived
from vae_lab.evaluation.metrics.class_accuracy import class_accuracy, fit_linear_classifier
from vae_lab.evaluation.metrics.features import DigitClassifier, EfficientNetLite, Extractor
from vae_lab.evaluation.metrics.latents import active_units, elbo_surgery
from vae_lab.evaluation.metrics.likelihood import SetLikelihood, set_likelihood
from vae_lab.evaluation.metrics.memorisation import Memorisation, copy_thresholds, memorisation
from vae_lab.evaluation.metrics.reconstruction import Reconstruction, reconstruct_set
from vae_lab.evaluation.plan import Plan, make_plan
from vae_lab.evaluation.protocol import NTRAINING, check_samplers, check_settings
from vae_lab.probability.latent_model import LatentModel
from vae_lab.probability.scores import bits_per_dimension
from vae_lab.runs.folder import locate
from vae_lab.runs.identity import PROTOCOL_WITHOUT_EFFECT, describe_changes, differences, identity
from vae_lab.runs.inference import decode_samples, every_pixel
from vae_lab.runs.load import weights_digest
from vae_lab.runs.packages import Trust
from vae_lab.runs.provenance import device_name, versions
from vae_lab.sampling.store import fit_sampler, read_sampler, require_fitted, sampler_path
from vae_lab.system.atomic import require_folder_name, write_whole
from vae_lab.system.devices import choose_device
from vae_lab.system.folders import require_writable
from vae_lab.system.progress import track

log = logging.getLogger(__name__)

ACTIVE = 0.01
"""A latent is active if the variance of its posterior mean is above this."""

NCODES, NDRAWS = 10_000, 2000
"""Number of posteriors in the aggregate posterior, and of draws from it, for the mutual information."""

NEACH = 200
"""Generated images per class for the class accuracy."""

Pixels = Float[Tensor, "n channels height width"]
Reference = Float[Tensor, "m channels height width"]


def evaluate_run(run: Path, folder: Path, *, split: str, checkpoint: str, root: str | None, seed: int, device: str,
           features: str, nsamples: int | None, nll_images: int | None, ngenerated: int | None, nbound: int,
           chunk: int | None, trust: Trust = None, samplers: Sequence[str] | None = None,
           **settings: int) -> dict[str, Any]:  # fmt: skip
    """Return the metrics of docs/evaluation.md and write them to `folder` as evaluation-<split>.json and .html.

    Args:
        run: a run folder or a checkpoint file.
        folder: the output folder. An earlier evaluation of other weights or with another protocol is renamed.
        split: the part of the data to evaluate on.
        checkpoint: "best" or "last".
        root: the folder that holds the images now; None for the one stored in the run.
        seed: seed of every random draw.
        device: "auto", "cpu" or "cuda".
        features: name of the feature extractor; see `load_extractor`.
        nsamples: latents per image for the likelihood; None chooses by device, here and in the next two.
        nll_images: images whose likelihood is estimated with `nsamples` latents.
        ngenerated: images per sampler.
        nbound: latents per image for the cheap bound that extends the estimate to the other images.
        chunk: latents decoded at once; None takes fewer for larger images.
        trust: packages, besides vae_lab, whose classes the run may use.
        samplers: densities fitted to latents, "gmm" or "flow", to draw samples from besides posteriors and prior; None
            means gmm, and flow if the run has one.
        settings: ngroups, nreplicates, k, nreference and side of the comparisons.

    Raises:
        ValueError, DataError, DivergedError, StorageError: before any long computation.
    """
    started = time.perf_counter()
    check_settings(split, seed, nbound=nbound, **settings)
    check_samplers(samplers)
    require_folder_name(folder)
    require_writable(folder)
    plan = make_plan(
        run, checkpoint, split=split, root=root, seed=seed, device=choose_device(device), features=features,
        asked=(nsamples, nll_images, ngenerated), chunk=chunk, trust=trust, settings=settings,
        samplers=samplers,
    )  # fmt: skip
    page = measure(plan, nbound)
    page.result["seconds"] = time.perf_counter() - started
    return write_page(folder, page._replace(result=replace_nonfinite(page.result)))


def measure(plan: Plan, nbound: int) -> Page:
    """Return the numbers and pictures of an evaluation."""
    model, data, images, sizes, seed = plan.model, plan.data, plan.images, plan.sizes, plan.seed
    few = log_caveats(plan)
    counts = {"nsamples": sizes.nsamples, "nimages": sizes.nll_images, "nbound": nbound, "chunk": plan.chunk}
    likelihood = set_likelihood(model, images, **counts, seed=seed, track=track)
    reconstruction = reconstruct_set(model, images)
    reference = every_pixel(getattr(data.raw_splits, plan.split))
    sets = sample_sets(plan)
    copies = find_copies(sets, data, seed, plan.settings)
    judged = judge(plan, sets, reconstruction.decoded[: sizes.ncompared])
    result = {
        "protocol": environment(plan) | {"nbound": nbound},
        "caveats": few,
        "likelihood": likelihood_table(model, likelihood),
        "latents": latents_table(model, reconstruction, seed),
        "reconstruction": reconstruction.metrics | judged.reconstruction,
        "samples": judged.samples,
        **({"against_split": judged.against_split} if plan.is_judged else {}),
        "memorisation": memorisation_table(copies, judged.memorisation),
        "blur": compare_spectra({"reconstructions": reconstruction.decoded} | sets, reference),
        **classes_section(model, plan.extractor, data, plan.other, seed),
    }
    train = data.raw_splits.train
    shown = every_pixel(images, 32)
    return Page(result, reference, shown, reconstruction, sets, copies, train, likelihood, judged.panel)


def judge(plan: Plan, sets: dict[str, Pixels], decoded: Reference) -> Judgement:
    """Return the numbers of samples and reconstructions by the extractor and the networks of the training."""
    key = plan.extractor.key
    extractors = [plan.extractor, *(EfficientNetLite(name) for name in plan.trained_against if name != key)]
    settings = {"seed": plan.seed} | {name: plan.settings[name] for name in ("ngroups", "nreplicates", "k")}
    how = Compared(plan.split, plan.other, plan.device, settings)
    found = judge_samples(extractors, sets, decoded, plan.data.raw_splits, how)
    if isinstance(plan.extractor, EfficientNetLite):
        found.reconstruction.update(
            perceived(plan.extractor, every_pixel(plan.images, len(decoded)), decoded, plan.device)
        )
    return found


def log_caveats(plan: Plan) -> list[str]:
    """Log a warning for each metric that cannot be trusted, and return these sentences."""
    found = caveats(
        ncompared=min(plan.sizes.ncompared, len(plan.images)),
        naveraged=plan.sizes.nll_images,
        nreference=min(plan.settings["nreference"], len(plan.data.raw_splits.train)),
        key=plan.extractor.key,
        trained_against=plan.trained_against,
    )
    for sentence in found:
        log.warning("warning: %s", sentence)
    return found


def environment(plan: Plan) -> dict[str, Any]:
    """Return the section "protocol" of the JSON file: what was measured, by which network, on which machine."""
    train = plan.data.raw_splits.train
    facts = {"split": plan.split, "nimages": len(plan.images), "seed": plan.seed, "chunk": plan.chunk}
    return locate(plan.run, plan.checkpoint).names() | {
        "weights": weights_digest(plan.run, plan.checkpoint),
        "features": plan.extractor.key,
        "classifier": train.digest()[:8] if isinstance(plan.extractor, DigitClassifier) else None,
        "trained_against": plan.trained_against,
        "samplers": plan.samplers,
        "device": device_name(plan.device),
        "versions": versions(),
        **facts,
        **plan.sizes._asdict(),
        **plan.settings,
    }


def write_page(folder: Path, page: Page) -> dict[str, Any]:
    """Write an evaluation as a JSON file and as an HTML page, and return the content of the JSON file."""
    name = file_name(page.result["protocol"]["split"])
    rename_earlier(folder, name, page.result["protocol"])
    write_whole(folder / f"{name}.json", json.dumps(page.result, indent=2, allow_nan=False).encode())
    write_whole(folder / f"{name}.html", render(page).encode())
    return page.result


def file_name(split: str) -> str:
    """Return evaluation-<split>, the name without suffix of the files of an evaluation."""
    return f"evaluation-{split}"


def rename_earlier(folder: Path, name: str, protocol: dict[str, Any]) -> None:
    """Rename the files of an earlier evaluation if it had other weights or settings, and log the new name."""
    try:
        before = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["protocol"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    changes = differences(before, json.loads(json.dumps(protocol)), PROTOCOL_WITHOUT_EFFECT)
    if changes:
        kept = f"{name}-{identity({}, protocol=before)[:8]}"
        for suffix in (".json", ".html"):
            if (folder / f"{name}{suffix}").is_file():
                (folder / f"{name}{suffix}").replace(folder / f"{kept}{suffix}")
        log.info("renamed an earlier %s.json, with %s, to %s.json", name, describe_changes(changes), kept)


def replace_nonfinite(node: Any) -> Any:  # noqa: ANN401
    """Return nested dicts with None in place of infinite and NaN numbers, which JSON cannot represent."""
    if isinstance(node, dict):
        return {key: replace_nonfinite(value) for key, value in node.items()}
    if isinstance(node, list):
        return [replace_nonfinite(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


def sample_sets(plan: Plan) -> dict[str, Pixels]:
    """Return real images, and images decoded from their posteriors, fitted densities of latents and the prior.

    There are fewer of the first two if there are fewer unseen real images. For a conditional model, the classes of the
    images from fitted densities and the prior are drawn from the labels of the split.
    """
    model, n = plan.model, plan.sizes.ncompared
    samplers: dict[str, Distribution | ImageSet] = {
        "posterior": plan.unseen,
        **{name: fitted_sampler(plan, name) for name in plan.samplers},
        "prior": model.prior(),
    }
    available = list(samplers.items())
    decode = partial(decode_samples, model, labels=plan.images.labels, seed=plan.seed)
    counts = {name: min(n, len(one)) if isinstance(one, ImageSet) else n for name, one in available}
    generated = {name: decode(one, counts[name], name=name) for name, one in track(available, "samples")}
    return {"real": every_pixel(getattr(plan.data.raw_splits, plan.other), n)} | generated


def fitted_sampler(plan: Plan, name: str) -> Distribution:
    """Return the run's stored mixture or flow, fitted first if it is missing."""
    path = sampler_path(plan.run, name, plan.checkpoint)
    if path.is_file():
        return read_sampler(path)
    model, train = require_fitted(plan.model, name), plan.data.eval_splits.train
    return fit_sampler(plan.run, model, name, train, checkpoint=plan.checkpoint)


def find_copies(
    sets: dict[str, Pixels], data: ImageData, seed: int, settings: dict[str, int]
) -> dict[str, Memorisation]:
    """Return for each set of images the shares that count as copies of training images.

    Mirror images count as copies if training flipped images at random.
    """
    training, side = data.raw_splits.train, settings["side"]
    flips = data.augment is not None and data.augment.flip
    thresholds = copy_thresholds(training, nreference=settings["nreference"], side=side, seed=seed, flips=flips)
    return {
        name: memorisation(images, training, thresholds, side=side, flips=flips)
        for name, images in track(list(sets.items()), "copies")
    }


def likelihood_table(model: LatentModel, found: SetLikelihood) -> dict[str, Any]:
    """Return the section "likelihood" of the JSON file; bits per dimension are None if the likelihood is continuous."""
    table: dict[str, Any] = {
        name: getattr(found, name)._asdict() for name in ("iwae_nll", "neg_elbo", "distortion", "rate")
    }
    nlevels = model.likelihood.nlevels
    bits = None
    if nlevels:
        dimensions = model.channels * model.image_size**2
        bits = {
            key: bits_per_dimension(torch.tensor(value), dimensions).item() for key, value in table["iwae_nll"].items()
        }
    return table | {
        "likelihood": type(model.likelihood).__name__,
        "nlevels": nlevels,
        "bits_per_dimension": bits,
        "effective_samples": {
            "median": found.effective.median().item(),
            "lowest_decile": found.effective.quantile(0.1).item(),
        },
    }


def latents_table(model: LatentModel, found: Reconstruction, seed: int) -> dict[str, Any]:
    """Return the section "latents" of the JSON file; the rate is decomposed only if posteriors are diagonal normals."""
    table: dict[str, Any] = {"nlatent": model.nlatent, "active_units": active_units(found.moves, ACTIVE)}
    if found.log_sigmas is None:
        return table | {"mutual_information": None, "marginal_kl": None}
    device = next(model.parameters()).device
    means, log_sigmas = (values[:NCODES].to(device) for values in (found.means, found.log_sigmas))
    surgery = elbo_surgery(means, log_sigmas, model.prior(), ndraws=NDRAWS, seed=seed)
    cap = torch.tensor(min(len(found.means), NCODES)).log().item()
    return table | {
        "mutual_information": surgery.mutual_information._asdict() | {"cap": cap},
        "marginal_kl": surgery.marginal_kl._asdict(),
    }


def memorisation_table(
    copies: dict[str, Memorisation], in_features: dict[str, dict[str, float]]
) -> dict[str, dict[str, float]]:
    """Return the section "memorisation" of the JSON file: copies in each set by pixels, and by features if judged."""
    return {
        name: {key: value for key, value in found._asdict().items() if isinstance(value, float)}
        | in_features.get(name, {})
        for name, found in copies.items()
    }


def classes_section(
    model: LatentModel, extractor: Extractor, data: ImageData, other_part: str, seed: int
) -> dict[str, Any]:
    """Return the section "classes" with the class accuracy if the model is conditional, else an empty dict."""
    if not model.nclasses:
        return {}
    parts = data.raw_splits
    if isinstance(extractor, EfficientNetLite):
        trained = fit_linear_classifier(extractor, parts.train, nimages=NTRAINING["cpu"])
    else:
        trained = extractor if isinstance(extractor, DigitClassifier) else trained_classifier(parts.train)
    classifier = trained.to(next(model.parameters()).device)
    unseen = getattr(parts, other_part)
    found = class_accuracy(model, classifier, parts.train, unseen, nimages=NEACH, seed=seed)
    each = {data.classes[int(label)]: share for label, share in found.each_class.items()}
    return {"classes": found._asdict() | {"each_class": each}}
