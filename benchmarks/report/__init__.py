"""Records of results come in, one HTML page goes out: tables, plots, and the paper's claims."""
