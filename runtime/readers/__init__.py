"""Takes files and folders as people have them: DICOM, PNG, JPEG, TIFF, BMP and DICOMDIR media.

Gives the images that they stand for, and each as a `Radiograph`.
"""

from cxrseg.runtime.readers.folders import find_images
from cxrseg.runtime.readers.reading import READERS, read, read_picture

__all__ = ["READERS", "find_images", "read", "read_picture"]
