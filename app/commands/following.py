"""Following a job on the server until it ends."""

from __future__ import annotations

import typer

from app.commands.console import err
from app.commands.progress import PhaseBars
from whence_client import Job, Whence


def follow(whence: Whence, job_id: str) -> Job:
    """Show the job's progress until it ends. Ctrl-C leaves the job running and says so; raises JobFailed."""
    try:
        with PhaseBars() as bars:
            return whence.jobs.wait(job_id, on_progress=bars.show)
    except KeyboardInterrupt:
        err.print(f"The job goes on. Follow it again: whence jobs watch {job_id}", highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None
