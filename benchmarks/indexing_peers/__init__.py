"""What benchmarks/indexing.py compares, each in a process of its own (worker.py), each in its own environment.

plain.py        training passes with AdamW, the common reference         (the project's environment)
whence.py       an index build, and answers from it                      (the project's environment)
bergson.py      `bergson build`: rows' gradients, 16 × 16 a module or whole    (Bergson's)
kronfluence.py  EK-FAC factors, and pairwise scores of a few queries      (Kronfluence's)

Every one of them reads the same task directory (benchmarks/quality/peers/task.py). Those of other environments import
of this repository only worker.py, contender.py and benchmarks/quality/peers' given.py, batch.py and bergson_session.py.
"""
