"""Takes PNG, JPEG, TIFF and BMP files, as scanners, phones and programs write them.

Gives each as a radiograph, or with its colors and its alpha for what is no X-ray.
"""

from cxrseg.runtime.readers.raster.reader import read_picture, read_raster

__all__ = ["read_picture", "read_raster"]
