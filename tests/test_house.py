"""Which packages a room may import, and what may occur nowhere."""

import ast
import re
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vae_lab"
FILES = sorted(PACKAGE.rglob("*.py"))
TORCH = {"torch", "jaxtyping", "vae_lab", "numpy"}
LIGHTNING = TORCH | {"lightning", "torchmetrics", "rich"}
ROOMS = {
    "probability": TORCH,
    "features": TORCH | {"timm"},
    "models": TORCH,
    "adversarial": TORCH | {"torchvision"},
    "sampling": TORCH | {"sklearn"},
    "latents": TORCH | {"PIL", "pyarrow", "sklearn", "umap"},
    "evaluation": TORCH
    | {"PIL", "jinja2", "markupsafe", "matplotlib", "scipy", "sklearn", "torchmetrics", "torchvision"},
    "detection": TORCH | {"PIL", "hydra", "matplotlib", "scipy", "sklearn", "torchvision", "yaml"},
    "training": LIGHTNING | {"hydra", "matplotlib", "mlflow", "omegaconf", "pydantic", "torchvision", "wandb"},
    "reporting": {"PIL", "jinja2", "markupsafe", "plotly", "scipy", "vae_lab", "yaml"},
    "data": LIGHTNING | {"PIL", "sklearn", "torchvision"},
    "sweeps": {"hydra", "lightning", "omegaconf", "optuna", "sqlalchemy", "vae_lab", "yaml"},
    "exporting": TORCH | {"huggingface_hub", "jinja2", "markupsafe", "onnxruntime", "safetensors"},
    "exploring": TORCH | {"plotly", "streamlit"},
    "cli": {"hydra", "omegaconf", "rich", "vae_lab", "yaml"},
}
"""Packages that the modules of a room may import; which rooms they may import, import-linter holds."""
NOWHERE = re.compile(
    r"weights_only=False|\bpickle\b|\bdill\b|\bjit\.load|torch\.hub|allow_pickle|(?<!\.)\beval\(|\bexec\(|shell=True|yaml\.load\("
    r"|LOAD_TRUNCATED_IMAGES\s*=|verify=False|\bprint\("
)


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, but for the standard library's."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_keeps_to_its_room(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0]
    assert imported(path) <= ROOMS.get(room, imported(path))
    assert not NOWHERE.findall(path.read_text())
