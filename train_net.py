#!/usr/bin/env python
"""Train or evaluate a detector: Detectron2's usual command line.

    python train_net.py --config-file configs/BCCD/fast_rcnn_ohem.yaml [--num-gpus N] [KEY VALUE ...]
    python train_net.py --config-file FILE --eval-only MODEL.WEIGHTS output/model_final.pth
    python train_net.py --config-file configs/lazy/demo_faster_rcnn_ohem.py [KEY=VALUE ...]

    torchrun --nnodes 2 --nproc-per-node 8 ... train_net.py --config-file FILE       (or under SLURM's srun)

A config that ends in .py is a LazyConfig; its weights are train.init_checkpoint.

SIGTERM, SIGUSR1 and SIGINT stop a training after its iteration, with a checkpoint and exit code 75: the same
command with --resume goes on as if it had not stopped. A second signal stops at once.
"""

import logging
import sys
from contextlib import ExitStack
from pathlib import Path

import ohem_d2  # noqa: F401 (before Detectron2, whose FutureWarnings it keeps off the console)

# isort: split
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ohem_d2.engine import LazyTrainer, OHEMTrainer, launch_training, load_config, load_lazy_config
from ohem_d2.engine.base_trainer import set_aside
from ohem_d2.utils.files import remove_unfinished
from ohem_d2.utils.locks import hold_lock
from ohem_d2.utils.logs import held_records, keep_tracebacks_off_console
from ohem_d2.utils.messages import describe_error

logger = logging.getLogger("ohem_d2.train_net")


def main(args):
    with ExitStack() as stack:
        return run(args, stack)


def run(args, stack: ExitStack):
    """Train or evaluate; `stack` keeps other runs out of the output folder of a training.

    An error is one line on the console; its traceback is in the log file.
    """
    if not args.config_file and not args.opts:
        sys.exit("--config-file is missing")
    has_log = False
    try:
        with held_records("ohem_d2") as records:  # the config says where the log file is
            if args.config_file.endswith(".py"):
                trainer_class, cfg = LazyTrainer, load_lazy_config(args.config_file, args.opts)
                output_dir, device = cfg.train.output_dir, cfg.train.device
            else:
                trainer_class, cfg = OHEMTrainer, load_config(args.config_file, args.opts)
                output_dir, device = cfg.OUTPUT_DIR, cfg.MODEL.DEVICE
        if not args.eval_only and comm.is_main_process():
            stack.enter_context(
                hold_lock(Path(output_dir) / "training.lock", f"the output folder {output_dir}")
            )
            remove_unfinished(output_dir)
            if getattr(args, "may_restart", False) and not args.resume:
                set_aside(output_dir)  # early: what is started again must not resume the run before
        default_setup(cfg, args)
        setup_logger(output_dir, distributed_rank=comm.get_rank(), name="ohem_d2")
        has_log = True
        keep_tracebacks_off_console(["detectron2", "fvcore", "ohem_d2"])
        for record in records:
            logger.handle(record)
        logger.info("Running on %s", device)
        if args.eval_only:
            return trainer_class.test(cfg, trainer_class.build_trained_model(cfg, resume=args.resume))
        trainer = trainer_class(cfg)
        trainer.resume_or_load(resume=args.resume)
    except (KeyError, ValueError, OSError) as error:
        logger.debug("The error arose here:", exc_info=True)
        sys.exit(describe_error(error))
    except Exception as error:  # of Detectron2 or PyTorch, or a Python config of the user's
        if not has_log:
            raise
        logger.debug("The error arose here:", exc_info=True)
        sys.exit(f"{describe_error(error)} (see {output_dir}/log.txt)")
    try:
        return trainer.train()
    except Exception as error:  # Detectron2 has logged it
        rank = comm.get_rank()
        sys.exit(f"{describe_error(error)} (see {output_dir}/log.txt{f'.rank{rank}' if rank else ''})")


if __name__ == "__main__":
    launch_training(main, default_argument_parser().parse_args())
