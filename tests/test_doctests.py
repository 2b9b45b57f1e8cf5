"""The Examples of docstrings: each runs as it stands, in a folder with the run that `train_run`'s makes."""

import ast
import doctest
from collections.abc import Callable
from pathlib import Path

import pytest

import vae_lab

PACKAGE = Path(vae_lab.__file__).parent
TRAINS = "vae_lab.training.run.train_run"
ROLES = {
    "vae_lab.models.mlp.MLPEncoder",  # a network is any module that is called like this
    "vae_lab.models.vae.VAE",
    "vae_lab.probability.likelihoods.Likelihood",
    "vae_lab.probability.priors.Prior",
    "vae_lab.probability.objectives.Objective",
    "vae_lab.detection.scores.anomaly.Score",
    "vae_lab.adversarial.adversaries.Adversary",
}


def found() -> dict[str, doctest.DocTest]:
    """Every docstring with an Example, by the name of what it documents; nothing is imported for it."""
    parser, tests = doctest.DocTestParser(), {}
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for node in ast.walk(ast.parse(text)) if ">>> " in text else ():
            if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                continue
            said, name = ast.get_docstring(node) or "", f"{module}.{getattr(node, 'name', '')}"
            if ">>> " in said:
                tests[name] = parser.get_doctest(said, {}, name, str(path), node.body[0].lineno - 1)
    return tests


EXAMPLES = found()


def run(test: doctest.DocTest) -> None:
    said: list[str] = []
    failed = doctest.DocTestRunner(verbose=False).run(test, out=said.append).failed
    assert not failed, "".join(said)


@pytest.fixture(scope="session")
def folder(made_once: Callable[..., Path]) -> Path:
    """A folder in which `train_run`'s Example was run."""

    def make(folder: Path) -> None:
        folder.mkdir(parents=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            run(EXAMPLES[TRAINS])

    return made_once("examples", make)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_an_example_is_right(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    if name != TRAINS:  # which is run once in a folder
        run(EXAMPLES[name])


def test_every_role_and_public_function_has_an_example() -> None:
    functions = {f"{vae_lab.PLACES[name]}.{name}" for name in vae_lab.__all__}
    assert {*EXAMPLES} >= ROLES | functions
