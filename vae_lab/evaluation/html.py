"""The evaluation page: one HTML file with embedded pictures."""

import base64
import io
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxtyping import Float, UInt8
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from vae_lab.data.grids import Grid, grid, paired
from vae_lab.data.images import ImageSet
from vae_lab.evaluation.metrics.likelihood import SetLikelihood
from vae_lab.evaluation.metrics.memorisation import Memorisation, neighbour_panel
from vae_lab.evaluation.metrics.power_spectrum import spectrum_figure
from vae_lab.evaluation.metrics.reconstruction import Reconstruction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pixels = Float[Tensor, "n channels height width"]

TITLES = {
    "real": "real images, unseen",
    "posterior": "posteriors of those images",
    "gmm": "mixture fitted to the training posteriors",
    "flow": "flow fitted to the training posteriors",
    "prior": "prior",
}


class Page(NamedTuple):
    """The JSON content, images and tensors that an evaluation page shows.

    Attributes:
        result: the content of evaluation-<split>.json.
        reference: the images of the split, before binarization.
        images: the first images of the split, as the model receives them.
        reconstruction: the reconstructions of the split.
        sets: real and generated images, by sampler.
        copies: the memorisation check of each set.
        training: the training images.
        likelihood: the likelihood of the split.
        panel: samples above their nearest training images in features, or None.
    """

    result: dict[str, Any]
    reference: Pixels
    images: Pixels
    reconstruction: Reconstruction
    sets: dict[str, Pixels]
    copies: dict[str, Memorisation]
    training: ImageSet
    likelihood: SetLikelihood
    panel: Grid | None = None


def render(page: Page) -> str:
    """Return the evaluation page as a string of HTML."""
    environment = Environment(
        loader=PackageLoader("vae_lab.evaluation", "templates"), autoescape=True, undefined=StrictUndefined
    )
    copies = page.copies["prior"]
    nearest = copies.ratios.argsort()[:16]
    panel = neighbour_panel(page.sets["prior"][nearest], page.training, copies.indices[nearest])
    sharp = any(page.result["blur"].values())
    spectra = {
        "held-out data": page.reference,
        "reconstructions": page.reconstruction.decoded,
        "samples from the prior": page.sets["prior"],
    }
    pictures = {
        "reconstructions": picture(grid(paired(page.images, page.reconstruction.decoded[: len(page.images)], 8), 8)),
        "neighbours": picture(panel),
        "nearest": "" if page.panel is None else picture(page.panel),
        "spectra": plot(spectrum_figure(spectra)) if sharp else "",
        "likelihood": plot(likelihood_figure(page.likelihood)),
    }
    samples = {name: picture(grid(images[:64], 8)) for name, images in page.sets.items()}
    template = environment.get_template("evaluation.html")
    return template.render(result=page.result, titles=TITLES, pictures=pictures, samples=samples)


def likelihood_figure(likelihood: SetLikelihood) -> "Figure":
    """Return a histogram of the estimates of -log p(x), one value per image."""
    from matplotlib.figure import Figure  # takes half a second

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.hist(likelihood.nll.numpy(), bins=min(40, max(5, len(likelihood.nll) // 10)), color="#3b6fb6")
    axes.axvline(likelihood.nll.mean().item(), color="#c2452d")
    axes.set(xlabel="-log p(x) [nats]", ylabel="images", title=f"{len(likelihood.nll)} images and their mean")
    return figure


def picture(image: UInt8[Tensor, "channels height width"]) -> Markup:
    """Return an HTML <img> element that embeds an image as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG", optimize=True)
    return element(buffer)


def plot(figure: "Figure") -> Markup:
    """Return an HTML <img> element that embeds a matplotlib figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return element(buffer)


def element(buffer: io.BytesIO) -> Markup:
    """Return an HTML <img> element that embeds the PNG file in `buffer`."""
    return Markup('<img alt="" src="data:image/png;base64,{}">').format(base64.b64encode(buffer.getvalue()).decode())
