"""The MLflow logger, with a store in the run folder by default."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import MLFlowLogger

from vae_lab.training.loggers import naming

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]


class MLflow(MLFlowLogger):
    """Lightning's MLflow logger, with a database and pictures in the run folder where no server is named.

    Lightning's own default is MLflow's store of plain files, which MLflow has deprecated.

    Both tell at each start that an experiment is made, which is no warning where the store is new; that is left out.

    Args:
        tracking_uri: of a server or database; None is an SQLite database in the run folder.
        run_name: of the run; None is the end of its folder's path.
        folder: the run folder.
        settings: any other argument of Lightning's MLFlowLogger.
    """

    def __init__(self, *, tracking_uri: str | None, run_name: str | None, folder: str, **settings: Any) -> None:
        if tracking_uri is None:
            store = Path(folder).absolute() / "mlflow"
            if {"?", "%"} & set(str(store)):  # which mean something in the address of a database
                raise ValueError(
                    f"folder={folder}: MLflow's database cannot lie below a folder with ? or % in its name; choose"
                    " another folder, or name a server by logger.mlflow.tracking_uri."
                )
            store.mkdir(parents=True, exist_ok=True)
            tracking_uri = f"sqlite:///{store / 'mlflow.db'}"
            settings = {"artifact_location": (store / "artifacts").as_uri()} | settings
        for name in ("mlflow", "lightning.pytorch.loggers.mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)
        super().__init__(tracking_uri=tracking_uri, run_name=run_name or naming.run_name(folder), **settings)

    @property
    def experiment(self) -> "MlflowClient":
        """MLflow's client; Lightning leaves its address in the environment, which the next run would read."""
        before = os.environ.get("MLFLOW_TRACKING_URI")
        try:
            return super().experiment
        finally:
            if before is None:
                os.environ.pop("MLFLOW_TRACKING_URI", None)
