"""The MLflow logger, with a store in the run folder by default."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import MLFlowLogger

from vae_lab.training.loggers import naming

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]


class MLflow(MLFlowLogger):
    """Lightning's MLflow logger; by default, its database and figures are in the run folder.

    Lightning's default is MLflow's file store, which MLflow has deprecated. Messages of both that a new experiment is
    created are filtered.

    Args:
        tracking_uri: address of a server or database; None is an SQLite database in the run folder.
        run_name: name of the run; None is the end of its folder's path.
        labels: the run's tags, joined by commas in MLflow's tag `tags`.
        notes: MLflow's description of the run.
        folder: the run folder.
        settings: any other argument of Lightning's MLFlowLogger.
    """

    def __init__(
        self,
        *,
        tracking_uri: str | None,
        run_name: str | None,
        folder: str,
        labels: Sequence[object] = (),
        notes: str | None = None,
        **settings: Any,
    ) -> None:
        if tracking_uri is None:
            store = Path(folder).absolute() / "mlflow"
            if {"?", "%"} & set(str(store)):  # special characters in the address of a database
                raise ValueError(
                    f"folder={folder}: MLflow's database cannot be below a folder with ? or % in its name; choose"
                    " another folder, or set logger.mlflow.tracking_uri to a server."
                )
            store.mkdir(parents=True, exist_ok=True)
            tracking_uri = f"sqlite:///{store / 'mlflow.db'}"
            settings = {"artifact_location": (store / "artifacts").as_uri()} | settings
        for name in ("mlflow", "lightning.pytorch.loggers.mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)
        described = {"tags": ", ".join(map(str, labels)), "mlflow.note.content": notes}
        settings["tags"] = {key: text for key, text in described.items() if text} | (settings.get("tags") or {})
        super().__init__(tracking_uri=tracking_uri, run_name=run_name or naming.run_name(folder), **settings)

    @property
    def experiment(self) -> "MlflowClient":
        """MLflow's client; MLFLOW_TRACKING_URI is unset again if Lightning sets it.

        The next run in this process would read the variable.
        """
        before = os.environ.get("MLFLOW_TRACKING_URI")
        try:
            return super().experiment
        finally:
            if before is None:
                os.environ.pop("MLFLOW_TRACKING_URI", None)
