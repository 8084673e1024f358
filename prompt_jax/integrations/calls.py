"""What a call of LangChain's models may have: a prompt, and how its answer is written."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeAlias, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PrivateAttr, SkipValidation

from prompt_jax.config import InputError, choose
from prompt_jax.integrations.retries import awritten, written
from prompt_jax.integrations.sources import Call, Source
from prompt_jax.serve.streaming import Piece
from prompt_jax.tasks.text import Messages

Options: TypeAlias = dict[str, Any]
"""What a call names, by OpenAI's and LangChain's names."""
SAMPLING = (
    "max_tokens", "temperature", "top_p", "top_k", "seed", "repetition_penalty", "min_tokens",
    "stop_token_ids", "timeout",
)  # fmt: skip
OPTIONS = (*SAMPLING, "max_new_tokens", "model", "soft_prompt", "stop", "max_retries", "n")
"""What a call may have."""
Model = TypeVar("Model", bound="Prompted")


class Prompted(BaseModel):
    """A model with a source of answers and a prompt."""

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True, extra="forbid")

    source: SkipValidation[Source] = Field(exclude=True, repr=False)
    """`Local(engine)` or `Remote(url)`; copies of a model share it."""
    model: str = ""
    """`prompt` or `base:prompt`, as the server takes it; `soft_prompt` goes before it."""
    soft_prompt: str = ""
    """The name of a prompt; empty is the frozen model alone."""
    require_prompt: bool = False
    """Whether a call without a prompt is an error, as one with a misspelt key of a config is."""
    max_retries: int = 2
    """Further tries where too many requests wait (429) or a server begins anew (503)."""
    _identity: dict[str, str] | None = PrivateAttr(default=None)
    """What `identity_of` gives, where it was looked up before LangChain's cache asks."""

    def with_prompt(self: Model, name: str) -> Model:
        """The same model under a prompt.

        Raises:
          UnknownPromptError: there is none of this name.
        """
        self.source.digest(name)
        return self.model_copy(update={"soft_prompt": name})

    def prompt_of(self, options: Options) -> str:
        """Which prompt a call means.

        Args:
          options: of the call itself, `soft_prompt` or `model` among them.
        """
        name = options.get("soft_prompt") or options.get("model") or self.soft_prompt or self.model
        name = name.removeprefix(f"{self.source.base}:")
        name = "" if name == self.source.base else name
        if not name and self.require_prompt:
            raise InputError("no prompt is named and require_prompt is set; give soft_prompt")
        return name

    def looked_up(self: Model, options: Options) -> Model:
        """A copy that knows its identity, so that a cache's question asks no server."""
        settled = self.model_copy()
        settled._identity = self.identity_of(options)
        return settled

    @property
    def about(self) -> dict[str, str]:
        """Its base and its prompt, without a look at what the name stands for now."""
        return {"base": self.source.base, "soft_prompt": self.prompt_of({})}

    def identity_of(self, options: Options) -> dict[str, str]:
        """What decides an answer beside its text, for caches: a new version is another identity."""
        name = self.prompt_of(options)
        return {"base": self.source.base, "soft_prompt": name, "digest": self.source.digest(name)}


class Writing(Prompted):
    """A model that writes, and how its answers are written."""

    temperature: float = 0.0
    """0 is greedy."""
    max_tokens: int | None = Field(
        default=None, validation_alias=AliasChoices("max_tokens", "max_new_tokens")
    )
    """Tokens of an answer at most; `max_new_tokens` is another name for it."""
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    """Of what is drawn; without one every call draws anew."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that a decoder has read or written become less likely."""
    min_tokens: int = 0
    """Tokens before an answer may end."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end an answer beside the model's own."""
    stop: list[str] | None = Field(default=None, alias="stop_sequences")
    timeout: float | None = None
    """Seconds of a call."""
    # Neither printed nor saved with the model, since it may be a secret.
    api_key: SkipValidation[object] = Field(default=None, exclude=True, repr=False)
    """Accepted and without effect: the key is that of the source, `Remote(url, api_key)`."""
    streaming: bool = False
    """Whether LangChain reads an answer as it is written, where a call may choose."""

    def call(self, input: str | Messages, stop: list[str] | None, options: Options) -> Call:
        """A text or a chat, and how it shall be answered."""
        options = options_of(options)
        sampling = {name: options.get(name, getattr(self, name)) for name in SAMPLING}
        stops = tuple(stop or self.stop or ())
        retries = options.get("max_retries", self.max_retries)
        return Call(input, self.prompt_of(options), **sampling, stops=stops, retries=retries)

    def written(self, call: Call) -> Iterator[Piece]:
        """An answer as it is written."""
        return written(lambda: self.source.write(call), call.retries)

    def awritten(self, call: Call) -> AsyncIterator[Piece]:
        """As `written`, for an event loop."""
        return awritten(lambda: self.source.awrite(call), call.retries)

    @property
    def sampling(self) -> Options:
        """The fields that decide an answer."""
        names = [*SAMPLING, "stop"]
        return {name: getattr(self, name) for name in names if name != "timeout"}


def options_of(options: Options) -> Options:
    """The options of a call under the names that they have here; None asks for nothing."""
    options = {name: value for name, value in options.items() if value is not None}
    for name in options:
        choose("option of a call", name, OPTIONS)
    answers = options.pop("n", 1)
    if answers != 1:
        raise InputError(
            f"n is {answers} and a call has one answer; use batch, with a seed for each"
        )
    if "max_new_tokens" in options:
        limit = options.pop("max_new_tokens")
        if options.setdefault("max_tokens", limit) != limit:
            raise InputError(
                f"max_tokens is {options['max_tokens']} and max_new_tokens {limit}, which is the "
                "same option; give one of them"
            )
    return options
