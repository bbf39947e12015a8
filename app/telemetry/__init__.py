"""What those who run the service see of it: structured logs, Prometheus metrics, OpenTelemetry traces.

logs.py      how a line looks, and what it never holds
metrics.py   the registry: what is counted as it happens
watched.py   what is read when /metrics is: queue, jobs, pool, disk
facts.py     those figures; /v1/status shows them too
running.py   the pace of the index builds under way
attempts.py  one attempt at a job: its lines, figures and span
answers.py   one attribution in the engine: its stages as figures and spans
traces.py    spans, where they go, and what they never hold
"""

from __future__ import annotations

from app.telemetry.logs import configure_logging
from app.telemetry.metrics import Metrics
from app.telemetry.traces import Traces, instrument

__all__ = ["Metrics", "Traces", "configure_logging", "instrument"]
