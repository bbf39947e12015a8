"""Other libraries of training data attribution, run on the rows, questions and checkpoints that Whence is judged on.

    python -m benchmarks.quality.peers.run --task DIR --out DIR

task.py writes what every peer is given (in the project's environment: the tokens are Whence's own). Each peer has an
environment of its own (install.py, requirements/) and one script, <peer>_scores.py, that runs there: beside the peer it
imports torch, transformers, peft and numpy, and of this repository only given.py, batch.py and written.py. run.py runs
them all, and results.py reads what they wrote.
"""
