"""`python -m vae_lab.profile data.image_size=32,64`: measure the cost of training at each image size."""

import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig

from vae_lab.cli.entry import command, settle_threads
from vae_lab.system.folders import expanded

log = logging.getLogger("vae_lab.profile")  # __name__ is __main__ when run as a command


def lists(arguments: Sequence[str]) -> list[str]:
    """Return a command line with data.image_size=32,64 rewritten as [32,64], so that Hydra does not start a sweep."""
    if {"-m", "--multirun"} & set(arguments):
        return list(arguments)
    return [re.sub(r"^(data\.image_size=)([^\[\],]+(,[^\[\],]*)+)$", r"\1[\2]", argument) for argument in arguments]


@command("profile", rewrite=lists)
def main(cfg: DictConfig) -> None:
    """Measure the cost of training, write profile.json and profile.png, and log a summary."""
    from vae_lab.profiling.run import profile_sizes  # importing torch takes seconds

    settle_threads(cfg)
    for line in report_lines(profile_sizes(cfg)):
        log.info("%s", line)
    out = expanded(cfg.out)
    log.info("%s and %s", out / "profile.json", out / "profile.png")


def report_lines(result: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a table of image sizes, a table of exponents, and the largest sizes that fit into memory."""
    yield (
        "  side  batch     weights  linear   MMAC per image     ms per image      MiB, training   MiB, generation\n"
        "                                    train generate   train generate    measured   pred.   measured   pred."
    )
    for size, row in result["sizes"].items():
        macs, seconds = row["multiplications"], row["seconds"]
        yield (
            f"{size:>6} {row['batch']:>6} {row['parameters']:>11,} {row['linear_share']:>6.1%}"
            f" {macs['training'] / 1e6:>10,.0f} {macs['generation'] / 1e6:>8,.0f}"
            f" {1e3 * seconds['training']:>9.2f} {1e3 * seconds['generation']:>7.2f}"
            f" {_peaks(row['memory']['training'])} {_peaks(row['memory']['generation'])}"
        )
    yield "exponent of                       fit  95 % interval       max. misfit  last two   asymptotic"
    for name, law in result["exponents"].items():
        limit = result["limits"].get(name)
        yield (
            f"{name.replace('_', ' '):<29} {law.exponent:>7.3f}  {law.low:.3f} to {law.high:.3f}  {law.misfit:>12.1%}"
            f" {law.last:>12.3f}" + ("" if limit is None else f" {limit:>11.3f}")
        )
    yield f"{result['device']}, {result['precision']}"
    memory, fits = result["memory"], result["fits"]
    sizes = {task: "no size" if size is None else f"{size}x{size} pixels" for task, size in fits.items()}
    yield (
        f"in {memory['bytes'] / 2**30:.1f} GiB, with {memory['headroom']:.0%} kept free and"
        f" {memory['process'] / 2**20:.0f} MiB for the process, the largest images for batch size {memory['batch']} are"
        f" {sizes['training']} in training and {sizes['generation']} in generation"
    )


def _peaks(memory: dict[str, int | float]) -> str:
    return f"{memory['measured'] / 2**20:>9.1f} {memory['ratio']:>7.1%}"


if __name__ == "__main__":
    main()
