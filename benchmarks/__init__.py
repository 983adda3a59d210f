"""Models, checkpoints and X-rays come in, by the subcommands of ``cxrseg-bench``.

Figures go out: a JSON summary with tables and plots of each. One module holds one subcommand.
"""
