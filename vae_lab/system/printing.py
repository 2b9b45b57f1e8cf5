"""What objects print in one line: the call that constructs them, or the shapes of a distribution."""

import inspect
from types import MethodType

from torch import Tensor, nn
from torch.distributions import Distribution


class PrintsArguments:
    """A module that torch prints with its constructor's arguments."""

    def extra_repr(self) -> str:
        """Return those arguments that are kept under their names, as `beta=1.0`.

        Tensors and methods are left out, and modules, which torch prints below the module that has them.
        """
        kept = [(name, getattr(self, name)) for name in inspect.signature(type(self)).parameters if hasattr(self, name)]
        return ", ".join(f"{name}={v!r}" for name, v in kept if not isinstance(v, Tensor | nn.Module | MethodType))


class PrintsCall(PrintsArguments):
    """An object that prints as its class with these arguments, as `ELBO(beta=1.0)`."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


def shapes(self: Distribution) -> str:
    """Return the class of a distribution with its shapes."""
    return f"{type(self).__name__}(batch_shape={[*self.batch_shape]}, event_shape={[*self.event_shape]})"
