"""A recipe, samples, and perhaps a checkpoint come in; a trained checkpoint and its report go out.

A run is resumable at any point, and its checkpoint is plain data that `checkpoint` alone defines.
"""
