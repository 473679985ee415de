"""One module for each way to run the network: `prepare` writes the files that it reads, `open_works` returns its works.

Each module runs in the environment of its candidate, so imports of other packages stand inside the functions.
"""
