"""AP as the documents define it, in exact arithmetic and plain loops, and detections to try it on."""

import random
from fractions import Fraction

THRESHOLDS = [Fraction(t, 100) for t in range(50, 100, 5)]


def overlap(a, b):
    """Intersection over union of boxes of whole pixels, the last of which belongs to the box."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return Fraction(0)
    areas = [(x2 - x1 + 1) * (y2 - y1 + 1) for x1, y1, x2, y2 in (a, b)]
    return Fraction(width * height) / (sum(areas) - width * height)


def precision_recall(objects, detections, threshold):
    """Points (recall, precision), one per detection that counts.

    Args:
        objects: image -> [(box, difficult)] of one class.
        detections: [(score, image, box)] of that class; equal scores count in this order.
    """
    positives = sum(not difficult for found in objects.values() for _, difficult in found)
    taken, right, wrong, points = set(), 0, 0, []
    for _, image, box in sorted(detections, key=lambda d: -d[0]):
        best, best_overlap = None, threshold
        for index, (truth, _) in enumerate(objects.get(image, [])):
            if overlap(box, truth) > best_overlap:
                best, best_overlap = index, overlap(box, truth)
        if best is not None and objects[image][best][1]:
            continue  # a difficult object: neither right nor wrong
        if best is None or (image, best) in taken:
            wrong += 1
        else:
            taken.add((image, best))
            right += 1
        points.append((Fraction(right, positives), Fraction(right, right + wrong)))
    return points


def best_precision(points, recall):
    """The highest precision at this recall or beyond; 0 where it is never reached."""
    return max((p for r, p in points if r >= recall), default=Fraction(0))


def average_precision_2007(points):
    return sum(best_precision(points, Fraction(k, 10)) for k in range(11)) / 11


def average_precision_2012(points):
    recalls = sorted({Fraction(0), *(r for r, _ in points)})
    return sum((b - a) * best_precision(points, b) for a, b in zip(recalls, recalls[1:]))


def draw_detections(objects, sizes, classes, seed):
    """Detections around the objects: shifted, doubled, of a wrong class, missed, and some anywhere.

    Args:
        objects: image -> [(class, box, difficult)], boxes in pixels from 1.

    Returns:
        [(image, class, score, box)], boxes in tenths of a pixel, scores in steps of 0.01, so that many tie.
    """
    rng, detections = random.Random(seed), []
    for image, found in objects.items():
        width, height = sizes[image]
        for name, box, _ in found:
            for _ in range(rng.choice([0, 1, 1, 2, 3])):
                noise = rng.choice([0.02, 0.05, 0.2])
                spread = [noise * (box[2] - box[0]), noise * (box[3] - box[1])] * 2
                moved = [c + rng.uniform(-s, s) for c, s in zip(box, spread)]
                detections.append(
                    (image, name if rng.random() < 0.8 else rng.choice(classes), rng.randint(5, 100), moved)
                )
        x, y = rng.uniform(1, width / 2), rng.uniform(1, height / 2)
        detections.append(
            (image, rng.choice(classes), rng.randint(5, 60), [x, y, x + width / 3, y + height / 3])
        )
    return [
        (image, name, Fraction(score, 100), _clipped(box, *sizes[image]))
        for image, name, score, box in detections
    ]


def _clipped(box, width, height):
    limits = [width, height] * 2
    return [Fraction(round(10 * min(max(c, 1), limit)), 10) for c, limit in zip(box, limits)]
