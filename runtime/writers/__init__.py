"""Takes a segmentation with its radiograph.

Gives its files, whole or not at all: PNG, JSON report, DICOM objects, and tables of many images.
"""
