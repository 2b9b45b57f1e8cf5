"""Run folders written by hand."""

import json
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

CONFIG: dict[str, Any] = {
    "model": {
        "_target_": "vae_lab.models.vae.VAE",
        "encoder": {"_target_": "vae_lab.models.mlp.MLPEncoder", "width": 512},
        "decoder": {"_target_": "vae_lab.models.mlp.MLPDecoder", "width": "${..encoder.width}"},
        "nlatent": 8,
    },
    "objective": {"_target_": "vae_lab.probability.objectives.ELBO", "beta": 1.0},
    "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.001},
    "schedule": {"max_lr": "${optimizer.lr}"},
    "task": {"model": "${model}", "seed": "${seed}"},
    "seed": 0,
    "folder": "${hydra:runtime.output_dir}",
}
IGNORED = ("seed", "task.seed", "folder")


def changed(**settings: Any) -> dict[str, Any]:
    """The config with other values; `model__nlatent=2` stands for model.nlatent."""
    config = json.loads(json.dumps(CONFIG))
    for name, value in settings.items():
        *path, last = name.split("__")
        node = config
        for key in path:
            node = node[key]
        node[last] = value
    return config


def make_run(
    folder: Path, score: float | None, status: str = "completed", reason: str = "", images: str = "a", **settings: Any
) -> Path:
    """Write a run whose test/neg_elbo is `score`, and its val/neg_elbo one below."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(changed(**settings), sort_keys=False))
    overrides = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    digests = {f"{part}_digest": f"{images}{part}" for part in ("train", "val", "test")}
    summary: dict[str, Any] = {"status": status, "seed": settings.get("seed", 0), "data": digests}
    summary |= {"seconds": {"total": 12.5}, "images_per_second": 3000.0}
    if reason:
        summary["reason"] = reason
    if score is not None:
        summary |= {"val/neg_elbo": score - 1, "test/neg_elbo": score, "test/rate": 10.0, "test/distortion": score - 10}
    (folder / "summary.json").write_text(json.dumps(summary))
    rows = "".join(f"{step},{1000 / step},{900 / step if step % 100 == 0 else ''}\n" for step in range(50, 501, 50))
    (folder / "metrics.csv").write_text(f"step,train/loss,val/neg_elbo\n{rows}")
    (folder / "figures").mkdir()
    for name in ("samples", "reconstructions"):
        Image.new("L", (400, 200), 128).save(folder / "figures" / f"{name}.png")
    return folder


def make_sweep(folder: Path) -> Path:
    """Write a sweep of two latent sizes, two rates and two seeds, and one run that diverged."""
    scores = iter([100.0, 102.0, 90.0, 91.0, 120.0, 124.0, 110.0, 111.0])
    for nlatent in (2, 8):
        for lr in (0.001, 0.01):
            for seed in (0, 1):
                name = f"{nlatent}-{lr}-{seed}"
                make_run(folder / name, next(scores), model__nlatent=nlatent, optimizer__lr=lr, seed=seed)
    make_run(folder / "bad", None, "diverged", "the loss is nan", model__nlatent=8, optimizer__lr=1e6, seed=0)
    return folder
