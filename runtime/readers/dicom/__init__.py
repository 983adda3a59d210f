"""Takes DICOM files as hospitals have them: old, unusual, and a little damaged.

Gives each X-ray as a `Radiograph`, and the images that a DICOMDIR lists.
"""
