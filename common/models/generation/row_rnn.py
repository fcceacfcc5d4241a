"""A gated recurrent unit over the rows of an image (Cho et al. 2014, arXiv 1406.1078), from linear layers.

`torch.nn.GRU` hides its weights from the engines that clip per patient; linear layers do not.
"""

from typing import Annotated

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.models.generation.parts import own_task
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of, with_settings
from salus.common.strict import Strict
from salus.common.tasks.generation_rnn import RowSettings

MOST_NUMBERS = 2**16  # of one row: the output layer grows with it


class RowRnnSettings(Strict):
    """Settings of the recurrent network.

    Args:
        hidden_size: Numbers of its state.
    """

    hidden_size: Annotated[int, Field(ge=4, le=1024)] = 128


@with_settings(RowRnnSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network.

    Raises:
        JobError: another kind of task.
        ValueError: rows that are too long.
    """
    own, width = own_task(task, RowSettings, "generation-rnn"), task.channels * task.shape[-1]
    if width * own.mixtures > MOST_NUMBERS:
        raise ValueError(f"expected at most {MOST_NUMBERS} numbers in the mixtures of a row")
    outputs = own.mixtures * (1 + 2 * width)
    return RowRnn(width + len(task.classes), task.shape[0], settings_of(task, RowRnnSettings).hidden_size, outputs)


class RowRnn(nn.Module):
    """Numbers about each next row, from the rows before it and the image's class.

    Args:
        given: numbers of a row and of a class together.
        rows: of an image.
    """

    def __init__(self, given: int, rows: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.before = nn.Linear(given, 3 * hidden)
        self.place = nn.Linear(rows, 3 * hidden, bias=False)
        self.gates, self.candidate = nn.Linear(hidden, 2 * hidden, bias=False), nn.Linear(hidden, hidden)
        self.outputs = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
        self.rows, self.hidden = rows, hidden

    def forward(self, rows: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Return ``[items, rows, outputs]``.

        Args:
            rows: those before each, ``[items, rows, numbers]``.
            classes: ``[items, classes]``, 1 at the item's class.
        """
        return self.advance(rows, classes, None)[0]

    def advance(
        self, rows: torch.Tensor, classes: torch.Tensor, reached: tuple[int, torch.Tensor] | None
    ) -> tuple[torch.Tensor, tuple[int, torch.Tensor]]:
        """Return the outputs for further rows, and what was reached: the number of rows and the state."""
        first, state = (0, rows.new_zeros(len(rows), self.hidden)) if reached is None else reached
        count = rows.shape[1]
        each = torch.cat([rows, classes[:, None].expand(-1, count, -1)], dim=2)
        places = torch.eye(self.rows, dtype=rows.dtype, device=rows.device)[first : first + count]
        given = self.before(each) + self.place(places.expand(len(rows), -1, -1))
        states = []
        for row in given.unbind(dim=1):
            reset_update, new = row.split([2 * self.hidden, self.hidden], dim=1)
            reset, update = torch.sigmoid(reset_update + self.gates(state)).chunk(2, dim=1)
            # The reset acts behind the linear layer, as in torch's own unit.
            state = update * state + (1 - update) * torch.tanh(new + reset * self.candidate(state))
            states.append(state)
        return self.outputs(torch.stack(states, dim=1)), (first + count, state)
