"""Records of results come in.

One HTML page goes out: tables, plots, and the figures beside the paper's claims.
"""
