"""A model that says what it makes of an answer, and then gives it a number: MM-RLHF's reward model, arXiv 2502.10391.

Beside the language model's own head stands a small one, read once the whole critique was: from its last token, the
question, the answer that is judged and everything that was said of it lie behind.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..batches import Dialogues
from ..contract import Criticised
from .mllm import SeeingModel
from .states import WeightsError, read

HEAD, ABOUT = "reward_head.safetensors", "reward_head.json"


def criticism(wording: str, question: str, answer: str) -> str:
    """What a critic is asked: the wording with {question} and {answer} in their places, whatever these hold."""
    said = {"{question}": question, "{answer}": answer}
    return re.sub("|".join(map(re.escape, said)), lambda hole: said[hole[0]], wording)


class RewardHead(nn.Module):
    """Dropout, a linear layer, tanh, dropout, and a linear layer to one number, in float32.

    `dropout` is the share of what is dropped in training. The released code takes it from its model's settings; here it
    is 0 unless it is given, so that a batch of four is four batches of one.
    """

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout lies in 0 … 1 (not 1), got {dropout}")
        self.dropout = dropout
        self.layers = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(width, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, 1)
        )

    def forward(self, states: Tensor) -> Tensor:
        """(n,) scores of states (n, width)."""
        with torch.autocast(states.device.type, enabled=False):
            found: Tensor = self.layers(states.to(next(self.parameters()).dtype))[:, 0]
        return found


class CriticModel(SeeingModel):
    """A model that sees with a reward head; `wording` is how it is asked about an answer (`data.critique`)."""

    def __init__(self, model: SeeingModel, head: RewardHead, wording: str) -> None:
        super().__init__(model.weights, resolution=model.attention, identify=model._identify)
        self.head, self.wording = head, wording

    def trainable(self) -> dict[str, nn.Parameter]:
        """What training changes, by name: the model's weights and the head's."""
        return {**super().trainable(), **{f"head.{name}": each for name, each in self.head.named_parameters()}}

    def criticise(self, dialogues: Dialogues) -> Criticised:
        """What the trained network says of the critiques, and the head's scores behind their last tokens."""
        spoken = self.policy(dialogues, hidden=-1)
        assert spoken.hidden is not None
        return Criticised(spoken, self.head(last_states(spoken.hidden, dialogues.attention)))

    def save(self, folder: Path) -> None:
        """Write the head, its settings and the wording beside the weights that lie in `folder`."""
        from safetensors.torch import save_file

        save_file(
            {name: each.detach().cpu().contiguous() for name, each in self.head.state_dict().items()}, folder / HEAD
        )
        about = {"dropout": self.head.dropout, "critique": self.wording}
        (folder / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def last_states(hidden: Tensor, attention: Tensor) -> Tensor:
    """(n, width) states (n, L, width) of each row's last token, which padding may follow or precede."""
    places = torch.arange(attention.shape[1], device=attention.device).where(attention, -1).amax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), places]


def with_head(
    model: SeeingModel, folder: Path, wording: str | None = None, *, seed: int = 0, **settings: Any
) -> CriticModel:
    """The model with the head that lies in `folder`, or with a new one of `settings`, drawn from the seed.

    `wording` None takes that of the head's training. ValueError if there is neither, and TypeError or ValueError for
    settings that a head does not have.
    """
    width = model.network.config.get_text_config().hidden_size
    said = json.loads((folder / ABOUT).read_text(encoding="utf-8")) if (folder / ABOUT).is_file() else {}
    if not said and wording is None:
        raise ValueError(f"{folder} is no published critic: it has no {ABOUT}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = RewardHead(width, **({"dropout": said["dropout"]} | settings if said else settings))
    if said:
        load(head, folder / HEAD)
    head.to(next(model.network.parameters()).device)
    return CriticModel(model, head, said["critique"] if wording is None else wording)


def load(head: RewardHead, file: Path) -> None:
    """Put the weights of a file into the head; WeightsError if they are of another model's."""
    state, known = read(file), head.state_dict()
    if {name: each.shape for name, each in state.items()} != {name: each.shape for name, each in known.items()}:
        raise WeightsError(f"the reward head in {file} is of another model, whose states are of another width")
    head.load_state_dict(state)
