"""The Python of docs/ignore_regions.md runs, and what it builds ignores."""

import re
from pathlib import Path

from detectron2.config import instantiate
from detectron2.model_zoo import get_config

PAGE = Path(__file__).resolve().parents[2] / "docs/ignore_regions.md"
(BLOCK,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_a_python_config_ignores_regions():
    model = get_config("common/models/mask_rcnn_fpn.py").model
    dataloader = get_config("common/data/coco.py").dataloader
    exec(BLOCK, {"model": model, "dataloader": dataloader})
    model.backbone.bottom_up.stages.depth = 18
    model.backbone.bottom_up.stages.pop("stride_in_1x1")
    built = instantiate(model)
    assert built.roi_heads.ignoring.enabled and built.proposal_generator.ignoring.enabled
    assert built.roi_heads.is_mining and not built.proposal_generator.is_mining
    assert instantiate(dataloader.train.mapper).keep_regions
