"""export/verify."""
