"""Takes files and folders, and a loaded model.

Gives the outcome of each image, in order: what was written of it, or why it failed.
"""
