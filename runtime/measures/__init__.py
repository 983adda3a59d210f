"""Takes a mask with its pixel spacing and orientation.

Gives the sizes of what it shows, in pixels and in mm.
"""
