"""Applications that people open in a browser or call over HTTP: doors onto the hub, none of them imported by it."""

from __future__ import annotations
