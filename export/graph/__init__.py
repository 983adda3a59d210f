"""export/graph."""
