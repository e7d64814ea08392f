"""Scorers: one file each; importing this folder loads no model library."""

from __future__ import annotations
