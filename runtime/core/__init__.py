"""Contracts that all of cxrseg shares: radiograph, labels, preprocessing, model card, flags.

It takes nothing from other rooms, and gives all of them plain data and errors.
"""
