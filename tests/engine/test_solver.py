"""The solver of the paper, from the base configs."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer

from ohem_d2.engine import load_config


@pytest.fixture(params=["VGG16", "VGG_CNN_M_1024"])
def solver(request, tmp_path):
    opts = ["MODEL.DEVICE", "meta", "MODEL.WEIGHTS", "", "OUTPUT_DIR", str(tmp_path)]
    cfg = load_config(f"configs/Base-FastRCNN-{request.param}.yaml", opts)
    model = build_model(cfg)
    return cfg, model, build_optimizer(cfg, model)


def test_biases_learn_twice_as_fast_and_do_not_decay(solver):
    cfg, model, optimizer = solver
    assert isinstance(optimizer, torch.optim.SGD) and cfg.SOLVER.IMS_PER_BATCH == 2
    names = {p: name for name, p in model.named_parameters()}
    seen = {}
    for group in optimizer.param_groups:
        assert (group["momentum"], group["nesterov"], group["dampening"]) == (0.9, False, 0)
        for p in group["params"]:
            kind = names[p].rsplit(".", 1)[1]
            assert seen.setdefault(kind, (group["lr"], group["weight_decay"])) == (
                group["lr"],
                group["weight_decay"],
            ), names[p]
    assert seen == {"weight": (pytest.approx(0.001), 0.0005), "bias": (pytest.approx(0.002), 0.0)}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == sum(
        p.requires_grad for p in model.parameters()
    )


def test_the_rate_falls_tenfold_every_30k_of_80k_mini_batches(solver):
    cfg, _, optimizer = solver
    multiplier = build_lr_scheduler(cfg, optimizer)
    rates = {0: [0.001, 0.002]}
    for i in range(1, cfg.SOLVER.MAX_ITER):
        multiplier.last_epoch = i  # as after i steps
        if i in (29_999, 30_000, 59_999, 60_000, 79_999):
            rates[i] = sorted(multiplier.get_lr())
    expected = {0: 1, 29_999: 1, 30_000: 0.1, 59_999: 0.1, 60_000: 0.01, 79_999: 0.01}
    assert rates == {i: [pytest.approx(0.001 * f), pytest.approx(0.002 * f)] for i, f in expected.items()}
