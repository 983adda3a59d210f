"""runtime/quality."""
