"""Takes paths and the contents of files.

Decides what may be opened and what replaced, writes files whole or not at all, and knows those that
cxrseg wrote.
"""
