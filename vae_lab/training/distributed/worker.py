"""One process of a run on several devices: `python -m vae_lab.training.distributed.worker <folder>`.

`vae_lab.training.distributed.launch` starts it.
"""

import json
import logging.config
import signal
import sys
from pathlib import Path

from omegaconf import DictConfig

from vae_lab.errors import Interrupted
from vae_lab.system.processes import end_with_parent, ranks
from vae_lab.training.distributed import failures


def main(path: str) -> int:
    """Train with the settings in a folder's settings.json, and return the exit code; report a failure in the folder."""
    end_with_parent(signal.SIGKILL)  # a process that resumes this run must not find it running
    settings = json.loads((Path(path) / "settings.json").read_text(encoding="utf-8"))
    if settings["logging"] is not None and ranks().rank == 0:
        logging.config.dictConfig(settings["logging"])
    from vae_lab.training.callbacks.error_report import ReportError
    from vae_lab.training.run import train_run, translate_error

    def report(error: BaseException) -> int:
        return failures.write_report(Path(path), ranks().rank, translate_error(error))

    try:
        train_run(DictConfig(settings["config"]), [ReportError(report)], settings["facts"])
    except (Exception, KeyboardInterrupt, Interrupted) as error:
        return report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
