"""A project for the labelled images of a folder: split, annotations, catalogue and configs that fit them."""

from .writing import Project, make_project

__all__ = ["Project", "make_project"]
