"""Evaluation: paired win rates with confidence intervals, per-aspect accuracies, image statistics, the report."""

from __future__ import annotations
