"""Generation of images from a prior or a fitted sampler, and their PNG files."""

import copy
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_lab.errors import require_count

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor
    from torch.distributions import Distribution

    from vae_lab.probability.latent_model import LatentModel

log = logging.getLogger(__name__)

EVERY = "all"
"""The choice of every class; * is another word for it, where a class is called all."""


def generate_images(
    model: "LatentModel",
    n: int,
    seed: int,
    batch_size: int = 64,
    sampler: "Distribution | None" = None,
    *,
    which: int | str | None = None,
    counts: Sequence[int] = (),
    drawn: list[int] | None = None,
) -> "Float[Tensor, 'images channels height width']":
    """Return the mean images of `n` latents; image i depends on the seed and on i alone.

    The decoder runs in double precision: in single precision an image's last bits depend on how many are decoded beside
    it, which shows in about ten pixels of a million after rounding to 8 bits.

    Args:
        model: a copy of it decodes, so that it keeps its precision and its mode.
        n: number of images.
        seed: of the latents.
        batch_size: images decoded at once.
        sampler: what the latents are drawn from; None is the model's prior.
        which: a conditional model's class; None draws one for each image, and "all" returns the same `n` latents in
            each class, class after class.
        counts: how many training images each class had, in proportion to which classes are drawn; nothing draws all
            of them equally often.
        drawn: a list to which the class of each image is added.

    Raises:
        ValueError: if `n` or `batch_size` is below 1, or there is no such class.

    Example:
        >>> from vae_lab import generate_images, load_model
        >>> generate_images(load_model("outputs/digits"), n=4, seed=0).shape  # the run of train_run's example
        torch.Size([4, 1, 28, 28])
    """
    import torch

    from vae_lab.system.randomness import seeded

    require_count("n", n)
    require_count("batch_size", batch_size)
    check_class(model, which)
    model = copy.deepcopy(model).double().eval()
    shares = torch.ones(max(model.nclasses, 1))
    if model.nclasses and any(counts):
        shares = torch.tensor([*counts, *([0] * model.nclasses)], dtype=shares.dtype)[: model.nclasses]
    latents, labels = [], []
    with torch.no_grad():
        density = model.prior() if sampler is None else sampler
        for i in range(n):
            with seeded("generate", seed, i):
                latents.append(density.sample().double())
                labels.append(shares.multinomial(1)[0])
        z, label = torch.stack(latents), torch.stack(labels)
        if which == EVERY:
            z, label = z.repeat(model.nclasses, 1), torch.arange(model.nclasses).repeat_interleave(n)
        elif which is not None:
            label = torch.full_like(label, int(which))
        if drawn is not None:
            drawn.extend(label.tolist())
        batches = zip(z.split(batch_size), label.split(batch_size), strict=True)
        return torch.cat([model.given(some).generative(part).mean for part, some in batches])


def class_names(run: Path, checkpoint: str) -> list[str]:
    """Return what the classes of a run's images are called; nothing if its summary is gone or does not say."""
    return [str(name) for name in summary_or_nothing(run, checkpoint).get("classes", [])]


def class_counts(run: Path, checkpoint: str) -> list[int]:
    """Return how many training images each class of a run had; nothing if its summary is gone or does not say."""
    return [int(count) for count in summary_or_nothing(run, checkpoint).get("class_counts", [])]


def summary_or_nothing(run: Path, checkpoint: str) -> dict[str, Any]:
    """Return a run's summary; nothing if it is gone."""
    from vae_lab.errors import DataError
    from vae_lab.runs.folder import load_summary, locate

    try:
        return load_summary(locate(run, checkpoint).folder)
    except DataError:
        return {}


def class_number(model: "LatentModel", which: object, names: Sequence[str]) -> int | str | None:
    """Return a class given by its name as a number; numbers, "all" and None as they are.

    A name that there is comes first, also where it looks like a number or is "all"; the log says what was understood
    if a class has a name other than its number.

    Raises:
        ValueError: if there is no such class.
    """
    plain = str(which).lower() if isinstance(which, bool) else which  # true is a word of YAML
    name = next((name for name in names if name == str(plain)), None)
    if model.nclasses and which is not None and name is not None:
        number = names.index(name)
        if which == EVERY or (not isinstance(which, str) and name != str(number)):
            other = "; class=* is every class" if which == EVERY else ""
            log.info('class=%s is the class called "%s", number %d%s', plain, name, number, other)
        return number
    which = EVERY if which == "*" else which
    check_class(model, which, names)
    if isinstance(which, int) and which < len(names):
        log.info('class=%d is the class called "%s"', which, names[which])
    return which  # pyright: ignore[reportReturnType]


def check_class(model: "LatentModel", which: object, names: Sequence[str] = ()) -> None:
    """Raise ValueError if the model has no class of that number, nor is it all of them."""
    if which is None:
        return
    if not model.nclasses:
        raise ValueError(f"class={which}: this run's model knows no classes; leave class out.")
    number = isinstance(which, int) and not isinstance(which, bool) and 0 <= which < model.nclasses
    if which != EVERY and not number:
        class_label = ", ".join(f'"{name}"' for name in names)
        others = f", or one of {class_label}" if names else ""
        raise ValueError(f"class={which}: choose a number from 0 to {model.nclasses - 1}, or all{others}.")


def warn_of_idle(model: "LatentModel", which: int | str | None, names: Sequence[str], counts: Sequence[int]) -> None:
    """Log a warning if a class is asked for that no training image had, or nothing is known of how many had it."""
    if model.nclasses and not any(counts):
        if which is None:
            log.info("the run does not say how many images each class had: all are drawn equally often")
        return
    asked = range(model.nclasses) if which == EVERY else [which] if isinstance(which, int) else []
    idle = [class_label(names, k) for k in asked if k >= len(counts) or not counts[k]]
    if idle:
        line = "beware: no training image was of class %s: what is generated of it means nothing"
        log.warning(line, ", ".join(idle))


def class_label(names: Sequence[str], number: int) -> str:
    """Return what a class is called: its number where it has no name."""
    return names[number] if number < len(names) else str(number)


def class_folders(names: Sequence[str], nclasses: int) -> list[str]:
    """Return a folder's name for each class: what it is called, without signs; their numbers if two are the same."""
    plain = [re.sub(r"[^\w .()+=,@-]", "_", class_label(names, k))[:100].strip(" .") or "_" for k in range(nclasses)]
    alike = len({name.casefold() for name in plain}) < nclasses
    return [str(k) for k in range(nclasses)] if alike else plain


def save_images(
    images: "Float[Tensor, 'n channels height width']",
    out: Path,
    nrow: int | None = None,
    folders: Sequence[str] = (),
) -> list[str]:
    """Write a grid to `out` if it is a .png, else a grid and single PNGs into it; return the names of these in turn.

    Args:
        images: in [0, 1].
        out: a .png, or a folder.
        nrow: images of each class, which get a row and a folder of their own; None if there are no such rows.
        folders: names of the folders; their numbers if there are none.
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
