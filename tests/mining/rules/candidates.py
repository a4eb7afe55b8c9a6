"""Candidates with and without structure, and the rules' steps in plain Python, one RoI at a time."""

import torch

from ohem_d2.mining.rules import Budget, CandidatesWithPredictions

NUM_CLASSES = 3  # label 3 is the background


def make_candidates(boxes, labels, images, num_images, **values):
    """All fields that a rule may read; what is not given is 0, and decoded boxes are the proposals."""
    boxes, labels = torch.as_tensor(boxes).float(), torch.as_tensor(labels, dtype=torch.long)
    images, zeros = torch.as_tensor(images, dtype=torch.long), torch.zeros(len(labels))
    losses = torch.as_tensor(values.get("losses", zeros)).float()
    return CandidatesWithPredictions(
        boxes=boxes,
        labels=labels,
        ious=torch.as_tensor(values.get("ious", zeros)).float(),
        objects=torch.as_tensor(values.get("objects", zeros)).long(),
        object_boxes=torch.as_tensor(values.get("object_boxes", boxes)).float(),
        image_ids=images,
        num_rois=[int((images == i).sum()) for i in range(num_images)],
        num_classes=NUM_CLASSES,
        losses=losses,
        cls_losses=losses,
        box_losses=torch.zeros_like(losses),
        scores=torch.as_tensor(values.get("scores", zeros)).float(),
        decoded=torch.as_tensor(values.get("decoded", boxes)).float(),
    )


def apart(num):
    """Boxes (num, 4) that do not overlap."""
    return torch.arange(num).unsqueeze(1) * 20.0 + torch.tensor([0.0, 0.0, 10.0, 10.0])


def random_candidates(seed, sizes=(40, 0, 25), foreground_share=0.3):
    """Integer boxes on a small canvas, so that many overlap; an image of `sizes` may be empty.

    Decoded boxes lie around six places, and objects near them, so that most are duplicates of others.
    """
    g = torch.Generator().manual_seed(seed)
    num = sum(sizes)

    def boxes():
        corners = torch.randint(0, 40, (num, 2), generator=g)
        return torch.cat([corners, corners + torch.randint(5, 30, (num, 2), generator=g)], dim=1)

    def near(boxes, shift):
        return boxes + torch.randint(-shift, shift + 1, (num, 4), generator=g)

    is_foreground = torch.rand(num, generator=g) < foreground_share
    classes = torch.randint(0, NUM_CLASSES, (num,), generator=g)
    ious = torch.rand(num, generator=g) / 2
    corners = torch.tensor([[x, y] for x in (0, 20, 40) for y in (0, 20)])
    places = torch.cat([corners, corners + torch.tensor([15, 12])], dim=1)
    decoded = near(places[torch.randint(0, 6, (num,), generator=g)], 2)
    return make_candidates(
        boxes(),
        torch.where(is_foreground, classes, NUM_CLASSES),
        torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)),
        len(sizes),
        losses=torch.rand(num, generator=g),
        ious=torch.where(is_foreground, ious + 0.5, ious),
        objects=torch.randint(0, 4, (num,), generator=g),
        object_boxes=near(decoded, 4),
        scores=torch.rand(num, generator=g),
        decoded=decoded,
    )


def make_budget(num_per_image=8, seed=0, **settings):
    return Budget(num_per_image, generator=torch.Generator().manual_seed(seed), progress=0.0, **settings)


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def greedy(rows, scores, boxes, thresh):
    """Row -> the row that greedy NMS keeps in its place; in the order in which they are looked at."""
    kept_for, kept = {}, []
    for row in sorted(rows, key=lambda row: (-scores[row], row)):
        first = next((k for k in kept if iou(boxes[row], boxes[k]) > thresh), None)
        if first is None:
            kept.append(row)
        kept_for[row] = row if first is None else first
    return kept_for


def by_image(rois):
    """The rows of each image."""
    return [[r for r, i in enumerate(rois.image_ids.tolist()) if i == n] for n in range(rois.num_images)]


def survivors(rois, budget):
    """The rows of each image that NMS keeps, by loss descending."""
    losses, boxes, labels = rois.losses.tolist(), rois.boxes.tolist(), rois.labels.tolist()
    kept = []
    for rows in by_image(rois):
        classes = set(labels) if budget.nms_per_class else [None]
        groups = [[r for r in rows if c is None or labels[r] == c] for c in classes]
        kept_for = [greedy(group, losses, boxes, budget.nms_thresh) for group in groups]
        firsts = [row for of_group in kept_for for row, first in of_group.items() if row == first]
        kept.append(sorted(firsts, key=lambda row: -losses[row]))
    return kept


def selected(mask):
    return set(mask.nonzero().squeeze(1).tolist())
