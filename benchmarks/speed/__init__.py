"""Model files come in; times, memory and shares of what the machine can do go out.

What is compared runs in turn, so that disturbances of the machine hit all alike.
"""
