"""trainer/adapt."""
