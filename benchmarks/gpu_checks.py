"""What must hold on a GPU: functions of a device and an empty folder, each of which returns what it saw.

tests/test_gpu.py runs them under pytest, and benchmarks/gpu.py before its timings. Each raises AssertionError where
something does not hold, and works on a processor too, as far as it goes.
"""

import contextlib
import importlib
import importlib.util
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning import Callback, LightningModule, Trainer
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.step import config
from vae_lab.cli import entry
from vae_lab.features.weights import NETWORKS, is_available
from vae_lab.latents.encoding import encode_images
from vae_lab.runs.load import load_data, load_model
from vae_lab.training.callbacks.stopping import reached_limit
from vae_lab.training.run import train_run

# torch looks at it once, at the process's first matrix product, and without it refuses trainer.deterministic=true later
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

Facts = dict[str, Any]
Check = Callable[[str, Path], Facts]

RUN = ("data=digits", "logger=none", "trainer.enable_progress_bar=false")
BARE = ("callbacks.gallery=null", "callbacks.latents=null", "callbacks.improvement=null")


def trained(device: str, folder: Path, *overrides: str, watchers: list[Callback] | None = None) -> Facts:
    """Return the summary of a run trained on a device."""
    accelerator = f"trainer.accelerator={'gpu' if device == 'cuda' else device}"
    return train_run(config(*RUN, accelerator, f"folder={folder}", *overrides), watchers=watchers or [])


class Messages(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.lines.append(record.getMessage())


def call(name: str, *arguments: str) -> None:
    """Run a command in this process, as a shell would, and check that it ends with code 0."""
    main = importlib.import_module(f"vae_lab.{name}").main
    handlers, messages = list(logging.getLogger().handlers), Messages()
    before, sys.argv = sys.argv, [name, *arguments]
    logging.getLogger("vae_lab").addHandler(messages)
    try:
        code = entry.run(main.__wrapped__, name)
    finally:
        sys.argv = before
        logging.getLogger("vae_lab").removeHandler(messages)
        for handler in set(logging.getLogger().handlers) - set(handlers):
            handler.close()
        logging.getLogger().handlers[:] = handlers
    assert code == 0, f"{name} ended with code {code}: {' '.join(messages.lines)[-2000:]}"


def check_commands(device: str, folder: Path) -> Facts:
    """Train, evaluate, generate, detect and report, each by its command; report only where plotly is."""
    run, pictures = folder / "runs" / "run", folder / "pictures"
    steps = 300 if device == "cuda" else 20
    accelerator = "gpu" if device == "cuda" else device
    call("train", *RUN, f"trainer.accelerator={accelerator}", f"trainer.max_steps={steps}", f"folder={run}")
    amounts = ("nsamples=20", "nll_images=40", "ngenerated=180", "ngroups=2", "nreplicates=10", "nreference=100", "k=3")
    call("evaluate", f"run={run}", f"device={device}", "features=vgg", *amounts)
    call("generate", f"run={run}", "n=16", f"out={folder / 'samples.png'}")
    pictures.mkdir()
    for i, pixels in enumerate(load_data(run).splits.test.pixels(slice(8))):
        Image.fromarray(pixels[0].numpy()).save(pictures / f"{i}.png")
    call("detect", f"run={run}", f"images={pictures}", f"out={folder / 'scores.csv'}", "ncalibration=100", "nshown=8")
    plotly = importlib.util.find_spec("plotly") is not None
    if plotly:
        call("report", f"runs={run.parent}")
    promised = [run / "evaluation-test.html", folder / "samples.png", folder / "scores.csv"]
    missing = [path.name for path in promised if not path.is_file()]
    assert not missing, f"{', '.join(missing)} was not written"
    done = ["train", "evaluate", "generate", "detect", *(["report"] if plotly else [])]
    return {"done": done, "skipped": [] if plotly else ["report: plotly is not installed"]}


class Forbidden(TorchDispatchMode):
    """Raises RuntimeError where the processor looks at a number: what a GPU would be waited for, told without one."""

    aten = torch.ops.aten
    looks: ClassVar[set[Any]] = {
        aten._local_scalar_dense.default,  # noqa: SLF001
        aten.nonzero.default,
        aten.masked_select.default,
        aten.equal.default,
    }

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Return what the function returns, unless its result decides what the processor does next."""
        masks = args[1] if func is torch.ops.aten.index.Tensor else ()
        if func in self.looks or any(mask is not None and mask.dtype == torch.bool for mask in masks):
            raise RuntimeError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


class NoWaiting(Callback):
    """Makes an error of each wait for the device between the ends of two batches, of which none is logged.

    So the making of batches and all callbacks are in it. The first steps allocate, and are left out.

    Attributes:
        nsteps: batches in which a wait would have been an error.
    """

    def __init__(self) -> None:
        self.nsteps = 0
        self.mode: Forbidden | None = None
        self.held = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Hold on until the end of this batch if it is not logged."""
        self.hold_if_quiet(trainer, pl_module.device)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Let go, and hold on until the end of the next batch; Lightning writes down a logged one after this."""
        self.nsteps += self.held
        self.let_go(pl_module.device)
        if trainer.global_step % self.interval(trainer):
            self.hold_if_quiet(trainer, pl_module.device)

    def hold_if_quiet(self, trainer: Trainer, device: torch.device) -> None:
        """Make waits an error if the batch after those that were trained on is not logged, as the last one is."""
        ahead = trainer.global_step + 1
        if not self.held and ahead > 3 and ahead % self.interval(trainer) and reached_limit(trainer) is None:
            self.hold(device)

    def interval(self, trainer: Trainer) -> int:
        """Return the steps between two that are logged."""
        return trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go."""
        self.let_go(pl_module.device)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go."""
        self.let_go(pl_module.device)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go."""
        self.let_go(pl_module.device)

    def hold(self, device: torch.device) -> None:
        """Make waits an error."""
        self.held = True
        if device.type == "cuda":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns that it does not know every wait
                torch.cuda.set_sync_debug_mode("error")
        else:
            self.mode = Forbidden()
            self.mode.__enter__()

    def let_go(self, device: torch.device) -> None:
        """Allow waits again."""
        self.held = False
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
        elif self.mode is not None:
            self.mode.__exit__(None, None, None)
            self.mode = None


AUGMENTED = ("data.augment.flip=true", "data.augment.shift=2")
DRAWN = ("data.binarize=dynamic", "likelihood=bernoulli")
PARTS = {
    "mlp": ("model=mlp",),
    "resnet": ("model=resnet_fast", "data.image_size=32"),
    "ladder": ("model=ladder_mlp",),
    "vamp": ("prior=vamp",),
    "logistic": ("likelihood=logistic",),
    "logistic_mixture": ("likelihood=logistic_mixture",),
    "sigma_vae": ("likelihood=sigma_vae",),
    "free_bits": ("objective=free_bits",),
    "iwae": ("objective=iwae",),
    "dreg": ("objective=dreg",),
    "warmup": ("objective=elbo_warmup",),
    "rae": ("objective=rae_l2",),
    "cyclical": ("objective=elbo_cyclical",),
    "adamw": ("optimizer=adamw", "schedule=cosine"),
    "clipped": ("trainer.gradient_clip_val=1.0", "trainer.accumulate_grad_batches=2", "trainer.precision=32-true"),
}
ON_A_GPU = {
    "conditional": ("model.nclasses=10",),
    "sgd": ("optimizer=sgd",),
    "muon": ("optimizer=muon", "model=mlp"),
    "compiled": ("compile=true",),
}
"""What looks at CPU tensors alone, which no GPU is waited for, and what is for a GPU alone."""


def waited(device: str, folder: Path, *overrides: str) -> int:
    """Return the batches of a short run in which nothing waited for the device; the run ends where something does."""
    watch = NoWaiting()
    length = ("trainer.max_steps=50", "trainer.val_check_interval=50", "trainer.log_every_n_steps=10")
    trained(device, folder, *length, *BARE, *overrides, watchers=[watch])
    assert watch.nsteps > 10, f"only {watch.nsteps} batches were looked at"
    return watch.nsteps


def check_no_waiting(device: str, folder: Path) -> Facts:
    """Train the default model augmented, and by draws made on the processor, in both precisions, without a wait."""
    seen: Facts = {}
    for precision in ("32-true", "bf16-mixed"):
        seen[precision] = waited(device, folder / precision, f"trainer.precision={precision}", *AUGMENTED)
    if device == "cuda":
        seen["drawn anew"] = waited(device, folder / "drawn", *DRAWN)
    return {"batches": seen}


def check_no_waiting_of_parts(device: str, folder: Path) -> Facts:
    """Train with each other network, likelihood, objective and optimizer without a wait for the device."""
    cases = PARTS | (ON_A_GPU if device == "cuda" else {})
    return {"batches": {name: waited(device, folder / name, *settings) for name, settings in cases.items()}}


@contextlib.contextmanager
def nondeterministic_afterwards() -> Any:  # noqa: ANN401
    """Take back what `trainer.deterministic` sets for the whole process."""
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=False)


def checkpoint(folder: Path) -> Facts:
    """Return the content of a run's last checkpoint."""
    return torch.load(folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)


def difference(first: Any, second: Any) -> str | None:  # noqa: ANN401
    """Return where two nested values differ, by the keys that lead there; None if they are equal, bit for bit."""
    if isinstance(first, torch.Tensor):
        return None if torch.equal(first, second) else ""
    if isinstance(first, dict | list | tuple):
        keys = first.keys() if isinstance(first, dict) else range(len(first))
        if len(first) != len(second):
            return ""
        found = {key: difference(first[key], second[key]) for key in keys}
        return next((f"{key}.{inner}" for key, inner in found.items() if inner is not None), None)
    return None if first == second else ""


def require_resumable(device: str, at: Path, settings: tuple[str, ...], steps: int, total: int) -> None:
    """Train `total` steps at once and with an interruption after `steps`, and find the same weights, bit for bit."""
    trained(device, at / "whole", *settings, f"trainer.max_steps={total}")
    trained(device, at / "half", *settings, f"trainer.max_steps={steps}")
    trained(device, at / "rest", *settings, f"trainer.max_steps={total}", f"resume={at / 'half'}")
    whole, rest = checkpoint(at / "whole"), checkpoint(at / "rest")
    for part in ("state_dict", "optimizer_states"):
        where = difference(whole[part], rest[part])
        assert where is None, f"{at.name}, resumed after {steps} of {total} steps: {part} differs at {where}"


def check_resume(device: str, folder: Path) -> Facts:
    """Go on in the middle of an epoch, and end with the weights of a run that was not interrupted, bit for bit."""
    common = ("trainer.deterministic=true", "trainer.val_check_interval=5", *BARE)
    with nondeterministic_afterwards():
        for precision in ("32-true", "bf16-mixed"):
            require_resumable(device, folder / precision, (*common, f"trainer.precision={precision}"), 5, 10)
    return {"steps": [5, 10]}


STAGED = (
    "task=staged_vaegan",
    "model=fastgan",
    "likelihood=mse",
    "data.image_size=32",
    "data.channels=3",
    "data.batch_size=16",
    "task.stages.decoder.steps=4",
    "task.stages.encoder.steps=4",
    "task.stages.joint.warmup=1",
    "task.guard.every=2",
    "callbacks.quality.nsamples=16",
)


def check_staged(device: str, folder: Path) -> Facts:
    """Train in three stages against pretrained features, resumed in the last one, bit for bit."""
    if not all(is_available(name) for name in NETWORKS):
        return {"skipped": "timm or the weights of the extra pretrained are not installed"}
    # a rate that falls until the end of training would depend on where the first part ends
    resumed = (*STAGED, "trainer.deterministic=true", "task.stages.joint.decay=false", *BARE)
    with nondeterministic_afterwards():
        require_resumable(device, folder / "staged", resumed, 10, 12)
    return {"steps": [10, 12]}


def check_precisions(device: str, folder: Path) -> Facts:
    """Train in half precision, with losses that fall."""
    names = ("bf16-mixed", "16-mixed") if device == "cuda" else ("bf16-mixed",)
    seen: Facts = {}
    for name in names:
        length = ("trainer.max_steps=60", "trainer.val_check_interval=60")
        summary = trained(device, folder / name, f"trainer.precision={name}", *length)
        before, after = summary["improvement"]["before"], summary["improvement"]["after"]
        assert summary["precision"] == name, f"asked for {name}, trained in {summary['precision']}"
        assert after < before, f"{name}: the loss went from {before} to {after}"
        seen[name] = {"before": before, "after": after}
    return {"loss": seen, "skipped": [] if device == "cuda" else ["16-mixed: Lightning has it on a GPU alone"]}


def check_reading_on_a_processor(device: str, folder: Path) -> Facts:
    """Read a run of the device in a process that sees no GPU, and find the same posterior means there."""
    run = folder / "run"
    trained(device, run, "trainer.max_steps=20", "trainer.val_check_interval=20", *BARE)
    command = [sys.executable, "-m", "vae_lab.generate", f"run={run}", "n=4", f"out={folder / 'samples.png'}"]
    done = subprocess.run(  # noqa: S603
        command, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"generate without a GPU ended with code {done.returncode}: {done.stderr[-2000:]}"
    images = load_data(run).splits.test.pixels(slice(64))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        means = [encode_images(load_model(run).to(where), images) for where in ("cpu", device)]
    apart = float((means[0] - means[1]).abs().max())
    assert apart < 1e-3, f"posterior means differ by {apart}"
    return {"largest_difference": apart}


class Losses(Callback):
    """Keeps the losses of training batches."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Facts, *_: object) -> None:
        """Keep a loss."""
        self.seen.append(float(outputs["loss"]))


def losses_and_keys(device: str, folder: Path, *settings: str) -> tuple[list[float], list[str]]:
    """Return the losses of a few batches, and the keys of the checkpoint."""
    losses = Losses()
    length = ("trainer.deterministic=true", "trainer.max_steps=8", "trainer.val_check_interval=4", *BARE)
    trained(device, folder, *length, *settings, watchers=[losses])
    return losses.seen, list(checkpoint(folder)["state_dict"])


def compare_compiled(device: str, folder: Path, *settings: str) -> Facts:
    """Train with and without `compile`, on a GPU as CUDA graphs, and find the same losses and keys."""
    choices = ("false", "eager", "true") if device == "cuda" else ("false", "eager")
    with nondeterministic_afterwards():
        seen = {one: losses_and_keys(device, folder / one, *settings, f"compile={one}") for one in choices}
    for choice, found in seen.items():
        assert found == seen["false"], f"{choice}: losses {seen['false'][0]} became {found[0]}, or the keys changed"
    return {"compile": list(choices), "losses": seen["false"][0]}


def check_compiled(device: str, folder: Path) -> Facts:
    """Train a VAE with and without `compile`, and find the same losses and keys."""
    return compare_compiled(device, folder)


def check_compiled_gan(device: str, folder: Path) -> Facts:
    """Train a VAE-GAN, whose losses are derived through one pass, with and without `compile`."""
    return compare_compiled(device, folder, "task=vaegan", "task.warmup=1")


CHECKS: dict[str, Check] = {
    "commands": check_commands,
    "no_waiting": check_no_waiting,
    "resume": check_resume,
    "precisions": check_precisions,
    "reading_on_a_processor": check_reading_on_a_processor,
    "compiled": check_compiled,
    "compiled_gan": check_compiled_gan,
    "staged": check_staged,
    "no_waiting_of_parts": check_no_waiting_of_parts,
}
"""The most important first."""
