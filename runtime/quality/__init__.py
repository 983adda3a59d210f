"""An image, the logits of its lungs and the model's quality reference come in.

The flags that tell when not to trust the mask go out, and the codes of those that cannot be judged.
"""
