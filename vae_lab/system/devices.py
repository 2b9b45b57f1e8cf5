"""Choice of the device, and of the precision: bfloat16 if the hardware supports it, else float32."""

import torch

PRECISIONS = ("auto", "bf16-mixed", "32-true")


def choose_device(device: str) -> torch.device:
    """Return the torch device that a setting names; "auto" is the GPU if one is available, else the CPU.

    Raises:
        ValueError: if the device cannot be used.
    """
    try:
        chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        if chosen.type not in ("cpu", "cuda"):
            raise ValueError(f"device={device}: choose auto, cpu or cuda.")
        return torch.empty(0, device=chosen).device
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"device={device} cannot be used here; choose auto or cpu.") from error


def fastest_precision(accelerator: str) -> str:
    """Return "bf16-mixed" if the accelerator has bfloat16 arithmetic, else "32-true"."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = accelerator in ("auto", "cpu") and torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001
    return "bf16-mixed" if fast else "32-true"


def arithmetic(precision: str, device: str) -> torch.autocast:
    """Return the autocast context for a precision in `PRECISIONS`, on the device "cpu" or "cuda"."""
    chosen = fastest_precision(device) if precision == "auto" else precision
    return torch.autocast(device, torch.bfloat16, enabled=chosen == "bf16-mixed")
