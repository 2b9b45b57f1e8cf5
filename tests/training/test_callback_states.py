"""What a callback keeps in a checkpoint, which is read back as data alone."""

import json
import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import otherlab
import pytest
import torch
from omegaconf import DictConfig

from vae_lab.runs.tensor_file import read_tensors, require_storable
from vae_lab.training.run import train_run

STATES: dict[str, tuple[object, str | None]] = {
    "plain": ({"a": [1, 2.0, True, None, "x", b"x", 1j, (1,), {2}]}, None),
    "tensors": ({"a": torch.zeros(2), "b": torch.nn.Parameter(torch.zeros(1)), "c": torch.Size([1])}, None),
    "of torch": (OrderedDict(a=torch.float32, b=torch.device("cpu"), c=Counter("a")), None),
    "a number of NumPy": ({"a": {"b": np.float64(1)}}, "numpy.float64"),
    "an array": ([np.zeros(2)], "numpy.ndarray"),
    "a path": ({"a": Path("x")}, "pathlib.PosixPath"),
    "a path as a key": ({Path("x"): 1}, "pathlib.PosixPath"),
    "an object": ((otherlab.Encoder(1, 2, 1),), "otherlab.Encoder"),
    "a function": (otherlab.make_encoder, "builtins.function"),
}


@pytest.mark.parametrize("name", STATES)
def test_a_callback_keeps_what_can_be_read_back(name: str, tmp_path: Path) -> None:
    state, kind = STATES[name]
    torch.save(state, tmp_path / "state.pt")
    if kind is None:
        require_storable({"Keeper": state})
        read_tensors(tmp_path / "state.pt")
        return
    with pytest.raises(ValueError, match=rf"callbacks: Keeper keeps a {re.escape(kind)} in its state"):
        require_storable({"Keeper{'a': 1}": state})
    with pytest.raises(UnpicklingError):
        read_tensors(tmp_path / "state.pt")


def test_a_state_that_cannot_be_read_back_ends_the_run_at_its_first_checkpoint(
    config: Callable[..., DictConfig],
) -> None:
    cfg = config("+callbacks.keeper._target_=otherlab.Keeper")
    with pytest.raises(ValueError, match=r"callbacks: Keeper keeps a numpy\.float64"):
        train_run(cfg)
    assert json.loads(Path(cfg.folder, "summary.json").read_text())["steps"] == 2
