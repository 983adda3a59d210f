"""runtime/terminal."""
