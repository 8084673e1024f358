"""Prompts that a decoder has read before any text: keys and values, once for each version."""

from collections import OrderedDict

import jax
import numpy as np

from prompt_jax.forward import Prefilled, PromptedModel
from prompt_jax.serve.bank import Bank, DeviceLeaves
from prompt_jax.serve.decoding import read_prompt
from prompt_jax.serve.prompts import Served


class ReadPrompts:
    """The virtual tokens of the latest prompts, as a row behind them sees them.

    What stands before a text sees nothing of it, and so is the same for all texts.

    Args:
      model: without a prompt.
      most: prompts that are kept. A board has the virtual tokens of each of its rows, so that as
        many prompts take no more memory than those.
    """

    def __init__(self, model: PromptedModel, bank: Bank, most: int):
        config = model.module.config
        self._model, self._bank, self._most = model, bank, most
        # An encoder, and a decoder that sees its input in both directions, read prompt and text
        # together.
        first = config.target_place == "behind" and not config.bidirectional_input
        behind = [True] if first and "prompt" in bank.layout else []
        together = [] if behind and "place" not in bank.layout else [False]
        self.ways = (*behind, *together)
        """Whether rows of this engine are read behind their prompts, or some are and some not."""
        self._kept: OrderedDict[str, Prefilled] = OrderedDict()  # The longest unused first.

    def have(self, served: Served) -> bool:
        """Whether rows of a prompt read their texts alone: it stands before them."""
        return True in self.ways and "place" not in served.leaves

    def of(self, served: Served, slot: int, leaves: DeviceLeaves) -> Prefilled:
        """A prompt as a row behind it sees it; read now unless it was before."""
        read = self._kept.pop(served.content, None)
        if read is None:
            read = read_prompt(self._model, leaves, np.full(1, slot, np.int32))
        self._kept[served.content] = read
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return read

    def shapes(self, leaves: dict[str, jax.ShapeDtypeStruct]) -> Prefilled:
        """The shapes of any of them, for compiling."""
        return jax.eval_shape(read_prompt, self._model, leaves, np.zeros(1, np.int32))

    def compile(self, leaves: dict[str, jax.ShapeDtypeStruct]) -> int:
        """Compiles what reads a prompt, in any thread; how many programs."""
        if True not in self.ways:
            return 0
        read_prompt.lower(self._model, leaves, np.zeros(1, np.int32)).compile()
        return 1
