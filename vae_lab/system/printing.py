"""One-line representations of objects (constructor calls) and of distributions (shapes)."""

import inspect
from types import MethodType

from torch import Tensor, nn
from torch.distributions import Distribution


class PrintsArguments:
    """A mixin for torch modules whose `repr` shows the arguments of their constructor."""

    def extra_repr(self) -> str:
        """Return the constructor's arguments that are also attributes, as text such as `beta=1.0`.

        Tensors, methods and modules are left out; torch prints modules on lines of their own.
        """
        kept = [(name, getattr(self, name)) for name in inspect.signature(type(self)).parameters if hasattr(self, name)]
        return ", ".join(f"{name}={v!r}" for name, v in kept if not isinstance(v, Tensor | nn.Module | MethodType))


class PrintsCall(PrintsArguments):
    """A mixin for objects whose `repr` is the call of their constructor, such as `ELBO(beta=1.0)`."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


def shapes(self: Distribution) -> str:
    """Return a distribution's class name, batch shape and event shape, as text."""
    return f"{type(self).__name__}(batch_shape={[*self.batch_shape]}, event_shape={[*self.event_shape]})"
