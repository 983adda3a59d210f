"""Models and X-rays with reference masks come in, figures of how well both agree go out.

`accuracy` scores one model, `significance` and `ssim` compare two.
"""
