"""Keyset pages, one after another."""

from __future__ import annotations

from typing import Protocol, TypeVar

from whence_client.flow import Flow
from whence_client.types import Page

T = TypeVar("T")
PAGE_SIZE = 200


class ListPage(Protocol[T]):
    def __call__(self, *, cursor: str | None, limit: int | None) -> Flow[Page[T]]: ...


def collect(list_page: ListPage[T]) -> Flow[list[T]]:
    found: list[T] = []
    cursor: str | None = None
    while True:
        page = yield from list_page(cursor=cursor, limit=PAGE_SIZE)
        found += page.data
        cursor = page.next_cursor
        if cursor is None:
            return found
