"""Takes what a command has to say: lines, errors, progress, exit codes.

Puts it on the terminal, one line each, and keeps the notes of libraries off it.
"""
