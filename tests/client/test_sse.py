"""The event parser, on chunks cut anywhere."""

from __future__ import annotations

import pytest

from whence_client.sse import EventParser, ServerEvent

STREAM = (
    ': hello\r\n\r\nid: 7\nevent: progress\ndata: {"a":\ndata: "é"}\n\ndata:bare\r\rid: 9\n\nevent: end\ndata: {}\n\n'
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_do_not_depend_on_how_the_bytes_are_cut(size):
    data = STREAM.encode()
    parser = EventParser()
    events = [event for start in range(0, len(data), size) for event in parser.feed(data[start : start + size])]
    assert events == [
        ServerEvent("progress", '{"a":\n"é"}', "7"),
        ServerEvent("message", "bare", "7"),
        ServerEvent("end", "{}", "9"),
    ]


def test_an_unfinished_event_is_not_given():
    assert EventParser().feed(b"event: end\ndata: {}\n") == []
