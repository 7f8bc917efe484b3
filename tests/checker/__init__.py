"""A checker that knows nothing of the inside: what callers were told is held against what is there.

A *life* is a fresh runtime directory and several processes that call the public interface at
random, from threads and loops, while processes are killed and stopped, fork, copy their own
directory, and so on (`mix`). Every call is written down by its caller before and after (`journal`).
When all processes are gone, a fresh one opens the directory, and the journals are judged: what was
told committed is there, what was told refused never appeared, the rest is one or the other, order
held, reads were fresh, nobody hung (`judge`).

    python -m tests.checker --seconds 3600 --seed 1
    python -m tests.checker --seconds 30 --seed 7 --only kill,fork --keep DIRECTORY
"""
