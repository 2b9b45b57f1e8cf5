"""The tests check the types of every call, and shapes where there are arrays."""

from collections.abc import Callable
from pathlib import Path

import jaxtyping
import pytest
import torch

from vae_lab.system.atomic import write_png, write_whole
from vae_lab.system.masking import MaskingFilter
from vae_lab.training.tasks.task import nonfinite

WRONG: dict[str, tuple[Callable[..., object], tuple[object, ...]]] = {
    "an argument": (nonfinite, (5,)),
    "an argument of a method": (MaskingFilter().filter, ("text",)),
    "an argument beside others": (write_whole, (Path("x"), "text")),
    "a shape": (write_png, (Path("x"), torch.zeros(3, 3, dtype=torch.uint8))),
    "a kind of number": (write_png, (Path("x"), torch.zeros(1, 3, 3))),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_type_is_an_error(name: str) -> None:
    function, arguments = WRONG[name]
    with pytest.raises(jaxtyping.TypeCheckError):
        function(*arguments)
