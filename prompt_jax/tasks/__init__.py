"""A dataset row becomes an input text and a target text.

A task is two templates, its label words or tags, and the metrics; everything here is pure, so the
same templates serve training, prediction and a served prompt.
"""

from prompt_jax.tasks.chat import answer_turn as answer_turn
from prompt_jax.tasks.chat import rendered as rendered
from prompt_jax.tasks.examples import Examples as Examples
from prompt_jax.tasks.examples import chat_of as chat_of
from prompt_jax.tasks.examples import completed as completed
from prompt_jax.tasks.examples import filled as filled
from prompt_jax.tasks.examples import known as known
from prompt_jax.tasks.examples import label_numbers as label_numbers
from prompt_jax.tasks.examples import labelled as labelled
from prompt_jax.tasks.examples import resolve as resolve
from prompt_jax.tasks.examples import taught as taught
from prompt_jax.tasks.examples import to_example as to_example
from prompt_jax.tasks.examples import to_examples as to_examples
from prompt_jax.tasks.examples import to_source as to_source
from prompt_jax.tasks.labels import label_word as label_word
from prompt_jax.tasks.labels import read_labels as read_labels
from prompt_jax.tasks.labels import remarks as remarks
from prompt_jax.tasks.labels import write_labels as write_labels
from prompt_jax.tasks.openings import openings as openings
from prompt_jax.tasks.series import HELD as HELD
from prompt_jax.tasks.series import SLICE as SLICE
from prompt_jax.tasks.series import Series as Series
from prompt_jax.tasks.series import digest_of as digest_of
from prompt_jax.tasks.series import joined as joined
from prompt_jax.tasks.series import taken as taken
from prompt_jax.tasks.series import uncollected as uncollected
from prompt_jax.tasks.table import EMBEDDED as EMBEDDED
from prompt_jax.tasks.table import TASKS as TASKS
from prompt_jax.tasks.table import TaskName as TaskName
from prompt_jax.tasks.table import parse_name as parse_name
from prompt_jax.tasks.table import validation_split as validation_split
from prompt_jax.tasks.task import Example as Example
from prompt_jax.tasks.task import Lesson as Lesson
from prompt_jax.tasks.task import Likely as Likely
from prompt_jax.tasks.task import Task as Task
from prompt_jax.tasks.task import as_chat as as_chat
from prompt_jax.tasks.task import conversation as conversation
from prompt_jax.tasks.text import Message as Message
from prompt_jax.tasks.text import Record as Record
from prompt_jax.tasks.text import Rendered as Rendered
from prompt_jax.tasks.text import Text as Text
from prompt_jax.tasks.text import cuts_of as cuts_of
from prompt_jax.tasks.text import place_of as place_of
from prompt_jax.tasks.text import words_of as words_of
