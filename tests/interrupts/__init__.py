"""An exception raised at every line of the package that a call runs through.

`python -m tests.interrupts` does it at every line of every scenario, and prints what came of it.
"""
