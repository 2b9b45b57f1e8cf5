"""A setting that its class does not have, or one that it lacks: one sentence, and exit code 2 before training."""

from pathlib import Path

import pytest
from invoking import invoke

from vae_lab.train import main as train_main

TINY = ["data=synthetic", "model=mlp", "trainer.max_steps=4", "logger=none", "threads=1"]
REFUSED = {
    "+optimizer.foo=1": "optimizer: Adam has no setting foo; ~optimizer.foo removes it, or choose a class that has it.",
    "+schedule.foo=1": "schedule: ConstantLR has no setting foo; ~schedule.foo removes it",
    "+model.foo=1": "model: VAE has no setting foo; ~model.foo removes it",
    "+model.encoder.foo=1": "model: MLPEncoder has no setting foo; remove it, or choose a class that has it.",
    "+likelihood.foo=1": "likelihood: Gaussian has no setting foo; ~likelihood.foo removes it",
    "+data.foo=1": "data: SyntheticBlobs has no setting foo; ~data.foo removes it",
    "+callbacks.gallery.foo=1": "callbacks.gallery: Gallery has no setting foo; ~callbacks.gallery.foo removes it",
    "task=vaegan +task.adversary_optimizer.foo=1": "task.adversary_optimizer: Adam has no setting foo; ~task.adv",
    "+task.perceptual.weight=3 task=vaegan": "task.perceptual: NoPerceptual has no setting weight; ~task.perc",
    "+task.distortion=1": "task: VAETask has no setting distortion; ~task.distortion removes it",
    "~objective.beta": "objective: ELBO requires 'beta'; +objective.beta=… adds it.",
    "callbacks.gallery=3": "callbacks.gallery=3 names no class; give it a _target_, or null to turn it off.",
    "+logger.mine=3": "logger.mine=3 names no class; give it a _target_, or null to turn it off.",
}


@pytest.mark.parametrize("settings", REFUSED)
def test_a_wrong_setting_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], settings: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(train_main, "train", *TINY, *settings.split(), monkeypatch=monkeypatch) == 2
    printed = capfd.readouterr()
    lines = (printed.out + printed.err).splitlines()
    assert "Traceback" not in printed.out + printed.err
    assert REFUSED[settings] in lines[-1]
    assert not [line for line in lines if line.startswith("training ")], "the sentence comes before training"
