"""Seeding of random generators by counters, such as (phase, seed, batch, rank).

The state of a generator is never stored. Generators are seeded from (phase, seed, batch, rank) before each batch, so
that a resumed run, a trial of a sweep and a single run draw the same noise.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def counter_seed(*counters: int | str) -> int:
    """Return a 63-bit seed, which is a hash of the counters (integers and strings) in their order."""
    digest = hashlib.blake2b(repr(counters).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


@contextmanager
def seeded(*counters: int | str) -> Iterator[None]:
    """Seed torch's random generators from `counters` for the `with` block, and restore their states afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(counter_seed(*counters))
        yield


def reseed(device: torch.device, *counters: int | str) -> None:
    """Seed the random generators of `device` and of the CPU by the counters.

    `torch.manual_seed` seeds every kind of device and takes 0.1 ms, which is too slow for every step.
    """
    seed = counter_seed(*counters)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)
