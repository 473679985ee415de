"""One module for each way to answer: `prepare` writes what it reads, `open_works` gives what it can be timed at.

Each runs in a process of its own, and some in an environment that has what no other has: heavy and foreign imports
stand inside the functions.
"""
