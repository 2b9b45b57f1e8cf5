"""What the first and the second signal do."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from omegaconf import DictConfig

from vae_lab.callbacks.signals import SIGNALS, GracefulStop
from vae_lab.errors import Interrupted, exit_code
from vae_lab.training import build


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_the_second_insists(
    number: signal.Signals, config: Callable[..., DictConfig]
) -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    _, task, trainer = build(config(), {})
    stop = GracefulStop()
    stop.on_train_start(trainer, task)
    try:
        os.kill(os.getpid(), number)
        assert task.stopping
        assert stop.received == number
        with pytest.raises(Interrupted) as caught:
            os.kill(os.getpid(), number)
        assert exit_code(caught.value) == 128 + number
    finally:
        stop.restore()
    assert [signal.getsignal(n) for n in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_while_testing_the_first_signal_ends_the_run(number: signal.Signals, config: Callable[..., DictConfig]) -> None:
    _, task, trainer = build(config(), {})
    stop = GracefulStop()
    stop.on_test_start(trainer, task)
    try:
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), number)
    finally:
        stop.restore()


def test_a_run_in_a_thread_leaves_the_signals_alone(config: Callable[..., DictConfig]) -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    _, task, trainer = build(config(), {})
    stop = GracefulStop()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(stop.on_train_start, trainer, task).result()
    assert [signal.getsignal(n) for n in SIGNALS] == before
