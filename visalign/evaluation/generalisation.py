"""How well what was learnt carries over: the generalisation factor of SPECS (arXiv 2510.25801)."""

from __future__ import annotations


def generalisation_factor(inside: float, outside: float, beta: float = 2.0) -> float:
    """(1 + beta^2) G_in G_out / (beta^2 G_in + G_out), an F-measure of gains inside and outside of the training's task.

    Gains are positive and in one unit, per cent of accuracy say; beta above 1 makes the outside count more. ValueError
    for a gain that is not positive, of which no such mean exists.
    """
    if not (inside > 0 and outside > 0 and beta > 0):
        raise ValueError(f"gains and beta must be positive, got {inside}, {outside} and {beta}")
    return (1 + beta**2) * inside * outside / (beta**2 * inside + outside)
