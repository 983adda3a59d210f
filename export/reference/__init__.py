"""A model file and good X-rays come in.

The model's quality reference goes out, inside a copy of the file.
"""
