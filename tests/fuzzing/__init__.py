"""Inputs made up for everything that reads what others wrote: files people send, and files on the disk.

    python -m tests.fuzzing --inputs 100000        the long form; `make fuzz`
    tests/fuzzing/test_fuzzing.py                  a short form in the suite

An input either gives a valid result, which keeps its invariants, or one of the declared errors: an EngineError or an
AppError with a cause and a remedy. Anything else is a defect: another exception, seconds of computing, memory.

targets.py    the list of targets, and what a target is made of
running.py    makes inputs, counts outcomes, keeps the smallest input of every defect
mutation.py   valid files, damaged at random
values.py     values as JSON and Parquet can hold them, near to what is expected and far from it
*_files.py …  one file a kind of input
"""
