"""trainer/fit."""
