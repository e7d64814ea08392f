"""Recipes: one YAML each, opening with the command that runs it; read them through importlib.resources."""

from __future__ import annotations
