"""The EMA of weights: which numbers are averaged, and which copied."""

import torch
from torch import nn

from vae_lab.training.ema import WeightEMA


def networks() -> tuple[nn.Module, nn.Module]:
    """Return two networks with batch normalization, alike at first."""
    networks = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    networks[0].load_state_dict(networks[1].state_dict())
    return networks


def test_running_statistics_are_averaged_as_weights_are_and_counts_copied() -> None:
    average, source = networks()
    before = {name: value.clone() for name, value in average.state_dict().items()}
    with torch.no_grad():
        for weight in source.parameters():
            weight.add_(1)
    source(torch.randn(8, 2))
    WeightEMA(average, source, 0.75).update(10**6)
    after = source.state_dict()
    for name, value in average.state_dict().items():
        expected = after[name] if value.dtype == torch.int64 else 0.75 * before[name] + 0.25 * after[name]
        torch.testing.assert_close(value, expected)


def test_no_decay_copies_everything() -> None:
    average, source = networks()
    source(torch.randn(8, 2))
    WeightEMA(average, source, 0.0).update(10**6)
    for name, value in average.state_dict().items():
        torch.testing.assert_close(value, source.state_dict()[name])
