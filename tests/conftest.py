"""One thread and no network for every test: sums in one order, and nothing that only works online."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, so before anything else

import torch

torch.set_num_threads(1)
