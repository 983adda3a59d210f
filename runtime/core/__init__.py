"""Contracts that all of cxrseg shares: radiograph, labels, preprocessing, model card, flags.

Plain data and pure functions come in and go out; nothing here opens a model or imports a room.
"""
