"""Measurements of cxrseg, by the command ``cxrseg-bench``; one module per subcommand."""
