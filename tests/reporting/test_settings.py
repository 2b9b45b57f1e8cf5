"""Configs as flat settings, and what tells runs apart."""

from typing import Any

import pytest
from made_runs import IGNORED, changed

from vae_lab.reporting.flat_config import flat_settings, labelled, shown, varied_keys

ADAM, SGD = ({"_target_": f"torch.optim.{name}", "lr": 0.001} for name in ("Adam", "SGD"))
VAE, LADDER = ("vae_lab.models.vae.VAE", "vae_lab.models.ladder.Ladder")
CONV = {"encoder": {"_target_": "m.ConvEncoder"}, "decoder": {"_target_": "m.ConvDecoder"}, "_target_": VAE}
MLP = {"encoder": {"_target_": "m.MLPEncoder"}, "decoder": {"_target_": "m.MLPDecoder"}, "_target_": VAE}

VARIED: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "seeds alone": ([changed(seed=0), changed(seed=1)], []),
    "a number, also where it is repeated": ([changed(model__nlatent=2), changed()], ["model.nlatent"]),
    "what another one follows": ([changed(optimizer__lr=0.1), changed()], ["optimizer.lr"]),
    "what another one follows, resolved": (
        [changed(optimizer__lr=lr, schedule__max_lr=lr) for lr in (0.1, 0.2)],
        ["optimizer.lr"],
    ),
    "what the task is handed": (
        [changed(trainer={"max_steps": n}, task={"max_steps": "${trainer.max_steps}"}) for n in (2, 3)],
        ["trainer.max_steps"],
    ),
    "two numbers": (
        [changed(), changed(model__nlatent=2), changed(objective__beta=2.0)],
        ["model.nlatent", "objective.beta"],
    ),
    "a class": ([changed(optimizer=ADAM), changed(optimizer=SGD)], ["optimizer"]),
    "a class with a setting of its own": (
        [changed(optimizer=ADAM), changed(optimizer=SGD | {"momentum": 0.9})],
        ["optimizer"],
    ),
    "a setting that one class has, and varies": (
        [changed(optimizer=ADAM), *(changed(optimizer=SGD | {"momentum": m}) for m in (0.8, 0.9))],
        ["optimizer", "optimizer.momentum"],
    ),
    "a network, which is two classes": ([changed(model=CONV), changed(model=MLP)], ["model.encoder"]),
    "a number or a schedule": (
        [changed(), changed(objective__beta={"_target_": "s.Linear", "nsteps": 9})],
        ["objective.beta"],
    ),
    "a switch": ([changed(schedule__on=True), changed(schedule__on=1)], ["schedule.on"]),
    "folders": ([changed(folder="/a/x", callbacks={"d": f}) for f in ("/a/x/figures", "${folder}/figures")], []),
}


@pytest.mark.parametrize("name", VARIED)
def test_what_varies_is_found_once(name: str) -> None:
    configs, expected = VARIED[name]
    assert varied_keys([flat_settings(config) for config in configs], IGNORED) == expected


def test_references_are_followed_inside_the_config() -> None:
    settings = flat_settings(changed(model__encoder__width=64))
    assert settings["task.model.decoder.width"] == 64
    assert settings["task.model"] == "vae_lab.models.vae.VAE"
    assert settings["folder"] == "${hydra:runtime.output_dir}"


def test_the_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "password")
    assert flat_settings({"a": "${oc.env:SECRET}"}) == {"a": "${oc.env:SECRET}"}


def laughs() -> dict[str, Any]:
    """Ten to the ninth power of nothing, in a few bytes."""
    node: dict[str, Any] = {"x": {}}
    for _ in range(9):
        node = {str(i): node for i in range(10)}
    return node


def deep() -> dict[str, Any]:
    """A config nested a hundred deep."""
    node: dict[str, Any] = {}
    for _ in range(100):
        node = {"a": node}
    return node


def own_child() -> dict[str, Any]:
    """A config that contains itself."""
    node: dict[str, Any] = {}
    node["a"] = node
    return node


@pytest.mark.parametrize("make", [laughs, deep, own_child])
def test_a_config_that_would_never_end_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="the config"):
        flat_settings(make())


@pytest.mark.parametrize("config", [{"a": "${b}", "b": "${a}"}, {"a": {"b": "${a}"}}])
def test_references_in_a_circle_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="nested more than"):
        flat_settings(config)


def test_values_are_shown_short() -> None:
    values = ["torch.optim.Adam", 0.0005, 1e-8, None, True, 3, "mnist", "a b.c", "0.9.1", [0.9, 0.999]]
    expected = ["Adam", "0.0005", "1e-08", "null", "true", "3", "mnist", "a b.c", "0.9.1"]
    assert [shown(value) for value in values[:-1]] == expected  # pyright: ignore[reportArgumentType]
    assert flat_settings({"betas": [0.9, 0.999]}) == {"betas": "[0.9, 0.999]"}
    assert labelled({"a": 1, "b": 0.5}) == "a=1, b=0.5"
    assert labelled({str(i): i for i in range(9)}).endswith("5=5, …")
