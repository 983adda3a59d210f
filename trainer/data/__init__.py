"""Folders and tables of X-rays with masks come in; batches of tensors go out.

Everything is checked before any work is done on it, and augmented as the recipe says.
"""
