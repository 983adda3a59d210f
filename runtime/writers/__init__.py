"""runtime/writers."""
