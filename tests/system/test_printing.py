"""What the objects of the roles print: the call that makes them."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from torch import nn

from vae_lab.models.ladder import TopDown
from vae_lab.models.ladder_mlp import DenseDecoder
from vae_lab.models.mlp import MLPDecoder, MLPEncoder
from vae_lab.models.vae import VAE
from vae_lab.probability import distributions, likelihoods, priors
from vae_lab.sampling.subspace import SubspaceMixture
from vae_lab.system.config_dir import CONF

GROUPS = ("likelihood", "prior", "objective", "score")
FILES = [path for group in GROUPS for path in sorted((CONF / group).glob("*.yaml")) if path.stem not in {"all", "auto"}]
SIZES = {"channels": 1, "image_size": 8}


def classes_in(config: dict[str, Any]) -> dict[str, type]:
    """The classes that a config names, by their last names."""
    nodes = [config, *(value for value in config.values() if isinstance(value, dict))]
    return {node["_target_"].rpartition(".")[2]: get_class(node["_target_"]) for node in nodes}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_what_is_printed_makes_the_same_again(path: Path) -> None:
    loaded = OmegaConf.load(path)
    loaded.update({key: value for key, value in SIZES.items() if key in loaded})
    config: Any = OmegaConf.to_container(loaded)
    made = instantiate(config, _convert_="all")
    made = made(nlatent=3) if isinstance(made, partial) else made
    if isinstance(made, nn.Module) and [*made.children()]:
        assert f"\n  ({[*config][1]}): " in repr(made)  # torch's tree
    else:
        again = eval(repr(made), classes_in(config))
        assert type(again) is type(made)
        assert repr(again) == repr(made)
        assert [key for key in config if key[0] != "_" and f"{key}=" not in repr(made)] == []


MEAN = torch.zeros(5, 3)
PIXELS = torch.zeros(2, 1, 4, 4)
NORMAL = distributions.DiagonalNormal(MEAN, MEAN)
MIXTURE = priors.gaussian_mixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
SUBSPACE = SubspaceMixture(MEAN[0].double(), torch.eye(3, 1).double(), MIXTURE, torch.tensor(1.0).double())
PRINTED = {
    "DiagonalNormal(batch_shape=[5], event_shape=[3])": NORMAL,
    "StandardNormal(batch_shape=[], event_shape=[3])": distributions.StandardNormal(MEAN[0]),
    "MixtureOfDiagonalNormals(batch_shape=[], event_shape=[3])": distributions.MixtureOfDiagonalNormals(NORMAL),
    "IsotropicNormal(batch_shape=[2], event_shape=[1, 4, 4], variance=0.5)": likelihoods.Gaussian(0.5)(PIXELS),
    "BinaryPixels(batch_shape=[2], event_shape=[1, 4, 4])": likelihoods.Bernoulli()(PIXELS),
    "LogisticLevels(batch_shape=[2], event_shape=[1, 4, 4])": likelihoods.LogisticMixture(1)(PIXELS.repeat(1, 3, 1, 1)),
    "TopDown(batch_shape=[], event_shape=[3])": TopDown(DenseDecoder(4, 1, width=4, groups=[2, 1]), None),
    "SubspaceMixture(batch_shape=[], event_shape=[3])": SUBSPACE,
}


@pytest.mark.parametrize("printed", PRINTED)
def test_a_distribution_prints_its_shapes(printed: str) -> None:
    assert repr(PRINTED[printed]) == printed


def test_a_model_prints_its_sizes_above_torchs_tree() -> None:
    networks = {"encoder": partial(MLPEncoder, width=8, nblocks=1), "decoder": partial(MLPDecoder, width=8, nblocks=1)}
    model = VAE(**networks, likelihood=likelihoods.Bernoulli(), prior=priors.StandardNormal, nlatent=2, **SIZES)  # pyright: ignore[reportArgumentType]
    lines = repr(model).splitlines()
    assert lines[:3] == ["VAE(", "  nlatent=2, channels=1, image_size=8, nclasses=0", "  (encoder): MLPEncoder("]
    assert lines[-3:] == ["  (likelihood): Bernoulli()", "  (prior): StandardNormal(nlatent=2)", ")"]
