"""What a method costs elsewhere: the loss on other text, with and without it.

    prompt-jax compare --methods lora,prompt_tuning --forgetting file:book.txt

Each text is halved, and the loss is that of writing its second half behind the first one, in nats a
token. A method that is left out again, as a prompt is, forgets nothing once it is; this is the
loss while it is there.
"""

from prompt_jax.answers import target_likelihood
from prompt_jax.backbones import Backbone
from prompt_jax.config import Config, InputError
from prompt_jax.data import load_table, sample, splits
from prompt_jax.experiment.splits import Data, for_backbone
from prompt_jax.forward import Injection
from prompt_jax.tasks import Example, Record, Task, Text

ROWS = 200
"""Texts that are read, drawn by `data.seed`."""
COLUMNS = ("text", "target")
"""Where a row has its text, the first that is there."""


class OtherText:
    """Texts of another task, as a backbone is to go on with them.

    Args:
      name: a file or a dataset, as `data.task`; of several splits, a test or validation one.

    Raises:
      InputError: no text to halve, or a model that writes none.
    """

    def __init__(self, name: str, config: Config, backbone: Backbone):
        if backbone.target_place == "within":
            raise InputError(
                f"{backbone.name} writes no text, so it has no loss on {name}; leave out "
                "--forgetting"
            )
        parts = splits(name)
        split = next((part for part in ("test", "validation") if part in parts), parts[0])
        table = load_table(name, split, config.data.first_rows)
        pairs = [pair for place, row in table for pair in _halves(name, row, place)]
        if not pairs:
            raise InputError(f"{name} has no text of two words or more to halve; give another")
        task = Task(name=name, source="{text}", target="{text}", kind="generation")
        chosen = sample(pairs, ROWS, task, config.data.seed)
        self._config, self._backbone = config, backbone
        self._data = for_backbone(Data(task, chosen, [], {}), config, backbone)

    def loss(self, injection: Injection | None) -> float:
        """Of a token of the second halves, in nats."""
        rows = self._data.train
        return -target_likelihood(
            self._backbone,
            injection,
            [row.source for row in rows],
            [row.target for row in rows],
            self._data.task,
            data=self._config.data,
            eval=self._config.scoring,
        )


def _halves(name: str, row: Record, place: str) -> list[Example]:
    column = next((column for column in COLUMNS if column in row), None)
    if column is None:
        raise InputError(
            f"{place} of {name} has the columns {', '.join(row)}, and a text to halve is looked "
            f"for in {' or '.join(COLUMNS)}; rename the one that holds it"
        )
    words = str(row[column] or "").split()
    if len(words) < 2:
        return []
    middle = len(words) // 2
    return [Example(Text(" ".join(words[:middle]), place), " ".join(words[middle:]))]
