"""Samples come in, before anything is trained on them.

What cannot be used, what looks odd, and a sheet of outlines on X-rays to look at, go out.
"""
