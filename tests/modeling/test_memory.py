"""The read-only pass where the memory of the GPU is too small for its chunks: simulated."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from ohem_d2.modeling import roi_losses
from ohem_d2.modeling.box_forward import box_predictors
from ohem_d2.modeling.candidates import label_candidates
from ohem_d2.modeling.readonly_pass import candidate_losses

from ..builders import build_heads, make_inputs
from .test_cuda import KINDS

# 2 images of 100 proposals, and what `PROPOSAL_APPEND_GT` would add is left out. 200 -> 100 -> 50.
NUM_PROPOSALS, ROOM, FITTING = 100, 60, 50


def limit_memory(heads, room):
    """Let the predictors fail with more than `room` RoIs in the read-only pass; the sizes that they saw."""
    seen = []

    def check(predictor, features):
        if not torch.is_grad_enabled():
            seen.append(len(features[0]))
            if seen[-1] > room:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    for predictor in box_predictors(heads):
        predictor.register_forward_pre_hook(check)
    return seen


def losses_of(heads, **options):
    features, proposals, targets = make_inputs(2, NUM_PROPOSALS)
    candidates = label_candidates(heads, proposals, targets)
    return candidate_losses(heads, features, candidates, targets, replace(heads.ohem, **options))


def with_own_losses(heads):
    """Each predictor with a method ``roi_losses``, as one that is not known has it."""
    for predictor in box_predictors(heads):
        plain = type(predictor)
        own = {"roi_losses": lambda self, *args, plain=plain: roi_losses_of(self, plain, *args)}
        predictor.__class__ = type("Own", (plain,), own)
    return heads


def roi_losses_of(predictor, plain, *args):
    own, predictor.__class__ = predictor.__class__, plain
    try:
        return roi_losses(predictor, *args)
    finally:
        predictor.__class__ = own


@pytest.mark.parametrize("budget, largest", [(8, 256), (200, 400)])
def test_the_chosen_chunk_is_the_batch_that_is_trained_on_and_256_at_least(budget, largest):
    heads = build_heads("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", budget)
    seen = limit_memory(heads, 10**6)
    features, proposals, targets = make_inputs(2, 400)
    candidates = label_candidates(heads, proposals, targets)
    candidate_losses(heads, features, candidates, targets, heads.ohem)
    assert max(seen) == largest and sum(seen) == sum(map(len, candidates)) >= 800


@pytest.mark.parametrize("own_losses", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_chunks_are_halved_and_the_losses_are_those_of_small_chunks(kind, own_losses, caplog):
    heads = build_heads(*KINDS[kind])
    heads = with_own_losses(heads) if own_losses else heads
    expected = losses_of(heads, readonly_chunk=FITTING)
    limit_memory(heads, ROOM)
    found = losses_of(heads)
    assert torch.equal(found.total, expected.total) and expected.total.std() > 0.1
    assert torch.equal(found.cls, expected.cls) and torch.equal(found.box, expected.box)
    told = "out of memory in the read-only pass with 200 RoIs at a time: from now on it takes 50"
    assert told in caplog.text


def test_random_numbers_are_those_of_a_pass_with_small_chunks():
    heads = build_heads()
    heads.box_head.add_module("dropout", nn.Dropout(0.5).train())
    torch.manual_seed(3)
    expected = losses_of(heads, readonly_chunk=FITTING, readonly_dropout=True)
    limit_memory(heads, ROOM)
    torch.manual_seed(3)
    assert torch.equal(losses_of(heads, readonly_dropout=True).total, expected.total)


def test_later_passes_keep_the_small_chunk_and_are_not_warned_of_again(caplog):
    heads = build_heads()
    seen = limit_memory(heads, ROOM)
    losses_of(heads)
    assert seen == [200, 100, 50, 50, 50, 50]
    seen.clear()
    losses_of(heads)
    assert seen == [50, 50, 50, 50]
    assert caplog.text.count("out of memory") == 1
    losses_of(heads, readonly_chunk=20)  # a smaller chunk of the config stays
    assert seen[4:] == [20] * 10


def test_heads_train_on_with_smaller_chunks(storage):
    heads, inputs = build_heads("MODEL.OHEM.READONLY_CHUNK", "80"), make_inputs(2, NUM_PROPOSALS)
    seen = limit_memory(heads, ROOM)
    _, losses = heads(None, *inputs)
    sum(losses.values()).backward()
    assert seen[:2] == [80, 40] and all(p.grad is not None for p in heads.parameters())


def test_what_failed_is_freed_before_it_is_tried_again():
    heads, alive = build_heads(), []

    def watch(predictor, features):
        if not torch.is_grad_enabled():
            gc.collect(0)
            alive.append([ref() is not None for ref in pooled])
            pooled.append(weakref.ref(features[0]))

    pooled: list = []
    heads.box_predictor.register_forward_pre_hook(watch)
    limit_memory(heads, ROOM)
    gc.disable()  # a reference cycle would keep the memory until a collection
    try:
        losses_of(heads)
    finally:
        gc.enable()
    assert alive[:3] == [[], [False], [False, False]]


def test_memory_that_is_too_small_for_a_few_rois_is_an_error_of_one_line():
    heads = build_heads()
    seen = limit_memory(heads, 15)
    with pytest.raises(torch.cuda.OutOfMemoryError) as error:
        losses_of(heads)
    assert seen == [200, 100, 50, 25, 16]
    assert str(error.value) == (
        "the read-only pass runs out of memory with 16 RoIs at a time: lower SOLVER.IMS_PER_BATCH or the "
        "size of the images; CUDA out of memory. Tried to allocate 2.00 GiB."
    )
    assert all(module.training for module in heads.modules())


def test_another_error_is_no_reason_to_halve():
    heads, calls = build_heads(), []

    def fail(predictor, features):
        calls.append(features)
        raise RuntimeError("shapes")

    heads.box_predictor.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="^shapes$"):
        losses_of(heads)
    assert len(calls) == 1
