"""Generation of images from the prior or a fitted mixture, and their PNG files."""

import copy
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vae_lab.errors import require_count, require_number

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch import Tensor
    from torch.distributions import Distribution

    from vae_lab.probability.latent_model import LatentModel

log = logging.getLogger(__name__)

EVERY = "all"
"""Value of `class` that selects every class; * does the same, also if a class is named all."""


def generate_images(
    model: "LatentModel",
    n: int,
    seed: int,
    batch_size: int = 64,
    sampler: "Distribution | None" = None,
    *,
    temperature: float = 1.0,
    which: int | str | None = None,
    counts: Sequence[int] = (),
    drawn: list[int] | None = None,
) -> "Float[Tensor, 'images channels height width']":
    """Return the means of p(x | z) for `n` latents drawn by a sampler; image i depends only on the seed and i.

    The decoder runs in double precision. In single precision, rounding errors depend on the batch size, which changes
    about ten pixels of a million after rounding to 8 bits.

    Args:
        model: the model, which is copied and not changed.
        n: number of images.
        seed: seed of the latents.
        batch_size: images decoded at once.
        sampler: density to draw latents from; None means the model's prior.
        temperature: factor of the latents' deviations; see `vae_lab.sampling.temperature`.
        which: class of a conditional model. None draws a class for each image; "all" decodes the same `n` latents in
            each class, one class after the other.
        counts: number of training images of each class; classes are drawn in proportion, or uniformly if it is empty.
        drawn: list to which the class of each image is appended.

    Raises:
        ValueError: if `n` or `batch_size` is below 1, the model does not have the class, or the temperature has no
            effect on the images.

    Example:
        >>> from vae_lab import generate_images, load_model
        >>> generate_images(load_model("outputs/digits"), n=4, seed=0).shape  # the run of train_run's example
        torch.Size([4, 1, 28, 28])
    """
    import torch

    require_count("n", n)
    require_count("batch_size", batch_size)
    check_class(model, which)
    model = copy.deepcopy(model).double().eval()
    shares = torch.ones(max(model.nclasses, 1))
    if model.nclasses and any(counts):
        shares = torch.tensor([*counts, *([0] * model.nclasses)], dtype=shares.dtype)[: model.nclasses]
    with torch.no_grad():
        density = choose_density(model, sampler, temperature)
        z, label = draw_latents(density, shares, n, seed)
        if which == EVERY:
            z, label = z.repeat(model.nclasses, 1), torch.arange(model.nclasses).repeat_interleave(n)
        elif which is not None:
            label = torch.full_like(label, int(which))
        if drawn is not None:
            drawn.extend(label.tolist())
        batches = zip(z.split(batch_size), label.split(batch_size), strict=True)
        return torch.cat([model.given(some).generative(part).mean for part, some in batches])


def choose_density(model: "LatentModel", sampler: "Distribution | None", temperature: float) -> "Distribution":
    """Return the density that latents are drawn from: the sampler or else the prior, with a temperature.

    Raises:
        ValueError: if the temperature is not positive, or has no effect.
    """
    from vae_lab.probability.distributions import StandardNormal
    from vae_lab.sampling.temperature import tempered

    require_number("temperature", temperature, "(0, inf)")
    density = model.prior() if sampler is None else sampler
    if temperature != 1 and isinstance(density, StandardNormal) and getattr(model.decoder, "ignores_length", False):
        raise ValueError(
            f"temperature={temperature} has no effect on latents from the prior, because the decoder uses only their"
            " direction; choose sampler=flow or gmm, or leave temperature at 1."
        )
    return tempered(density, temperature)


def draw_latents(
    density: "Distribution", shares: "Float[Tensor, ' nclasses']", n: int, seed: int
) -> "tuple[Float[Tensor, 'n nlatent'], Int64[Tensor, ' n']]":
    """Return `n` latent vectors in double precision, and a class for each; number i depends only on the seed and i."""
    import torch

    from vae_lab.sampling.flow import Flow
    from vae_lab.system.randomness import seeded

    draw = density.draw_noise if isinstance(density, Flow) else density.sample
    latents, labels = [], []
    for i in range(n):
        with seeded("generate", seed, i):
            latents.append(draw().double())
            labels.append(shares.multinomial(1)[0])
    z = torch.stack(latents)
    return density.transport(z) if isinstance(density, Flow) else z, torch.stack(labels)


def read_classes(run: Path, checkpoint: str) -> tuple[list[str], list[int]]:
    """Return the class names of a run, and the number of training images of each; two empty lists if unknown."""
    from vae_lab.errors import DataError
    from vae_lab.runs.folder import load_summary, locate

    try:
        summary = load_summary(locate(run, checkpoint).folder)
    except DataError:
        return [], []
    return [str(name) for name in summary.get("classes", [])], [int(n) for n in summary.get("class_counts", [])]


def class_number(model: "LatentModel", which: object, names: Sequence[str]) -> int | str | None:
    """Return the number of a class given by name or number; return "all" and None unchanged.

    Names take precedence over numbers and "all". If the name of a class differs from its number, the log shows both.

    Raises:
        ValueError: if the model does not have the class.
    """
    plain = str(which).lower() if isinstance(which, bool) else which  # YAML reads the name true as a bool
    if model.nclasses and which is not None and str(plain) in names:
        name = str(plain)
        number = names.index(name)
        if which == EVERY or (not isinstance(which, str) and name != str(number)):
            other = "; class=* selects every class" if which == EVERY else ""
            log.info('class=%s selects the class named "%s", number %d%s', plain, name, number, other)
        return number
    which = EVERY if which == "*" else which
    check_class(model, which, names)
    if isinstance(which, int) and which < len(names):
        log.info('class=%d selects the class named "%s"', which, names[which])
    return which  # pyright: ignore[reportReturnType]


def check_class(model: "LatentModel", which: object, names: Sequence[str] = ()) -> None:
    """Raise ValueError unless `which` is None, or the model is conditional and `which` is "all" or a class number."""
    if which is None:
        return
    if not model.nclasses:
        raise ValueError(f"class={which}: the run's model is unconditional; leave class out.")
    number = isinstance(which, int) and not isinstance(which, bool) and 0 <= which < model.nclasses
    if which != EVERY and not number:
        quoted = ", ".join(f'"{name}"' for name in names)
        others = f", or one of {quoted}" if names else ""
        raise ValueError(f"class={which}: choose a number from 0 to {model.nclasses - 1}, or all{others}.")


def warn_of_untrained_classes(
    model: "LatentModel", which: int | str | None, names: Sequence[str], counts: Sequence[int]
) -> None:
    """Log a warning that names the selected classes without training images; log if the numbers are unknown."""
    if model.nclasses and not any(counts):
        if which is None:
            log.info("the run does not record the number of images of each class; classes are drawn equally often")
        return
    selected = range(model.nclasses) if which == EVERY else [which] if isinstance(which, int) else []
    untrained = [class_label(names, k) for k in selected if k >= len(counts) or not counts[k]]
    if untrained:
        line = "warning: no training image has class %s; generated images of this class are meaningless"
        log.warning(line, ", ".join(untrained))


def class_label(names: Sequence[str], number: int) -> str:
    """Return the name of a class, or its number if it has no name."""
    return names[number] if number < len(names) else str(number)


def class_folders(names: Sequence[str], nclasses: int) -> list[str]:
    """Return a folder name for each class: its name without special characters, or its number if any names collide."""
    plain = [re.sub(r"[^\w .()+=,@-]", "_", class_label(names, k))[:100].strip(" .") or "_" for k in range(nclasses)]
    collide = len({name.casefold() for name in plain}) < nclasses
    return [str(k) for k in range(nclasses)] if collide else plain


def save_images(
    images: "Float[Tensor, 'n channels height width']",
    out: Path,
    nrow: int | None = None,
    folders: Sequence[str] = (),
) -> list[str]:
    """Write a grid of the images and, if `out` is a folder, a PNG of each; return the names of these PNGs, or [].

    Args:
        images: pixels in [0, 1].
        out: path of a .png file for the grid, or a folder.
        nrow: number of images per class, if each class gets a row of the grid and a folder of its own.
        folders: folder name for each class; classes without one use their number.
    """
    from vae_lab.data.grids import grid, to_uint8
    from vae_lab.system.atomic import write_png

    picture = grid(images, max(1, round(len(images) ** 0.5)) if nrow is None else nrow)
    if out.suffix.lower() == ".png":
        write_png(out, picture)
        return []
    write_png(out / "grid.png", picture)
    names: list[str] = []
    for i, image in enumerate(images):
        names.append(f"{i:05d}.png" if nrow is None else f"{class_label(folders, i // nrow)}/{i % nrow:05d}.png")
        write_png(out / names[-1], to_uint8(image))
    return names
