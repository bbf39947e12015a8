"""kill -9 at random moments while everything is written to: is what was acknowledged still there, and whole?

    python -m tests.app.crashing [--kills 50] [--work DIRECTORY] [--seed 0]

ledger.py    what the server acknowledged, and what must be true of it ever after
writers.py   threads that upload, build, ask, evaluate, move aliases, delete, until the server is gone
rounds.py    one round: serve, write, kill; then serve again and look
"""
