"""`whence jobs …`"""

from __future__ import annotations

from typing import Annotated

import typer

from app.commands.console import facts, out, print_json, print_json_line, table, when
from app.commands.following import follow
from app.commands.options import Json, Limit, Url, server
from whence_client import Job

app = typer.Typer(no_args_is_help=True, help="Look at long work, cancel it, resume it.")
JobId = Annotated[str, typer.Argument(help="Id of a job.", metavar="JOB")]


@app.command("list")
def list_(limit: Limit = 50, url: Url = None, json_: Json = False) -> None:
    """List jobs, newest first."""
    with server(url) as whence:
        page = whence.jobs.list(limit=limit)
    if json_:
        print_json(page)
        return
    rows = [(j.id, j.kind, j.state, _progress(j), when(j.created_at), when(j.finished_at)) for j in page.data]
    out.print(table(None, ["id", "kind", "state", "progress", "created", "finished"], rows))


@app.command("show")
def show(job_id: JobId, url: Url = None, json_: Json = False) -> None:
    """Show one job."""
    with server(url) as whence:
        _print(whence.jobs.get(job_id), json_)


@app.command("cancel")
def cancel(job_id: JobId, url: Url = None, json_: Json = False) -> None:
    """Stop a job between two batches; what it finished is kept."""
    with server(url) as whence:
        _print(whence.jobs.cancel(job_id), json_)


@app.command("resume")
def resume(job_id: JobId, url: Url = None, json_: Json = False) -> None:
    """Let a failed or cancelled job go on from what it had finished."""
    with server(url) as whence:
        _print(whence.jobs.resume(job_id), json_)


@app.command("watch")
def watch(job_id: JobId, url: Url = None, json_: Json = False) -> None:
    """Follow a job until it ends. With --json: one event a line, then the job."""
    with server(url) as whence:
        if json_:
            print_json_line(whence.jobs.wait(job_id, on_event=print_json_line))
        else:
            _print(follow(whence, job_id), json_)


def _print(job: Job, as_json: bool) -> None:
    if as_json:
        print_json(job)
        return
    pairs: list[tuple[str, object]] = [("id", job.id), ("kind", job.kind), ("state", job.state)]
    pairs += [("progress", _progress(job)), ("attempt", job.attempt), ("created", when(job.created_at))]
    pairs += [("finished", when(job.finished_at)), ("error", job.error)]
    result = ", ".join(f"{key}={value}" for key, value in (job.result or {}).items())
    out.print(facts([*pairs, ("result", result or None)]))


def _progress(job: Job) -> str | None:
    if job.progress is None:
        return None
    left = "" if job.progress.eta_s is None else f", about {job.progress.eta_s:.0f} s left"
    return f"{job.progress.phase} {job.progress.done}/{job.progress.total} {job.progress.unit}{left}".strip()
