"""One training of a benchmark's cell, from the start, and what it cost."""

from __future__ import annotations

import shutil
import time
from typing import Any

from visalign import jobs, registry
from visalign.cli.screen import Screen
from visalign.config import Run
from visalign.contract import Method


def trained(run: Run, screen: Screen) -> dict[str, Any]:
    """Train the run, whichever job it is of; its settings, passes and CPU seconds, for the cell's JSON."""
    method: Method = registry.build("method", run.method)
    began = time.process_time()
    shutil.rmtree(run.out, ignore_errors=True)
    summary = jobs.of(run).train(run, screen, resume=False).summary
    records = summary.steps * run.batch
    return {
        "method": dict(run.method),
        "learning_rate": run.optimizer.lr,
        "steps": summary.steps,
        "batch": run.batch,
        "ended": summary.stopped,
        "passes": {"policy": records * method.passes.policy, "free": records * method.passes.free},
        "cpu_seconds": round(time.process_time() - began, 1),
    }
