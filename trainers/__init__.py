"""Training methods: one file a paper, each also a script (`accelerate launch -m visalign.trainers.NAME`)."""

from __future__ import annotations
