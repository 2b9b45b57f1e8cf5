"""`python -m vae_lab.training.distributed.worker <folder>`: one process of a run on several devices.

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
    """Train as the folder's file says and return the exit code; why it failed, if it did, lies in the folder then."""
    end_with_parent(signal.SIGKILL)  # whoever goes on with this run must not meet it at work
    told = json.loads((Path(path) / "told.json").read_text(encoding="utf-8"))
    if told["logging"] is not None and ranks().rank == 0:
        logging.config.dictConfig(told["logging"])
    from vae_lab.training.callbacks.last_words import TellError
    from vae_lab.training.run import lost, train_run

    def leave(error: BaseException) -> int:
        return failures.write_report(Path(path), ranks().rank, lost(error))

    try:
        train_run(DictConfig(told["config"]), [TellError(leave)], told["facts"])
    except (Exception, KeyboardInterrupt, Interrupted) as error:
        return leave(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
