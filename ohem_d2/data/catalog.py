"""Data sets registered from a YAML file, without Python code.

A catalogue maps names to entries::

    bccd:
      format: voc                    # voc | coco
      root: ${OHEM_D2_DATA}/BCCD     # folder of the data set
      splits: [train, test]          # registers bccd_train and bccd_test; {small: test_small} registers
                                     # bccd_small, which is split test_small
      classes: [RBC, WBC, Platelets] # voc: required; coco: optional, must agree with the JSON
      year: 2012                     # voc, optional: AP of VOC 2007 (11 points) or of 2012 (area, default)
      annotations: annotations/instances_{split}.json   # coco: required; voc: a folder, default Annotations
      images: images/{split}         # optional; default root, voc: JPEGImages
      images_outside: true           # coco, optional: the JSON may name images outside of that folder
      imagesets: ImageSets/Main      # voc, optional: folder of the split files; this is the default
      proposals: proposals/{name}.safetensors           # optional; relative to root. It need not exist yet;
                                     # {name} is bccd_train. Several stores: a pattern with * or ?, or a list
      ignore: [crowd, occluded]      # optional: what marks an object as ignore region. A key of its
                                     # annotation that is 1 (a tag in XML); voc: also the name of a class
    street:
      format: images                 # images without objects, to train on beside labelled ones: registers
      root: street                   # street, all images below this folder
      proposals: proposals/{name}.safetensors           # optional, as above

Environment variables in paths are expanded. A ``root`` that begins with "." ("./x", "..", ".") is relative
to the catalogue's folder. Any other relative one is looked up under ``$DETECTRON2_DATASETS`` (default
"datasets"), then in the catalogue's folder. All other paths are relative to ``root``, but ``proposals`` that
begins with "." is, like such a ``root``, relative to the catalogue's folder.
"""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..utils.messages import brief, one_line
from ..utils.yaml_files import SafeLoader, read_yaml
from .catalog_entry import Dataset, Entry

__all__ = ["register_catalog"]


def register_catalog(path: str | Path) -> list[str]:
    """Register the data sets of a catalogue in Detectron2: all of them or, on an error, none.

    Annotations are read when a data set is loaded, so missing files are an error only when their split is
    used. Registering the same content again does nothing.

    Args:
        path: YAML file, see the docstring of this module.

    Returns:
        the names of the data sets, in the order of the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: malformed YAML; a key that is unknown, missing or of the wrong type; an environment
            variable that is not set; a name that another data set has. One line with file, key and choices.
    """
    datasets: dict[str, Dataset] = {}
    for key, entry in _read_catalog(Path(path)).items():
        for dataset in Entry(Path(path), key, entry).datasets():
            if dataset.name in datasets:
                raise ValueError(f"{path}: two entries give the same data set name {dataset.name!r}")
            datasets[dataset.name] = dataset
    new = [dataset for dataset in datasets.values() if not _is_registered(dataset, path)]
    for dataset in new:
        DatasetCatalog.register(dataset.name, dataset)
        MetadataCatalog.get(dataset.name).set(**dataset.metadata())
        if dataset.proposal_file is not None:
            MetadataCatalog.get(dataset.name).set(proposal_file=dataset.proposal_file)
    return list(datasets)


def _is_registered(dataset: Dataset, path: str | Path) -> bool:
    if dataset.name not in DatasetCatalog:
        return False
    if DatasetCatalog[dataset.name] != dataset:
        raise ValueError(f"{path}: the name {dataset.name!r} is already taken by another registered data set")
    return True


class _UniqueKeyLoader(SafeLoader):
    """A safe loader that refuses repeated keys, of which YAML's own silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        repeated = next((key for key, number in Counter(keys).items() if number > 1), None)
        if repeated is not None:
            raise yaml.YAMLError(f"key {brief(repeated)} comes twice, line {node.start_mark.line + 1} on")
        return super().construct_mapping(node, deep)


def _read_catalog(path: Path) -> Mapping[Any, Any]:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"data set catalogue {one_line(path)} does not exist (DATASETS.CATALOG)")
    with open(path, encoding="utf-8") as file:
        content = read_yaml(file, str(path), _UniqueKeyLoader)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path}: a catalogue maps data set names to entries, found {brief(content)}")
    return content
