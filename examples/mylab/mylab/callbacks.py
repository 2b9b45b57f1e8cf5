"""A callback: anything that Lightning calls at its moments."""

from pathlib import Path

from lightning import Callback, Trainer

from vae_lab.training.tasks.task import Task


class WeightNorms(Callback):
    """Writes a row to weight_norms.csv at each validation: the norms of all weights of the encoder and the decoder.

    Args:
        folder: for the file.
    """

    def __init__(self, folder: str) -> None:
        self.path = Path(folder) / "weight_norms.csv"

    def on_validation_end(self, trainer: Trainer, pl_module: Task) -> None:
        """Append the row."""
        if not trainer.is_global_zero:
            return
        networks = (pl_module.model.encoder, pl_module.model.decoder)
        norms = [sum(float(p.square().sum()) for p in network.parameters()) ** 0.5 for network in networks]
        is_new = not self.path.exists()
        with self.path.open("a", encoding="utf-8") as file:
            file.write("encoder,decoder\n" if is_new else "")
            file.write(",".join(f"{norm:.6g}" for norm in norms) + "\n")
