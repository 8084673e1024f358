"""A soft prompt on vLLM or SGLang: what a client sends, made without torch and without the model.

    soft = SoftPrompt.load("exported/films")
    client = openai.OpenAI(base_url="http://localhost:8000/v1", api_key="none")
    client.completions.create(**soft.completion("a fine film"), max_tokens=16, temperature=0)

The server takes embeddings in place of a text: the rows of the prompt among those of the text's
tokens. The table that has these is read where the backbone lies; nothing else of it is.

Source: vLLM's docs `features/prompt_embeds.md` and what its `renderers/embed_utils.py` checks;
SGLang's docs `basic_usage/sampling_params`, `input_embeds` of its `/generate`.
"""

import base64
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int32

from prompt_jax.config import IN_CHATS, InputError, choose
from prompt_jax.data.texts import pad, padded_length, tokenized
from prompt_jax.forward import PromptedModel
from prompt_jax.forward.places import check_places
from prompt_jax.forward.prompted import prepend
from prompt_jax.methods.lora import LoraConfig
from prompt_jax.prompts import Prompt, check_engine, load_shaped
from prompt_jax.serve.prompts import Served
from prompt_jax.tasks import Message
from prompt_jax.tasks.chat import SYSTEM, messages_of
from prompt_jax.weights import Words, load_words
from prompt_jax.weights.pickle import tensor_bytes
from prompt_jax.weights.stored import FLOATS

DTYPES = ("float32", "bfloat16", "float16")
"""What vLLM takes; it casts them to the type of its model."""
Chat: TypeAlias = Sequence[Mapping[str, object]]
"""Messages as OpenAI has them: `{"role": "user", "content": "..."}`."""
Request: TypeAlias = dict[str, object]
"""Arguments of a client's call, or the body of a request."""

_joined = jax.jit(prepend)


class _Read(NamedTuple):
    """A text as the model reads it."""

    embeddings: Float[np.ndarray, "S D"]
    before: int
    """Tokens of the text that stand before the prompt."""


@dataclasses.dataclass(frozen=True)
class SoftPrompt:
    """A prompt and the words of its backbone, which make requests for a server of that backbone."""

    prompt: Prompt
    words: Words
    model: str
    """What the server calls the backbone."""
    dtype: str
    """Of the embeddings that are sent, one of `DTYPES`."""

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        backbone: str | os.PathLike[str] = "",
        *,
        model: str = "",
        dtype: str = "auto",
    ) -> "SoftPrompt":
        """The prompt in a folder, and the words of its backbone.

        Args:
          folder: what `prompt-jax prompts export P FOLDER --to vllm` wrote, or any prompt folder.
          backbone: folder or hub id of the model; empty takes the one that the prompt names.
          model: what the server calls it (`--served-model-name`); empty is the prompt's name of it.
          dtype: of the embeddings; `auto` is that of the model's table.

        Raises:
          InputError: a prompt that is more than its input, a LoRA among them, which the server
            itself loads; or one of another backbone or tokenizer.
        """
        prompt = load_shaped(os.fspath(folder))
        check_engine(prompt, "vllm")
        if isinstance(prompt.method, LoraConfig):
            raise InputError(
                f"prompt {prompt.label!r} is a LoRA, which the server loads itself; name it as the "
                "model of a request, without this client"
            )
        words = load_words(backbone or prompt.backbone)
        if dtype == "auto":
            name = words.table.dtype.name
            dtype = name if name in DTYPES else "float32"
        choose("dtype", dtype, DTYPES)
        return cls(prompt.on(words.backbone), words, model or prompt.backbone, dtype)

    def tokens(self, text: str | Chat) -> Int32[np.ndarray, " T"]:
        """The tokens of a text or chat in the form that the prompt was trained on.

        Args:
          text: under a prompt of chats, a plain text is the user's turn, and the chat template is
            written around it.

        Raises:
          InputError: a chat that the template refuses.
        """
        (row,) = tokenized(self.words.backbone.tokenizer, [self._written(text)])[0]
        return np.asarray(row, np.int32)

    def embeddings(self, text: str | Chat) -> Float[np.ndarray, "S D"]:
        """The embeddings of a text or chat with the prompt in its place, as the model reads them.

        Args:
          text: as for `tokens`.

        Raises:
          InputError: a chat that the template refuses, or without the turn of the prompt.
        """
        return self._read(self.tokens(text)).embeddings

    def completion(self, text: str | Chat, **extra: object) -> Request:
        """Arguments of `client.completions.create`, for vLLM; beside them goes what OpenAI has.

        Args:
          text: as for `tokens`.
          extra: fields of vLLM's own, such as `top_k`.
        """
        body = {"prompt_embeds": payload(self.embeddings(text)), "stop_token_ids": self._ends}
        return {"model": self.model, "prompt": None, "extra_body": {**body, **extra}}

    def chat(self, messages: Chat) -> Request:
        """Arguments of `client.chat.completions.create`, for vLLM: the turn of the prompt embedded.

        The server itself writes the template around it, and reads the other messages as it does
        without a prompt. Rows and text are one part: between parts vLLM may write a line break,
        which is why `"content": [rows, text]` is another input than the one of training.

        Raises:
          InputError: the prompt does not stand in a turn, or this turn is not to be had apart.
        """
        injection = self.prompt.injection()
        if injection.placement not in IN_CHATS or injection.shift is not None:
            raise InputError(
                f"prompt {self.prompt.label!r} is {self.prompt.method.kind} of placement "
                f'"{injection.placement}", and a part of a message holds rows in a turn alone '
                f"({' or '.join(IN_CHATS)}); use completion, which takes chats too"
            )
        turns = getattr(self._written(messages), "turns", ())
        roles = SYSTEM if injection.placement == "system" else ("user",)
        place = next((i for i, turn in enumerate(turns) if turn.role in roles), None)
        if place is None:
            raise InputError(f"the chat has no message of {' or '.join(roles)}; add one")
        part = {"type": "prompt_embeds", "data": payload(self._turn(messages, turns[place]))}
        written: list[Request] = [turn._asdict() for turn in turns]
        written[place] = {"role": turns[place].role, "content": [part]}
        return {"model": self.model, "messages": written}

    def generate(self, text: str | Chat, **sampling: object) -> Request:
        """The body of SGLang's `POST /generate`.

        Args:
          text: as for `tokens`.
          sampling: its `sampling_params`, such as `max_new_tokens`.

        Raises:
          InputError: as `embeddings`, or a backbone whose embeddings SGLang scales once more.
        """
        check_engine(self.prompt, "sglang")
        rows = self.embeddings(text).astype(np.float32).tolist()
        return {
            "input_embeds": rows,
            "sampling_params": {"stop_token_ids": self._ends, **sampling},
        }

    def _read(self, row: Int32[np.ndarray, " T"]) -> "_Read":
        backbone, injection = self.words.backbone, self.prompt.injection()
        check_places(injection.placement, backbone, [row], ["the text"])
        # Padded to a few lengths, each of which is compiled once.
        tokens, mask = pad([row], padded_length(max(len(row), 1)), 0)
        embeddings = np.zeros((*tokens.shape, backbone.width), FLOATS[self.dtype])
        embeddings[0, : len(row)] = self.words.embed(row)
        model = PromptedModel.of(backbone, injection)
        before = model.before(jnp.asarray(tokens), jnp.asarray(mask))
        joined, real = _joined(injection, jnp.asarray(embeddings), jnp.asarray(mask), before)
        return _Read(np.asarray(joined)[np.asarray(real)], 0 if before is None else int(before[0]))

    def _turn(self, messages: Chat, turn: Message) -> Float[np.ndarray, "S D"]:
        """The prompt and the text of its turn: up to the control token that ends it."""
        tokenizer, row = self.words.backbone.tokenizer, self.tokens(messages)
        embeddings, before = self._read(row)
        controls = [*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()]
        ends = np.flatnonzero(np.isin(row[before:], controls))
        content = row[before : before + ends[0]] if ends.size else row[before:]
        words = tokenizer.decode(content, clean_up_tokenization_spaces=False)
        # Others are templates that end a turn by plain words, and texts whose first token has
        # swallowed the end of what opens the turn.
        if words not in (turn.content, turn.content.strip()):
            raise InputError(
                f"the tokens of the {turn.role}'s turn are those of {words!r:.60}, and the text is "
                f"{turn.content!r:.60}: the server would read others; use completion"
            )
        virtual = len(embeddings) - len(row)
        return embeddings[before : before + virtual + len(content)]

    @property
    def _ends(self) -> list[int]:
        """The tokens that end an answer here, which a server may not all know."""
        return list(self.words.backbone.config.eos_token_ids)

    def _written(self, text: str | Chat) -> str:
        served = Served(prompt=self.prompt)
        if isinstance(text, str):
            return served.trained_form(text)
        tokenizer = self.words.backbone.tokenizer
        return served.conversation(messages_of(text, "the chat"), tokenizer)


def payload(rows: Float[np.ndarray, "S D"]) -> str:
    """Rows as vLLM takes them in JSON: a tensor as torch saves it, in base64."""
    return base64.b64encode(tensor_bytes(rows)).decode()
