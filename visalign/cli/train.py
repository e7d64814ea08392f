"""visalign train: a recipe, changes, a run folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import words

if TYPE_CHECKING:
    from ..config import Run
    from ..jobs import Job, Outcome
    from .screen import Screen

EXAMPLE = "visalign train playground_dpo optimizer.lr=2e-5 method.beta=2000 out=runs/mine"


def add(commands: words.Commands) -> None:
    """The command."""
    made = words.command(commands, "train", "align a model: a recipe and your changes to a run folder", EXAMPLE, run)
    made.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a recipe (visalign list recipe)")
    made.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="changes by dotted path, as in optimizer.lr=1e-5")
    made.add_argument("--dry-run", action="store_true", help="print the filled run and what it costs, and stop")
    made.add_argument("--no-resume", action="store_true", help="start over, although the run folder holds checkpoints")
    made.set_defaults(takes_changes=True)


def run(given: Any) -> int:
    """Train, or say what training would cost."""
    from .. import config, jobs
    from .screen import Screen

    settings = config.load(given.recipe, [*given.changes, *given.rest])
    job, screen = jobs.of(settings), Screen(silent=not words.first_process())
    if given.dry_run:
        return show(job, settings, screen)
    outcome = job.train(settings, screen, resume=not given.no_resume)
    summarize(outcome, screen)
    return 130 if outcome.summary.stopped == "signal" else 0


def show(job: Job, settings: Run, screen: Screen) -> int:
    """Print the run as YAML, and what it would do and cost."""
    from .. import config

    plan = job.plan(settings)
    screen.say(config.to_yaml(settings))
    screen.table(plan.title, ["", ""], plan.rows, plan.note)
    return 0


def summarize(outcome: Outcome, screen: Screen) -> None:
    """How it ended, what each metric should look like, and where everything is."""
    from ..training.healthy import HEALTHY

    summary = outcome.summary
    for line in summary.notes:
        screen.say(f"resumed: {line}")
    rows = [
        [name, f"{summary.last[name]:.4g}", healthy.range] for name, healthy in HEALTHY.items() if name in summary.last
    ]
    screen.table("The last step, and what is healthy", ["metric", "value", "healthy"], rows)
    if outcome.quarantine:
        listed = outcome.quarantine[0]
        screen.warn(f"{len(outcome.quarantine)} records set aside, the first {listed.key}: {listed.reason}")
    for reason, count in outcome.left_out.items():
        screen.say(f"{count} records left out: {reason}")
    if summary.skipped:
        screen.warn(f"{summary.skipped} steps skipped: something was not finite")
    if summary.stopped == "collapse":
        screen.warn(f"stopped early: {summary.why}")
    if summary.stopped == "validation":
        screen.say(f"stopped: {summary.why}")
    if summary.stopped == "signal":
        screen.warn("stopped by a signal after a checkpoint; the same command goes on from there")
    if outcome.attention is not None:
        screen.say(f"attention: {outcome.attention.resolved} ({outcome.attention.reason})")
    screen.say(
        f"{summary.steps} steps on {summary.records} records in {summary.seconds:.0f} s; weights in {outcome.weights}"
    )
    if outcome.next:
        screen.say(f"next: {outcome.next}")
