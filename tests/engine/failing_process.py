"""train_net.py, whose process of rank 1 fails: ``FAULT=nan python -m tests.engine.failing_process ...``."""

import os
import signal
import time

from detectron2.engine import default_argument_parser
from detectron2.utils import comm

import train_net
from ohem_d2.engine import OHEMTrainer, launch_training


def run_step(self, _parents=OHEMTrainer.run_step):
    if self.iter == 2 and comm.get_rank() == 1:
        print(f"failed at {time.time()}", flush=True)
        if os.environ["FAULT"] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        self.model.module.backbone.register_forward_hook(
            lambda *args: {name: values * float("nan") for name, values in args[2].items()}
        )
    _parents(self)


OHEMTrainer.run_step = run_step  # here, so that processes that are spawned have it too

if __name__ == "__main__":
    launch_training(train_net.main, default_argument_parser().parse_args())
