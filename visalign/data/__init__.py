"""Preference records on disk and as batches: `sources` and `store` read, `encode` caches, `views` make batches."""

from __future__ import annotations
