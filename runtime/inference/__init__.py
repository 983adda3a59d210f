"""Takes a model file, and what the network is to see of a radiograph.

Gives a session that runs on the chosen device, and label masks from the network's logits.
"""
