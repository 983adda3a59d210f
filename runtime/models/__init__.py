"""Holds the model that ships with the package, and its card for people.

Gives the path of the file.
"""

from cxrseg.runtime.models.shipped import DEFAULT_MODEL, default_model, is_shipped

__all__ = ["DEFAULT_MODEL", "default_model", "is_shipped"]
