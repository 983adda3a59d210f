"""Recipes of ways to train come in, with the images to train and to measure on.

One table of their accuracy, size and latency goes out.
"""
