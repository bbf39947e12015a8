"""The API's shape, once for both clients: `client.models.create(...)` returns a value or an awaitable of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, Generic, ParamSpec, TypeVar, overload

from whence_client.endpoints import aliases, attributions, datasets, evaluations, indexes, jobs, keys, models, service
from whence_client.endpoints import checks as of_checks
from whence_client.flow import Flow

P = ParamSpec("P")
T = TypeVar("T")


class Blocking:
    """Marks what returns its value."""


class Awaiting:
    """Marks what returns an awaitable of its value."""


Kind = TypeVar("Kind", Blocking, Awaiting)


class Group(Generic[Kind]):
    """Endpoints that run on one client."""

    def __init__(self, run: Callable[[Flow[Any]], Any]) -> None:
        self._run = run


class Endpoint(Generic[P, T]):
    """A flow as a method: its signature stays, its result comes as the group's client gives it."""

    def __init__(self, build: Callable[P, Flow[T]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, group: Group[Blocking], owner: Any = None) -> Callable[P, T]: ...
    @overload
    def __get__(self, group: Group[Awaiting], owner: Any = None) -> Callable[P, Awaitable[T]]: ...
    @overload
    def __get__(self, group: None, owner: Any = None) -> Endpoint[P, T]: ...

    def __get__(self, group: Any, owner: Any = None) -> Any:
        if group is None:
            return self

        @wraps(self._build)
        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            return group._run(self._build(*args, **kwargs))

        return call


class Models(Group[Kind]):
    create = Endpoint(models.create)
    get = Endpoint(models.retrieve)
    update = Endpoint(models.update)
    list = Endpoint(models.list_page)
    all = Endpoint(models.list_all)
    delete = Endpoint(models.delete)


class Datasets(Group[Kind]):
    upload = Endpoint(datasets.upload)
    register = Endpoint(datasets.register)
    get = Endpoint(datasets.retrieve)
    update = Endpoint(datasets.update)
    list = Endpoint(datasets.list_page)
    all = Endpoint(datasets.list_all)
    delete = Endpoint(datasets.delete)
    examples = Endpoint(datasets.examples)
    example = Endpoint(datasets.example)


class Indexes(Group[Kind]):
    build = Endpoint(indexes.build)
    estimate = Endpoint(indexes.estimate)
    get = Endpoint(indexes.retrieve)
    update = Endpoint(indexes.update)
    list = Endpoint(indexes.list_page)
    all = Endpoint(indexes.list_all)
    delete = Endpoint(indexes.delete)
    self_influence = Endpoint(indexes.self_influence)
    export = Endpoint(indexes.export)
    import_ = Endpoint(indexes.import_)


class Aliases(Group[Kind]):
    put = Endpoint(aliases.put)
    get = Endpoint(aliases.retrieve)
    list = Endpoint(aliases.list_page)
    all = Endpoint(aliases.list_all)
    delete = Endpoint(aliases.delete)


class Evaluations(Group[Kind]):
    create = Endpoint(evaluations.create)
    estimate = Endpoint(evaluations.estimate)
    get = Endpoint(evaluations.retrieve)
    figures = Endpoint(evaluations.figures)
    update = Endpoint(evaluations.update)
    list = Endpoint(evaluations.list_page)
    all = Endpoint(evaluations.list_all)
    delete = Endpoint(evaluations.delete)


class Attributions(Group[Kind]):
    create = Endpoint(attributions.create)
    submit = Endpoint(attributions.submit)
    get = Endpoint(attributions.retrieve)
    list = Endpoint(attributions.list_page)
    delete = Endpoint(attributions.delete)
    query_set = Endpoint(attributions.query_set)
    batch = Endpoint(attributions.batch)
    batch_of = Endpoint(attributions.batch_of)
    get_batch = Endpoint(attributions.retrieve_batch)
    list_batches = Endpoint(attributions.list_batches)
    batch_results = Endpoint(attributions.batch_results)
    save_batch_results = Endpoint(attributions.save_batch_results)
    delete_batch = Endpoint(attributions.delete_batch)
    verify = Endpoint(of_checks.verify)
    estimate_verification = Endpoint(of_checks.estimate)
    checks = Endpoint(of_checks.of_answer)


class Checks(Group[Kind]):
    get = Endpoint(of_checks.retrieve)
    update = Endpoint(of_checks.update)
    list = Endpoint(of_checks.list_page)
    all = Endpoint(of_checks.list_all)
    delete = Endpoint(of_checks.delete)


class Jobs(Group[Kind]):
    get = Endpoint(jobs.retrieve)
    list = Endpoint(jobs.list_page)
    all = Endpoint(jobs.list_all)
    events = Endpoint(jobs.events)
    cancel = Endpoint(jobs.cancel)
    resume = Endpoint(jobs.resume)
    delete = Endpoint(jobs.delete)
    wait = Endpoint(jobs.wait)


class Keys(Group[Kind]):
    create = Endpoint(keys.create)
    get = Endpoint(keys.retrieve)
    list = Endpoint(keys.list_page)
    all = Endpoint(keys.list_all)
    revoke = Endpoint(keys.revoke)


class Api(Group[Kind]):
    """Everything a client offers."""

    ask = Endpoint(attributions.create)
    methods = Endpoint(service.methods)
    status = Endpoint(service.status)
    limits = Endpoint(service.limits)
    audit_log = Endpoint(keys.audit_log)

    def __init__(self, run: Callable[[Flow[Any]], Any]) -> None:
        super().__init__(run)
        self.models: Models[Kind] = Models(run)
        self.datasets: Datasets[Kind] = Datasets(run)
        self.indexes: Indexes[Kind] = Indexes(run)
        self.aliases: Aliases[Kind] = Aliases(run)
        self.evaluations: Evaluations[Kind] = Evaluations(run)
        self.attributions: Attributions[Kind] = Attributions(run)
        self.checks: Checks[Kind] = Checks(run)
        self.jobs: Jobs[Kind] = Jobs(run)
        self.keys: Keys[Kind] = Keys(run)
