"""Adapters: how any diffusers or transformers model becomes a policy with its reference."""

from __future__ import annotations
