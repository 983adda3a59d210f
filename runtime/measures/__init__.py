"""runtime/measures."""
