"""`whence demo`: fine-tune in front of the user, index, ask three questions over HTTP, stay up.

run.py          the steps, in order
home.py         where it all lies, and what may be removed there
background.py   the service on a thread of this process
report.py       what is printed
"""

from app.demo.run import run

__all__ = ["run"]
