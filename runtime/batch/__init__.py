"""runtime/batch."""
