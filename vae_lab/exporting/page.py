"""A page to send: one HTML file that decodes latents in the browser, without a server and without a network.

The page holds the decoder as an ONNX file and ONNX Runtime Web, which runs it; both are compressed, in base64. Its
content security policy blocks all connections, and all scripts except the page's two, which it identifies by hash.
"""

import base64
import gzip
import logging
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from vae_lab.errors import DataError
from vae_lab.evaluation.metrics.latents import posterior_statistics
from vae_lab.exporting.graphs import require_onnx, write_checked
from vae_lab.exporting.parts import NINPUTS, LadderPrior, Part, parts_of
from vae_lab.exporting.web_runtime import BINARY, PACKAGE, SCRIPT, VERSION, read_runtime
from vae_lab.models.ladder import Ladder
from vae_lab.probability.distributions import DiagonalNormal, MixtureOfDiagonalNormals, StandardNormal
from vae_lab.probability.latent_model import LatentModel
from vae_lab.reporting.html import digest
from vae_lab.runs.folder import locate, read_summary
from vae_lab.runs.inference import placed
from vae_lab.runs.load import load_data, load_model, read_model
from vae_lab.runs.packages import Trust
from vae_lab.sampling.images import class_label, read_classes
from vae_lab.system.atomic import write_whole
from vae_lab.system.folders import expanded, require_writable
from vae_lab.system.randomness import seeded

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest accepted difference of the page's decoder from the model; a grey level is 39 times as much."""
NIMAGES = 500
"""Number of validation images that the KL of each latent is averaged over."""
REACH = 4.0
"""The sliders reach from -REACH to REACH of the prior's standard deviations."""
FIGURES = ("test/neg_elbo", "val/neg_elbo")
"""Metrics of the summary, the first of which is shown."""
EXPORTS = re.compile(r"export\s*\{([^{}]*)\};")


def write_page(run: str | Path, out: str | Path, *, checkpoint: str = "best", trust: Trust = None) -> Path:
    """Write a page that decodes the latents of a run's model in a browser, and return its path.

    Args:
        run: the run folder, or a checkpoint file.
        out: the page, a file that ends in .html.
        checkpoint: "best" or "last".
        trust: packages other than vae_lab whose classes the run may use.

    Raises:
        StorageError: if npm's registry cannot be reached, or the page cannot be written.
        ValueError: if packages are missing, or the decoder cannot be exported.
    """
    path, setting = expanded(out), f"out={out}"
    if path.suffix.lower() not in {".html", ".htm"} or path.is_dir():
        raise ValueError(f"{setting} is not the name of a page; name a file that ends in .html.")
    require_onnx(setting)
    require_writable(path.parent)
    runtime = read_runtime()
    model = load_model(run, checkpoint, trust=trust)
    latents = rank_latents(run, checkpoint, model, trust)
    classes, _ = read_classes(locate(run, checkpoint).folder, checkpoint)
    content = page_content(model, latents, describe_run(run, checkpoint, model), classes, setting)
    write_whole(path, render(content, runtime).encode())
    log.info("%s, %.1f MB, opens in a browser without a server", path, path.stat().st_size / 1e6)
    return path


class LatentKL(NamedTuple):
    """The KL to the prior of each latent in nats, and a phrase for the images that it is averaged over."""

    rates: Float[Tensor, " nlatent"]
    images: str


class Content(NamedTuple):
    """What a page holds.

    Attributes:
        title: the name of the run.
        facts: a line about the run.
        images: a phrase for the images that the KL of the latents is averaged over.
        about: the model's sizes, classes, latents and prior, as page.js reads them.
        graphs: ONNX files by the name of the part.
    """

    title: str
    facts: str
    images: str
    about: dict[str, Any]
    graphs: dict[str, bytes]


def page_content(
    model: LatentModel, latents: LatentKL, described: tuple[str, str], classes: Sequence[str], setting: str
) -> Content:
    """Return the content of the page of a model; `described` is its title and the line about its run.

    Raises:
        ValueError: if the decoder cannot be exported; it names the setting.
    """
    parts = decoding_parts(model)
    about = {
        "channels": model.channels,
        "size": model.image_size,
        "classes": [class_label(classes, k) for k in range(model.nclasses)],
        **describe_latents(model, parts[0].inputs["z"], latents.rates),
    }
    return Content(*described, latents.images, about, {part.name: onnx_bytes(part, setting) for part in parts})


def decoding_parts(model: LatentModel) -> list[Part]:
    """Return the parts that a page needs: the decoder, and for a ladder its prior as a function of noise."""
    decoder = parts_of(model, None)[1]
    copied = decoder.module.model
    if not isinstance(copied, Ladder):
        return [decoder]
    with seeded("export"):
        noise = torch.randn(NINPUTS, model.nlatent)
    return [decoder, Part("prior", LadderPrior(copied), {"noise": noise}, ("z",))]


def onnx_bytes(part: Part, setting: str) -> bytes:
    """Return a part as an ONNX file that has been compared with the model; `setting` is named in errors."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{part.name}.onnx"
        difference = write_checked(part, "onnx", path, TOLERANCE, setting)
        log.info("the %s in the page differs from the model by at most %.1e on 100 inputs", part.name, difference)
        return path.read_bytes()


@torch.no_grad()
def rank_latents(run: str | Path, checkpoint: str, model: LatentModel, trust: Trust) -> LatentKL:
    """Return the KL of each latent on validation images of the run, or on generated ones where those are not.

    The data are not required, as in every export.
    """
    try:
        images = load_data(run, checkpoint, trust=trust).splits.val
    except DataError as error:
        log.warning("warning: the latents are in the order of their KL on generated images, because %s", error)
        decoder = parts_of(model, None)[1]
        given = model.given(decoder.inputs.get("label", torch.zeros(0, dtype=torch.int64)))
        (generated,) = decoder(*decoder.inputs.values())
        return LatentKL(posterior_statistics(given, generated)[1], f"{NINPUTS} images decoded from the prior")
    given, pixels = placed(model, images, slice(NIMAGES))
    return LatentKL(posterior_statistics(given, pixels)[1], f"{len(pixels)} validation images")


@torch.no_grad()
def describe_latents(
    model: LatentModel, drawn: Float[Tensor, "n nlatent"], rates: Float[Tensor, " nlatent"]
) -> dict[str, Any]:
    """Return the latents in the order of their KL, the ranges of their sliders, and the prior, as page.js reads them.

    The prior is a mixture of diagonal normals, or null for that of a ladder, which is a graph of its own. The ranges
    are those of latents drawn from it.
    """
    prior, components = model.prior(), None
    centre, deviation = drawn.mean(0), drawn.std(0)
    if isinstance(prior, StandardNormal):
        centre, deviation = prior.mean, prior.stddev
        components = DiagonalNormal(prior.mean[None], prior.log_sigma[None])
    elif isinstance(prior, MixtureOfDiagonalNormals):
        components = prior.components
    return {
        "order": rates.argsort(descending=True).tolist(),
        "kl": rounded(rates),
        "ranges": rounded(torch.stack([centre - REACH * deviation, centre + REACH * deviation], 1)),
        "mean": rounded(prior.mean),
        "prior": None if components is None else [rounded(components.mean), rounded(components.stddev)],
        "ignoresLength": bool(getattr(model.decoder, "ignores_length", False)),
    }


def rounded(numbers: Tensor) -> Any:  # noqa: ANN401
    """Return a tensor as nested lists of numbers with five decimals."""
    return numbers.double().mul(1e5).round().div(1e5).tolist()


def describe_run(run: str | Path, checkpoint: str, model: LatentModel) -> tuple[str, str]:
    """Return the title of the page and a line about the run: its model, data, steps and one metric."""
    folder = locate(run, checkpoint).folder
    summary = read_summary(folder)
    steps, likelihood = summary.get("steps"), type(model.likelihood).__name__
    facts = [
        f"{type(model).__name__} with {type(model.decoder).__name__}, {model.nlatent} latents, {likelihood}",
        f"{name_of_data(read_model(run, checkpoint).data)}, {model.image_size} x {model.image_size} pixels",
    ]
    if isinstance(steps, int):
        facts.append(f"{steps:,} steps")
    shown = next((name for name in FIGURES if isinstance(summary.get(name), float)), None)
    if shown:
        facts.append(f"{shown} {summary[shown]:.2f} nats per image")
    return str(summary.get("name") or folder.name), " · ".join(facts)


def name_of_data(config: dict[str, Any]) -> str:
    """Return a name for the images of a run: their data set, the name of their folder, or their class."""
    dataset, root = config.get("dataset"), config.get("root")
    target = dataset.get("_target_") if isinstance(dataset, dict) else None
    if target is None and root:
        return Path(str(root)).name
    return str(target or config.get("_target_", "images")).rpartition(".")[2]


def render(content: Content, runtime: dict[str, bytes]) -> str:
    """Return the page as a string of HTML, with the files of ONNX Runtime Web in it."""
    environment = Environment(
        loader=PackageLoader("vae_lab.exporting", "templates"), autoescape=True, undefined=StrictUndefined
    )
    assert environment.loader is not None
    style, ours = (environment.loader.get_source(environment, f"page.{kind}")[0] for kind in ("css", "js"))
    scripts = [global_script(runtime[SCRIPT].decode()), ours]
    embedded = {"binary": runtime[BINARY], **content.graphs}
    return environment.get_template("page.html").render(
        content=content,
        style=Markup(style),  # noqa: S704
        scripts=[Markup(script) for script in scripts],  # noqa: S704 - ONNX Runtime's and ours
        script_hashes=" ".join(f"'sha256-{digest(script)}'" for script in scripts),
        style_hash=f"'sha256-{digest(style)}'",
        embedded={name: packed(file) for name, file in embedded.items()},
        runtime=f"{PACKAGE} {VERSION}",
    )


def packed(file: bytes) -> str:
    """Return a file compressed by gzip, in base64, the same text for the same file."""
    return base64.b64encode(gzip.compress(file, mtime=0)).decode()


def global_script(module: str) -> str:
    """Return the script of ONNX Runtime with its exports as the global variable `ort`, as no page can import itself."""
    names = EXPORTS.findall(module)
    assert len(names) == 1
    assert "</script" not in module
    assert "\r" not in module
    pairs = (pair.split(" as ") for pair in names[0].split(","))
    return EXPORTS.sub(f"globalThis.ort={{{','.join(f'{name}:{inner}' for inner, name in pairs)}}};", module)
