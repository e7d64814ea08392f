"""Preference records on disk: stores, sources, views onto batches, and cached encodings."""

from __future__ import annotations
