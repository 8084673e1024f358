"""What a user could do instead of tuning: write an instruction, show examples, count words.

    --rivals written:instruction.txt shots:4 written:instruction.txt+shots:4 tf_idf

The first three are the plain frozen model with words in front of each text; the last one is a
logistic regression on words, which needs no model.
"""

import dataclasses
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prompt_jax.backbones import Backbone
from prompt_jax.config import KINDS, Config, InputError
from prompt_jax.data import encode, sample
from prompt_jax.evaluate import evaluate
from prompt_jax.experiment.splits import Data
from prompt_jax.metrics import Scores, measure
from prompt_jax.tasks import Example, Message, Task, Text, as_chat
from prompt_jax.tasks.chat import SYSTEM


@dataclass(frozen=True)
class InContext:
    """The frozen model with an instruction and training rows in front of each text.

    In a chat the rows are earlier turns, and the instruction begins the first turn of the user.
    """

    name: str
    instruction: str = ""
    shots: int = 0

    @property
    def seeded(self) -> bool:
        """Whether a seed changes the answers: it draws the rows."""
        return self.shots > 0

    def check(self, data: Data, backbone: Backbone) -> None:
        """Checks that rows and model can answer so.

        Raises:
          InputError: too few training rows, a model that fills masks or reads, or answers that are
            parts of the text.
        """
        if backbone.target_place == "within" or KINDS[data.task.kind].marks_text:
            raise InputError(
                f"{self.name}: {backbone.name} answers a {data.task.kind} by marking the text or "
                "filling a mask, and words in front of it do not tell it how; use tf_idf, or a "
                "model that writes"
            )
        if self.shots > len(data.train):
            raise InputError(
                f"{self.name} shows {self.shots} training rows, and {data.task.name} has "
                f"{len(data.train)}; lower it, or name the task that has them with --data.task"
            )

    def scores(
        self, config: Config, data: Data, backbone: Backbone, examples: Sequence[Example], seed: int
    ) -> Scores:
        """Metrics on examples.

        Args:
          seed: draws the rows that are shown, every label with its share.

        Raises:
          InputError: a text with the words in front of it is longer than the model can read.
        """
        shown = list(sample(data.train, self.shots, data.task, seed))
        random.Random(seed).shuffle(shown)  # A file may have the rows of a label together.
        options = config.data
        if self.instruction or shown:
            short = examples[:1]
            examples = [self.in_front(data.task, shown, example) for example in examples]
            # Each text keeps the room that it has without the words in front.
            front = _longest(backbone, examples[:1]) - _longest(backbone, short)
            length = config.data.max_source_length + front
            options = dataclasses.replace(config.data, max_source_length=length)
        return evaluate(
            backbone, None, examples, data.task, data=options, eval=config.scoring
        ).metrics

    def in_front(self, task: Task, shown: Sequence[Example], example: Example) -> Example:
        """An example whose text stands behind the instruction and the rows that are shown."""
        text = example.source if isinstance(example.source, Text) else Text(example.source)
        front = f"{self.instruction}\n\n" if self.instruction else ""
        if not task.chat:
            gap = "" if task.source[-1:].isspace() else " "
            rows = "".join(f"{row.source}{gap}{row.target}\n\n" for row in shown)
            return example._replace(source=text.behind(front + rows))
        system = [turn for turn in text.turns if turn.role in SYSTEM]
        turns = [turn for turn in text.turns if turn.role not in SYSTEM]
        for row in reversed(shown):
            earlier = [t for t in as_chat(task, row.source).turns if t.role not in SYSTEM]
            turns = [*earlier, Message("assistant", row.target), *turns]
        # Where the text is the whole first turn, what of it may be cut moves with it.
        text = text.behind(front) if turns[0].content == text else text
        turns[0] = turns[0]._replace(content=front + turns[0].content)
        return example._replace(source=text.with_turns((*system, *turns)))


@dataclass(frozen=True)
class TfIdf:
    """Words and pairs of words by their TF-IDF, and a logistic regression on all training rows."""

    name: str = "tf_idf"
    seeded: bool = False

    def check(self, data: Data, backbone: Backbone) -> None:
        """Checks that there are labels to choose among, and rows to learn from.

        Raises:
          InputError: there are none.
        """
        if not data.task.choices:
            raise InputError(
                f"tf_idf chooses among label words, and {data.task.name} is a {data.task.kind} "
                "without them; leave it out"
            )
        if len({row.target for row in data.train}) < 2:
            raise InputError(
                f"tf_idf learns from training rows of two labels or more, and {data.task.name} has "
                f"{len(data.train)} rows here; name the task that has them with --data.task"
            )

    def scores(
        self, config: Config, data: Data, backbone: Backbone, examples: Sequence[Example], seed: int
    ) -> Scores:
        """Metrics on examples."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        words = TfidfVectorizer(ngram_range=(1, 2))
        model = make_pipeline(words, LogisticRegression(C=10, max_iter=2000))
        model.fit([str(row.source) for row in data.train], [row.target for row in data.train])
        answers = model.predict([str(row.source) for row in examples]).tolist()
        references = [row.references for row in examples]
        groups = [row.group for row in examples]
        return measure(data.task.metrics, answers, references, data.task.labels, groups)


Rival = InContext | TfIdf


def parse_rival(name: str) -> Rival:
    """The rival of a name: `written:FILE`, `shots:K`, both with a + between them, or `tf_idf`.

    Raises:
      InputError: another name, a file that is not there, or K that is no number from 0.
    """
    if name == TfIdf.name:
        return TfIdf()
    written, _, shots = name.partition("+") if name.startswith("written:") else ("", "", name)
    path, count = written.removeprefix("written:"), shots.removeprefix("shots:")
    if (not written and not shots.startswith("shots:")) or not (count or path):
        raise InputError(
            f"unknown rival {name!r}; allowed: written:FILE, shots:K, written:FILE+shots:K, tf_idf"
        )
    if count and not count.isdecimal():
        raise InputError(f"{name}: shots is a number of training rows, 0 or more, got {count!r}")
    if path and not Path(path).is_file():
        raise InputError(f"{name}: there is no file {path}; write the instruction into one")
    instruction = Path(path).read_text(encoding="utf-8").strip() if path else ""
    return InContext(name, instruction, int(count or 0))


def parse_rivals(names: Sequence[str], data: Data, backbone: Backbone) -> list[Rival]:
    """The rivals of several names, checked before anything is answered.

    Raises:
      InputError: as `parse_rival`, a name twice, or as `check`.
    """
    if len(set(names)) < len(names):
        raise InputError(f"name each rival once, got {', '.join(names)}")
    rivals = [parse_rival(name) for name in names]
    for rival in rivals:
        rival.check(data, backbone)
    return rivals


def _longest(backbone: Backbone, examples: Sequence[Example]) -> int:
    """Tokens of the longest text, whole."""
    sources = [example.source for example in examples]
    return max(map(len, encode(backbone.tokenizer, sources, sys.maxsize)))
