"""Two processes on CPU (gloo) against one."""

import copy
import os
import signal
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine import defaults
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from ohem_d2.engine import OHEMTrainer, load_config
from ohem_d2.engine.accumulation import AccumulatingTrainer

from ..builders import random_boxes, tiny_cfg
from ..toy import toy_options, write_toy

SMALL_RCNN = (
    "MODEL.BACKBONE.NAME", "build_resnet_backbone",
    "MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64",
    "MODEL.RESNETS.OUT_FEATURES", "['res3']", "MODEL.ROI_HEADS.IN_FEATURES", "['res3']",
    "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals", "MODEL.LOAD_PROPOSALS", "True",
    "MODEL.PIXEL_STD", "[57.0, 57.0, 57.0]",
)  # fmt: skip
STEPS = 3


def batch(step, image, num_proposals=60, num_objects=2):
    seed = 100 * step + 10 * image
    generator = torch.Generator().manual_seed(seed)
    instances = Instances((64, 64), gt_boxes=random_boxes(num_objects, seed=seed))
    instances.gt_classes = torch.arange(num_objects) % 3
    proposals = Instances((64, 64), proposal_boxes=random_boxes(num_proposals, seed=seed + 1))
    proposals.objectness_logits = torch.zeros(num_proposals)
    pixels = torch.randint(0, 255, (3, 64, 64), generator=generator).float()
    return {"image": pixels, "instances": instances, "proposals": proposals, "height": 64, "width": 64}


def new_model(*opts):
    torch.manual_seed(0)
    return build_model(tiny_cfg(*SMALL_RCNN, *opts)).train()


def train(model, batches):
    """Three steps of SGD; returns the losses and the boxes that were trained on, step by step."""
    heads = getattr(model, "module", model).roi_heads
    losses, selected = [], []
    heads._forward_box_of_parent = heads._forward_box
    heads._forward_box = lambda f, p: (
        selected.append([x.proposal_boxes.tensor.clone() for x in p]) or (heads._forward_box_of_parent(f, p))
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    with EventStorage():
        for inputs in batches:
            loss = sum(model(copy.deepcopy(inputs)).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    weights = {name: value.clone() for name, value in getattr(model, "module", model).state_dict().items()}
    return {"losses": losses, "selected": selected, "weights": weights}


def worker(rank, function, folder):
    os.environ.update(OMP_NUM_THREADS="1")
    dist.init_process_group(
        "gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(2)
    else:
        comm._LOCAL_PROCESS_GROUP = dist.group.WORLD
    torch.save(function(rank), f"{folder}/{rank}.pth")
    # Not by the interpreter's shutdown, in which a thread of Gloo that frees what was gathered can abort.
    os._exit(0)


def in_two_processes(function, folder):
    mp.spawn(worker, (function, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pth", weights_only=False) for rank in range(2)]


def one_image_each(rank):
    model = DistributedDataParallel(new_model())
    return train(model, [[batch(step, rank)] for step in range(STEPS)])


@pytest.mark.slow
def test_two_processes_train_as_one_does_over_the_same_images(tmp_path):
    two = in_two_processes(one_image_each, tmp_path)
    one = train(new_model(), [[batch(step, 0), batch(step, 1)] for step in range(STEPS)])
    for step in range(STEPS):
        mean = (two[0]["losses"][step] + two[1]["losses"][step]) / 2
        assert mean == pytest.approx(one["losses"][step], rel=1e-5)
        for image in range(2):
            (ours,), theirs = two[image]["selected"][step], one["selected"][step][image]
            assert len(ours) == 8
            assert sorted(ours.tolist()) == sorted(theirs.tolist())
    for name, value in one["weights"].items():
        for rank in range(2):
            torch.testing.assert_close(two[rank]["weights"][name], value, rtol=1e-4, atol=1e-6)


def two_batches_an_iteration(rank):
    model = DistributedDataParallel(new_model())
    loader = [[batch(step, rank)] for step in range(2 * STEPS)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    trainer = AccumulatingTrainer(model, loader, optimizer, num_batches=2, amp=False)
    with EventStorage():
        for trainer.iter in range(STEPS):
            trainer.run_step()
    return {"weights": model.module.state_dict()}


@pytest.mark.slow
def test_accumulation_in_two_processes_trains_as_one_process_on_all_the_images(tmp_path):
    two = in_two_processes(two_batches_an_iteration, tmp_path)
    batches = [[batch(2 * step + i, image) for i in range(2) for image in range(2)] for step in range(STEPS)]
    one = train(new_model(), batches)
    for name, value in one["weights"].items():
        for rank in range(2):
            torch.testing.assert_close(two[rank]["weights"][name], value, rtol=1e-4, atol=1e-6)


def one_rank_without_foreground(rank):
    model = DistributedDataParallel(new_model())
    kinds = [{"num_objects": 0}, {"num_proposals": 0, "num_objects": 0}, {"num_proposals": 0}]
    return train(model, [[batch(step, rank, **(kinds[step] if rank else {}))] for step in range(STEPS)])


@pytest.mark.slow
def test_a_rank_without_foreground_or_proposals_leaves_no_parameter_unused(tmp_path):
    two = in_two_processes(one_rank_without_foreground, tmp_path)
    for name, value in two[0]["weights"].items():
        torch.testing.assert_close(two[1]["weights"][name], value)
        assert value.isfinite().all()


def synchronised_head(rank):
    opts = (
        "MODEL.ROI_BOX_HEAD.NORM",
        "naiveSyncBN",
        "MODEL.ROI_BOX_HEAD.NUM_CONV",
        "1",
        "MODEL.ROI_BOX_HEAD.CONV_DIM",
        "8",
    )
    model = DistributedDataParallel(
        new_model(*opts, "MODEL.OHEM.READONLY_CHUNK", "7"), broadcast_buffers=False
    )
    return train(model, [[batch(step, rank, num_proposals=20 + 40 * rank)] for step in range(STEPS)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_synchronised_norm_does_not_hang_with_different_numbers_of_rois(tmp_path):
    two = in_two_processes(synchronised_head, tmp_path)  # chunks of 7: 4 on one rank, 9 on the other
    assert all(torch.isfinite(torch.tensor(rank["losses"])).all() for rank in two)
    for name, value in two[0]["weights"].items():
        torch.testing.assert_close(two[1]["weights"][name], value)


def stopped_and_resumed(rank):
    """Weights of a run that a signal to the second process stopped, and of one that was never stopped."""
    folder = Path(os.environ["TOY"])
    create_ddp_model = defaults.create_ddp_model
    defaults.create_ddp_model = partial(create_ddp_model, device_ids=None)  # on the CPU

    def trainer(output, resume=False):
        options = [*toy_options(folder), "SEED", "3", "OUTPUT_DIR", str(folder / output)]
        torch.manual_seed(0)
        built = OHEMTrainer(load_config("configs/Base-FastRCNN-small.yaml", options))
        built.resume_or_load(resume=resume)
        return built

    stopped, whole = trainer("stopped"), trainer("whole")
    step = stopped.run_step

    def signalled():
        step()
        if rank == 1 and stopped.iter == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped.run_step = signalled
    with pytest.raises(SystemExit):
        stopped.train()
    comm.synchronize()
    resumed = trainer("stopped", resume=True)
    for one in (resumed, whole):
        one.train()
    return {"start": resumed.start_iter, "weights": [x.model.module.state_dict() for x in (resumed, whole)]}


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_as_if_they_had_not(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY", str(tmp_path))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_toy(tmp_path)
    for rank, two in enumerate(in_two_processes(stopped_and_resumed, tmp_path)):
        assert two["start"] == 4  # the iteration after that of the signal is the last
        resumed, whole = two["weights"]
        differ = [name for name in whole if not torch.equal(resumed[name], whole[name])]
        # A checkpoint has the running statistics of the first process.
        assert [name for name in differ if rank == 0 or "running_" not in name] == []
