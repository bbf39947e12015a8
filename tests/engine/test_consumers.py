"""Sums of outer products by strips: the whole symmetric matrix, whatever the widths."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import consumers
from engine.consumers import CovarianceConsumer
from engine.modules import TrackedModule


@settings(max_examples=40)
@given(
    widths=st.tuples(st.integers(1, 11), st.integers(1, 11)),
    examples=st.integers(1, 3),
    length=st.integers(1, 5),
    batches=st.integers(1, 3),
    strip=st.sampled_from([1, 3, 64]),
    seed=st.integers(0, 2**16),
)
def test_covariances_are_sums_over_positions_that_are_no_pads(
    widths: tuple[int, int], examples: int, length: int, batches: int, strip: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs, outputs = widths
    module = TrackedModule("layer", "layer", "linear", inputs, outputs, False, "group")
    consumer = CovarianceConsumer()
    a_II = torch.zeros(inputs, inputs, dtype=torch.float64)
    s_OO = torch.zeros(outputs, outputs, dtype=torch.float64)
    positions = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(consumers._STRIP, "cpu", strip)
        for _ in range(batches):
            valid_BT = torch.rand(examples, length, generator=generator) < 0.7
            a_BTI = torch.randn(examples, length, inputs, generator=generator, dtype=torch.float64)
            d_BTO = torch.randn(examples, length, outputs, generator=generator, dtype=torch.float64)
            d_BTO = d_BTO * valid_BT.unsqueeze(-1)  # as it comes from a backward pass
            consumer.begin(valid_BT)
            consumer.take(module, consumer.keep(module, a_BTI), d_BTO)
            consumer.statistics()  # asked for in between, it changes nothing
            for a_I, d_O in zip(a_BTI[valid_BT], d_BTO[valid_BT], strict=True):
                a_II += torch.outer(a_I, a_I)
                s_OO += torch.outer(d_O, d_O)
            positions += int(valid_BT.sum())
    found = consumer.statistics()
    assert (found.examples, found.positions) == (batches * examples, positions)
    for sum_DD, expected_DD in ((found.inputs["group"], a_II), (found.outputs["layer"], s_OO)):
        torch.testing.assert_close(sum_DD, expected_DD, rtol=1e-10, atol=1e-10)
        assert torch.equal(sum_DD, sum_DD.T)
