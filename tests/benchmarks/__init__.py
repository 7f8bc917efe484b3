"""How fast the store is, held against floors that are measured in the same run.

Every figure is a ratio: the subject and its floor take turns (A B A B ..., the order reversed every
other round), so what else the machine does meets both. A floor is the least that could do the same
job; `floors` has them. A time is the median over the rounds of the median of a turn, a ratio the
median of the ratios of the rounds, with the range of the middle half of them; `if quiet` is that of
the quickest tenth of all calls. The targets stand beside the figures; a missed one is no error.

Outside the normal test run. `tests/house/test_benchmarks.py` only sees to it that the command
works.
"""
