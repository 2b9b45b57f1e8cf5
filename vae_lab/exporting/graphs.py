"""Graphs of a model's parts, as ONNX files and as programs of torch.export, compared with the model.

The ONNX files are made by torch's exporter that is based on torch.export (`dynamo=True`), its default since torch 2.9;
the older one, based on TorchScript, is deprecated. So the files of both formats hold the same graph.
"""

import io
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from vae_lab.exporting.parts import NINPUTS, Part
from vae_lab.system.atomic import whole

BATCHES = (1, 2, NINPUTS - 3)
"""Batch sizes on which an exported part is compared with the model; the batch size of a graph is free."""
LARGEST = 2 * 10**9
"""Maximum number of bytes of an ONNX file."""
PACKAGES = ("onnx", "onnxruntime", "onnxscript")

Function = Callable[..., list[Tensor]]


class Format(NamedTuple):
    """A file format of graphs: its suffix, and functions that write a graph to a path and load one from it."""

    suffix: str
    write: Callable[[Part, Path], None]
    load: Callable[[Path], Function]


def require_onnx(setting: str = "to=onnx") -> None:
    """Raise ValueError, which names the setting, unless the packages that write and run ONNX files are installed."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ValueError(f"{setting} needs the packages {', '.join(missing)}: pip install 'vae_lab[export]'.")


def write_checked(part: Part, to: str, path: Path, tolerance: float, setting: str | None = None) -> float:
    """Write the graph of a part if it computes what the model does, and return the largest difference.

    Args:
        part: the part.
        to: "onnx" or "torch_export".
        path: the file to write.
        tolerance: see `largest_difference`.
        setting: what errors name; None stands for to=<to>.

    Raises:
        ValueError: if the part cannot be exported, or differs from the model by more than `tolerance`.
    """
    form, setting = FORMATS[to], setting or f"to={to}"
    with whole(path) as temporary:
        try:
            form.write(part, temporary)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # networks of other packages fail in any way
            reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
            raise ValueError(
                f"{setting}: the {part.name} of this model is not a graph of tensors ({reason})."
            ) from error
        difference = largest_difference(part, form.load(temporary))
        if not difference <= tolerance:  # NaN is refused too
            raise ValueError(
                f"{setting}: {path.name} differs from the model by {difference:.1e}, more than tolerance={tolerance:g},"
                " and was not kept; choose another format with export's to=, or raise its tolerance."
            )
    return difference


def largest_difference(part: Part, function: Function) -> float:
    """Return the largest difference between a function and a part of the model over its inputs and outputs.

    Differences from numbers above 1 are relative. The function is called with batches of 1, 2 and 97 inputs, the model
    with all 100 at once.
    """
    inputs = list(part.inputs.values())
    parts = [function(*given) for given in zip(*(value.split(BATCHES) for value in inputs), strict=True)]
    found = [torch.cat(columns) for columns in zip(*parts, strict=True)]
    worst = []
    for ours, exported in zip(part(*inputs), found, strict=True):
        assert ours.shape == exported.shape
        worst.append(((ours - exported).abs() / ours.abs().clamp(min=1)).max())
    return torch.stack(worst).max().item()


def trace(part: Part) -> ExportedProgram:
    """Return the graph of a part with a free batch size, without the file names and lines that it was traced from."""
    batch = Dim("batch")
    examples = tuple(value[:3] for value in part.inputs.values())
    with torch.no_grad():
        program = torch.export.export(part.module, examples, dynamic_shapes=tuple({0: batch} for _ in examples))
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)
            node.meta.pop("nn_module_stack", None)
    return program


def write_onnx(part: Part, path: Path) -> None:
    """Write the graph of a part as one ONNX file, weights included."""
    nbytes = sum(tensor.nbytes for tensor in part.module.state_dict().values())
    if nbytes > LARGEST:
        raise ValueError(f"it has {nbytes / 1e9:.1f} GB of weights, and an ONNX file at most 2 GB")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="# The axis name: batch will not be used")  # image and label share it
        program = torch.onnx.export(
            trace(part),
            verbose=False,
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            dynamic_shapes=[{0: "batch"} for _ in part.inputs],
        )
    assert program is not None
    program.save(path, external_data=False)


def load_onnx(path: Path) -> Function:
    """Return an ONNX file as a function of tensors, run by ONNX Runtime on the CPU."""
    import onnxruntime  # pyright: ignore[reportMissingImports]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def function(*inputs: Tensor) -> list[Tensor]:
        arrays = (tensor.numpy() for tensor in inputs)
        return [torch.from_numpy(output) for output in session.run(None, dict(zip(names, arrays, strict=True)))]

    return function


def write_program(part: Part, path: Path) -> None:
    """Write the graph of a part as a program that `torch.export.load` reads."""
    content = io.BytesIO()
    torch.export.save(trace(part), content)
    path.write_bytes(content.getvalue())


def load_program(path: Path) -> Function:
    """Return a program of torch.export as a function of tensors."""
    module = torch.export.load(io.BytesIO(path.read_bytes())).module()

    def function(*inputs: Tensor) -> list[Tensor]:
        found = module(*inputs)
        return [found] if isinstance(found, Tensor) else list(found)

    return function


FORMATS = {
    "onnx": Format(".onnx", write_onnx, load_onnx),
    "torch_export": Format(".pt2", write_program, load_program),
}
