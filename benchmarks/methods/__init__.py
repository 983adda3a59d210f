"""Recipes of ways to train come in, one table of their accuracy, size and latency goes out."""
