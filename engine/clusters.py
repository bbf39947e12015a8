"""The near-duplicates among an answer's hits, with one score for each cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.dataset import Dataset
from engine.near_duplicates import near_duplicates
from engine.types import Cluster, Hit


def with_clusters(
    rows: Dataset, proponents: tuple[Hit, ...], opponents: tuple[Hit, ...], *, additive: bool
) -> tuple[tuple[Hit, ...], tuple[Hit, ...], tuple[Cluster, ...]]:
    """(proponents, opponents, clusters): the hits with the number of their cluster. Only hits are looked at.

    additive: the scores of several rows add up.
    """
    hits = [*proponents, *opponents]
    found = near_duplicates([rows[hit.position] for hit in hits])
    number_of = {member: number for number, members in enumerate(found, start=1) for member in members}
    numbered = tuple(replace(hit, cluster=number_of.get(place)) for place, hit in enumerate(hits))
    clusters = tuple(
        _cluster(number, hits, members, len(proponents), additive) for number, members in enumerate(found, start=1)
    )
    return numbered[: len(proponents)], numbered[len(proponents) :], clusters


def _cluster(number: int, hits: Sequence[Hit], members: Sequence[int], proponents: int, additive: bool) -> Cluster:
    chosen = [hits[member] for member in members]
    return Cluster(
        number=number,
        # not additive: of the list it begins in, the first is the strongest
        score=sum(hit.score for hit in chosen) if additive else chosen[0].score,
        additive=additive,
        positions=tuple(hit.position for hit in chosen),
        example_ids=tuple(hit.example_id for hit in chosen),
        ranks=tuple(hit.rank for hit in chosen),
        sides=tuple("proponent" if member < proponents else "opponent" for member in members),
    )
