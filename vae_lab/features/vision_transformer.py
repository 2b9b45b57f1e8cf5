"""DINOv2's vision transformers, with weights from a local file."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from vae_lab.features.weights import INSTALL

SIZES = {384: "small", 768: "base", 1024: "large", 1536: "giant"}


def load_dinov2(weights: Path, image_size: int) -> Any:  # noqa: ANN401
    """Return timm's network without its classes, frozen, with the weights published by Oquab et al. 2024.

    It maps normalised images to the features at the class token, and has the attribute `num_features`.

    Args:
        weights: a state dict of ViT-S, -B, -L or -g with patches of 14 pixels, with or without registers.
        image_size: of the images in pixels, a multiple of 14, to which the embedding of positions is interpolated.

    Raises:
        ValueError: if timm is not installed, or the file holds another network.
    """
    if find_spec("timm") is None:
        raise ValueError(f"{weights} needs timm: {INSTALL}.")
    import timm

    state = torch.load(weights, map_location="meta", weights_only=True)
    nfeatures = state["pos_embed"].shape[-1]
    if nfeatures not in SIZES:
        raise ValueError(f"{weights}: {nfeatures} features is no size of DINOv2; name a file that its authors publish.")
    name = f"vit_{SIZES[nfeatures]}_patch14{'_reg4' if 'register_tokens' in state else ''}_dinov2"
    own = {"file": str(weights), "hf_hub_id": None, "url": None}
    network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=own, num_classes=0, img_size=image_size)
    return network.eval().requires_grad_(requires_grad=False)
