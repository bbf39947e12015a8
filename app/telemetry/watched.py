"""What is read when /metrics is: the engine's queue, jobs, the database's pool, the disk, builds under way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.telemetry.facts import Facts
from app.telemetry.running import RunningBuilds

# The engine's own names → ours. What an engine does not report is 0.
ENGINE_GAUGES = {
    "queue_depth": ("whence_engine_queue_depth", "Attributions waiting for the engine."),
    "max_queue": ("whence_engine_queue_capacity", "How many attributions may wait for the engine."),
    "builds_waiting": ("whence_engine_builds_waiting", "Index builds waiting for the engine."),
    "models_loaded": ("whence_engine_models_loaded", "Models in memory."),
    "model_bytes": ("whence_engine_model_bytes", "Memory of the models in memory."),
    "indexes_open": ("whence_engine_indexes_open", "Indexes held open."),
}
ENGINE_COUNTERS = {
    "batches": ("whence_engine_batches", "Batches of attributions computed."),
    "queries": ("whence_engine_queries", "Attributions computed, failed ones included."),
    "tokens": ("whence_engine_tokens", "Tokens of the queries answered."),
    "busy_s": ("whence_engine_busy_seconds", "Seconds spent on attributions."),
}
BATCH_SIZES = (1, 2, 4, 8, 16, 32)


class Watched(Collector):
    def __init__(self, facts: Facts, builds: RunningBuilds) -> None:
        self._facts, self._builds = facts, builds

    def describe(self) -> Iterable[Metric]:
        return ()  # registering must not query the database

    def collect(self) -> Iterator[Metric]:
        yield from self._jobs()
        yield from self._resources()
        yield from self._running_builds()
        yield from engine_metrics(self._facts.engine())

    def _jobs(self) -> Iterator[Metric]:
        figures = self._facts.jobs()
        yield _gauge("whence_database_up", "1 when the database answers.", float(figures is not None))
        by_state = GaugeMetricFamily(
            "whence_jobs", "Jobs by state, all that the database has: the same on every server.", labels=["state"]
        )
        for state, count in (figures.by_state if figures else {}).items():
            by_state.add_metric([state], count)
        yield by_state
        oldest = figures.oldest_queued_s if figures else None
        yield _gauge("whence_jobs_oldest_queued_seconds", "Age of the oldest queued job; 0 without one.", oldest or 0.0)
        worker = self._facts.worker
        yield _gauge("whence_worker_threads", "Job threads of this server.", worker.settings.worker_threads)
        yield _gauge("whence_worker_jobs_running", "Jobs that this server runs.", worker.busy())

    def _resources(self) -> Iterator[Metric]:
        pool = self._facts.pool()
        yield _gauge("whence_database_connections_in_use", "Database connections in use.", pool.in_use)
        yield _gauge("whence_database_connections_limit", "Database connections this server may open.", pool.limit)
        if disk := self._facts.disk():
            yield _gauge("whence_disk_free_bytes", "Free space where WHENCE_HOME lies.", disk.free_bytes)
            yield _gauge("whence_disk_size_bytes", "Size of the file system of WHENCE_HOME.", disk.total_bytes)

    def _running_builds(self) -> Iterator[Metric]:
        yield _gauge("whence_index_builds_running", "Index builds under way.", self._builds.running())
        yield _gauge("whence_index_rows_left", "Row passes left of the builds under way.", self._builds.rows_left())
        pace = GaugeMetricFamily(
            "whence_index_rows_per_second", "Pace of the builds under way, by the phase they are in.", labels=["phase"]
        )
        for phase, rate in self._builds.rows_per_second().items():
            pace.add_metric([phase], rate)
        yield pace


def engine_metrics(status: Mapping[str, Any]) -> Iterator[Metric]:
    """Only what is named here: a status may hold more, with names that do not end."""
    yield _gauge("whence_engine_up", "1 once the engine has started; it does with its first use.", _up(status))
    for key, (name, text) in ENGINE_GAUGES.items():
        yield _gauge(name, text, status.get(key, 0))
    for key, (name, text) in ENGINE_COUNTERS.items():
        yield CounterMetricFamily(name, text, value=status.get(key, 0))
    yield _batch_sizes(status.get("batch_sizes", {}))
    memory = status.get("gpu_memory")
    if memory is not None:
        family = GaugeMetricFamily("whence_gpu_memory_bytes", "Memory of the engine's GPU, by kind.", labels=["kind"])
        for kind in ("allocated", "reserved", "free", "total"):
            family.add_metric([kind], memory[f"{kind}_bytes"])
        yield family


def _up(status: Mapping[str, Any]) -> float:
    return float(status.get("started", False))


def _batch_sizes(counts: Mapping[int, int]) -> HistogramMetricFamily:
    """counts: batches by their number of queries."""
    buckets = [(str(float(size)), float(sum(n for s, n in counts.items() if s <= size))) for size in BATCH_SIZES]
    buckets.append(("+Inf", float(sum(counts.values()))))
    total = float(sum(size * count for size, count in counts.items()))
    return HistogramMetricFamily(
        "whence_engine_batch_size", "Attributions per batch.", buckets=buckets, sum_value=total
    )


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=float(value))
