"""X-rays and masks in, ``model.ckpt`` out: SAM, AdaLoRA, quantization-aware training.

Imports point one way: old_names, networks < adapt < recipe < recipe_file, data < fit < cli.
"""

import getpass
import os

# Containers run under user ids that have no name, and MONAI asks for one when it is imported.
try:
    getpass.getuser()
except (KeyError, ImportError, OSError):
    os.environ["LOGNAME"] = "nobody"
