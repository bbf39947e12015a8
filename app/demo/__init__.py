"""`whence demo`: fine-tune in front of the user, index, ask three questions over HTTP, measure their trust, stay up.

run.py          from beginning to end: home, service, exit code
steps.py        the steps, in order
home.py         where it all lies, and what may be removed there
background.py   the service on a thread of this process
report.py       what is printed
evaluation.py   the small scorecard
budget.py       what its retrainings are spent on
verdicts.py     what is printed about trust
"""

from app.demo.run import run

__all__ = ["run"]
