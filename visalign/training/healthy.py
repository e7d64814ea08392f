"""What each number that a training writes down says, and what it looks like in a run that goes well."""

from __future__ import annotations

from typing import NamedTuple


class Healthy(NamedTuple):
    """What a metric says, in a sentence, and the range it keeps to in a run that goes well."""

    meaning: str
    range: str


HEALTHY: dict[str, Healthy] = {
    "loss": Healthy(
        "The weighted mean of the loss over the step's records.",
        "starts at log 2 = 0.693 for DPO and falls; 0 for GRPO",
    ),
    "win_error": Healthy(
        "The policy's denoising error on the preferred items.", "near win_reference_error; never 20 % above"
    ),
    "lose_error": Healthy(
        "The policy's denoising error on the other items.", "a little above lose_reference_error; never 50 % above"
    ),
    "win_reference_error": Healthy("The reference's error on the preferred items.", "no trend: its weights are fixed"),
    "lose_reference_error": Healthy("The reference's error on the other items.", "no trend: its weights are fixed"),
    "win_logp": Healthy("Log-probability of the preferred answers, nats each.", "no steep fall"),
    "lose_logp": Healthy("Log-probability of the other answers, nats each.", "falls, not far faster than win_logp"),
    "win_ratio": Healthy(
        "How much likelier the preferred answers are than under the reference, nats each.",
        "0 at step 0; above -1 for each of win_tokens",
    ),
    "lose_ratio": Healthy("Likewise the other answers.", "0 at step 0, then below win_ratio"),
    "win_tokens": Healthy("Tokens of a preferred answer, its end mark included.", "no trend: the data's own"),
    "win_seen": Healthy("How much the picture helps the preferred answers, nats each.", "above 0; rises"),
    "image_margin": Healthy("The margin of a preferred answer over itself about a worse picture.", "rises above 0"),
    "kl_win": Healthy("KL(reference || policy) of the preferred answers, nats each.", "0 at step 0; a slow rise"),
    "kl_lose": Healthy("Likewise of the other answers.", "0 at step 0; a slow rise"),
    "beta": Healthy("How strictly a pair is held to the reference.", "MM-DPO: beta … beta (1 + strength)"),
    "margin": Healthy("What the sigmoid sees: beta times win minus lose log-ratio.", "0 at step 0, then above 0"),
    "margin_p05": Healthy("The margin of the worst 5 % of the pairs.", "above -5; far below: few pairs rule"),
    "margin_p50": Healthy("The median margin.", "0 at step 0, then above 0"),
    "margin_p95": Healthy("The margin of the best 5 % of the pairs.", "below 10; far above: beta or lr too high"),
    "implicit_accuracy": Healthy("Share of positive margins, ties as 1/2.", "0.5 at step 0; then 0.55 … 0.95"),
    "sigma_minus_margin": Healthy("sigmoid(-margin): how much of a pair is still learnt.", "0.5 at step 0; above 0.1"),
    "log_ratio": Healthy("How much likelier the item is under the policy, up to a factor.", "near 0; no steep fall"),
    "accuracy": Healthy("Share of votes that a reward model agrees with, its ties as 1/2.", "rises to 0.65 … 0.85"),
    "certainty": Healthy("What a reward model says that share is.", "at accuracy; above it: too sure of itself"),
    "vote_nll": Healthy("A reward model's negative log-likelihood of the votes.", "below log 2 = 0.693; falls"),
    "critique_nll": Healthy("A critic's negative log-likelihood of its critiques, nats a token.", "falls"),
    "score_gap": Healthy("How much higher a reward model scores what was preferred.", "above 0; rises, then stays"),
    "z0": Healthy("KTO's reference point: the mean log-ratio, not below 0.", "0 at step 0; a slow rise"),
    "captions_differ": Healthy(
        "Share of pairs whose two captions differ.", "1, less data.prompt_dropout; 0: plain DPO"
    ),
    "multiplier": Healthy("SmPO's M: how hard a pair is trained.", "above 0; -1 … 1 at a good span, up to 5 at most"),
    "subject_preferred": Healthy("Share of visits whose label is the subject's picture.", "no trend; 0.5 … 1"),
    "score": Healthy("The judge's mean score of what was drawn.", "rises slowly"),
    "score_spread": Healthy("How far a prompt's drawings differ in score.", "well above 0; near 0: all are alike"),
    "kept": Healthy("Share of steps (spo) or prompts (grpo) that are no tie.", "0.3 … 1; near 0: lower the threshold"),
    "kl": Healthy("How far the steps of drawings are from the reference's, a number.", "0 at step 0; a slow rise"),
    "frame_accuracy": Healthy(
        "Share of labelled frames with a margin above 0, ties as 1/2.", "0.5 at step 0; then 0.55 … 0.8"
    ),
    "labelled": Healthy("Share of latent frames with a label.", "no trend: the data's own; above 0.2"),
    "error": Healthy("The policy's denoising error on what it is trained on.", "falls a little"),
    "reward_weight": Healthy("How hard an item is trained, by its reward.", "no trend; a mean of 1 … 2"),
    "grad_norm": Healthy("The gradient's norm before clipping.", "above 0 at step 1; spikes below 10 times its median"),
    "lr": Healthy("The learning rate of the step.", "as set; a pure function of the step"),
    "seconds": Healthy("Wall time of the step.", "steady after the first steps"),
    "records_per_second": Healthy("Records an optimizer step, over its wall time.", "steady after the first steps"),
}
