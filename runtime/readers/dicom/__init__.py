"""Takes DICOM files as hospitals have them: old, unusual, and a little damaged.

Gives each X-ray as a `Radiograph`, with flags and notes of what its file says wrongly.
"""
