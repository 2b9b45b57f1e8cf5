"""The parts without Hydra: with other people's loaders, modules and trainers."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from vae_lab.data.sample import Sample, as_sample
from vae_lab.errors import DataError
from vae_lab.models.mlp import MLPDecoder, MLPEncoder
from vae_lab.models.vae import VAE
from vae_lab.probability.likelihoods import Gaussian
from vae_lab.probability.objectives import ELBO
from vae_lab.probability.priors import StandardNormal
from vae_lab.runs.load import load_model
from vae_lab.training.tasks.task import Task
from vae_lab.training.tasks.vae import VAETask
from vae_lab.training.tasks.vaegan import VAEGANTask

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
OTHERS = [  # what Lightning and torch say of anybody's small loaders
    "ignore:.*does not have many workers",
    "ignore:.*number of training batches",
    "ignore:.*exists and is not empty",
    "ignore:.*ended before the epoch ended and your dataloader is not resumable",
    "ignore:The dirpath has changed",
    "ignore:.*but have no `val",
]
PLAIN = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
IMAGES = torch.rand(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def make_task() -> VAETask:
    torch.manual_seed(0)
    networks = {"encoder": partial(MLPEncoder, width=8, nblocks=1), "decoder": partial(MLPDecoder, width=8, nblocks=1)}
    sizes = {"nlatent": 2, "channels": 1, "image_size": 8, "nclasses": 0}
    model = VAE(**networks, **sizes, likelihood=Gaussian(variance=0.5), prior=StandardNormal)  # pyright: ignore[reportArgumentType]
    return VAETask(model=model, objective=ELBO(beta=1.0), optimizer=partial(torch.optim.Adam, lr=1e-2))


@pytest.mark.filterwarnings(*OTHERS)
def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) > 4
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)


KINDS = {
    "a Sample": Sample(IMAGES, torch.zeros(48, dtype=torch.long)),
    "images": IMAGES,
    "a tuple": (IMAGES, torch.zeros(48, dtype=torch.long)),
    "a list, as collated": [IMAGES, torch.zeros(48, dtype=torch.int32)],
}


@pytest.mark.parametrize("name", KINDS)
def test_a_batch_is_a_sample_images_or_a_pair(name: str) -> None:
    sample = as_sample(KINDS[name], check=True)
    assert sample.image.equal(IMAGES)
    assert sample.label.equal(torch.zeros(48, dtype=torch.long))


def test_bytes_are_scaled() -> None:
    assert as_sample(torch.full((2, 1, 3, 3), 255, dtype=torch.uint8), check=True).image.equal(torch.ones(2, 1, 3, 3))


BAD = {
    "pixels to 255": (255 * IMAGES, r"pixels must lie in \[0, 1\]"),
    "three parts": ([IMAGES, IMAGES, IMAGES], "a batch must be images, or images and labels, not 3 parts"),
    "no images": ([], "a batch must be images"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_batch_is_refused(name: str) -> None:
    batch, said = BAD[name]
    with pytest.raises(ValueError, match=said):
        as_sample(batch, check=True)


@pytest.mark.filterwarnings(*OTHERS)
def test_pixels_out_of_range_end_a_fit_at_its_first_batch(tmp_path: Path) -> None:
    trainer = lightning.Trainer(max_epochs=1, enable_checkpointing=False, default_root_dir=tmp_path, **PLAIN)
    with pytest.raises(ValueError, match="pixels must lie in"):
        trainer.fit(make_task(), DataLoader(255 * IMAGES, batch_size=8))  # pyright: ignore[reportArgumentType]


@pytest.mark.filterwarnings(*OTHERS)
def test_a_plain_trainer_goes_on_bit_for_bit(tmp_path: Path) -> None:
    loader = DataLoader(TensorDataset(IMAGES, torch.zeros(48, dtype=torch.long)), batch_size=8)

    def fit(folder: str, epochs: int, checkpoint: Path | None = None) -> dict[str, Tensor]:
        keeper = ModelCheckpoint(tmp_path / folder, save_last=True)
        trainer = lightning.Trainer(max_epochs=epochs, callbacks=[keeper], default_root_dir=tmp_path, **PLAIN)
        task = make_task()
        trainer.fit(task, loader, ckpt_path=checkpoint, weights_only=True)
        return task.state_dict()

    whole = fit("whole", 3)
    fit("first", 2)
    resumed = fit("second", 3, tmp_path / "first" / "last.ckpt")
    assert all(weight.equal(resumed[name]) for name, weight in whole.items())


class Seeds(lightning.Callback):
    """Keeps what the generator of the noise was set from in each batch."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_before_backward(self, *_: object) -> None:
        self.seen.append(torch.initial_seed())


@pytest.mark.filterwarnings(*OTHERS)
def test_each_batch_of_each_epoch_and_process_has_noise_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seeds(rank: int) -> list[int]:
        monkeypatch.setattr(VAETask, "global_rank", property(lambda _: rank))
        watch = Seeds()
        options = PLAIN | {"enable_checkpointing": False, "default_root_dir": tmp_path}
        lightning.Trainer(max_epochs=3, callbacks=[watch], **options).fit(make_task(), DataLoader(IMAGES, batch_size=8))  # pyright: ignore[reportArgumentType]
        return watch.seen

    first, second = seeds(0), seeds(1)
    assert len(first) == 18
    assert len({*first, *second}) == 36
    assert seeds(0) == first


@pytest.mark.filterwarnings(*OTHERS)
def test_predictions_are_those_of_the_posterior_mean(tmp_path: Path) -> None:
    task = make_task()
    trainer = lightning.Trainer(default_root_dir=tmp_path, **PLAIN)
    parts: Any = trainer.predict(task, DataLoader(IMAGES, batch_size=16))  # pyright: ignore[reportArgumentType]
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    with torch.no_grad():
        posterior: Any = task.model.eval().posterior(IMAGES)
        expected = {
            "posterior_mean": posterior.mean,
            "posterior_log_sigma": posterior.log_sigma,
            "reconstruction": task.model.generative(posterior.mean).mean,
        }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings(*OTHERS)
def test_a_checkpoint_of_a_plain_trainer_wants_its_parts(tmp_path: Path) -> None:
    task = make_task()
    trainer = lightning.Trainer(max_epochs=1, enable_checkpointing=False, default_root_dir=tmp_path, **PLAIN)
    trainer.fit(task, DataLoader(IMAGES, batch_size=8))  # pyright: ignore[reportArgumentType]
    path = tmp_path / "mine.ckpt"
    trainer.save_checkpoint(path)
    with pytest.raises(ValueError, match="holds no config of a run; pass the model= and objective="):
        VAETask.load_from_checkpoint(path)
    loaded = VAETask.load_from_checkpoint(path, model=make_task().model, objective=ELBO(beta=1.0))
    assert all(weight.equal(task.state_dict()[name]) for name, weight in loaded.state_dict().items())
    with pytest.raises(ValueError, match="this task has no optimizer"):
        loaded.configure_optimizers()
    with pytest.raises(DataError, match="there is no checkpoint"):
        VAETask.load_from_checkpoint(tmp_path / "none.ckpt")
    path.write_bytes(b"no checkpoint")
    with pytest.raises(DataError, match="safe to read"):
        VAETask.load_from_checkpoint(path)


def test_a_checkpoint_of_a_run_is_built_from_its_config(trained: tuple[Path, dict[str, object]]) -> None:
    path = trained[0] / "checkpoints" / "best.ckpt"
    task = Task.load_from_checkpoint(path)
    assert isinstance(task, VAETask)
    model = load_model(trained[0]).state_dict()
    assert all(weight.equal(model[name]) for name, weight in task.model.state_dict().items())
    with pytest.raises(ValueError, match=r"holds a VAETask; call VAETask\.load_from_checkpoint"):
        VAEGANTask.load_from_checkpoint(path)
    stored = torch.load(path, weights_only=True)
    stored["hyper_parameters"]["task"]["_target_"] = "os.system"
    torch.save(stored, path.with_name("evil.ckpt"))
    with pytest.raises(ValueError, match=r"names 'os\.system' as task"):
        VAETask.load_from_checkpoint(path.with_name("evil.ckpt"))
    path.with_name("evil.ckpt").unlink()


def test_the_code_of_the_readme_runs(blobs_run: Path) -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block.replace("<run folder>", str(blobs_run)), "README.md", "exec"), names)
    assert names["new"].shape == (16, *names["images"].shape[1:])
    assert len(names["means"]) == len(names["found"].p_values) == len(names["images"])
