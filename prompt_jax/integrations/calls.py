"""What a call of LangChain's models may have: a prompt, and how its answer is written."""

from typing import Any, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SkipValidation

from prompt_jax.config import InputError, choose
from prompt_jax.integrations.sources import Asked, Source

HOW = ("max_tokens", "temperature", "top_p", "top_k", "seed", "timeout")
OPTIONS = (*HOW, "max_new_tokens", "model", "soft_prompt", "stop", "max_retries", "n")
"""What a call may have."""
Model = TypeVar("Model", bound="Prompted")


class Prompted(BaseModel):
    """What all of these models have: a source, a prompt, and how answers are written."""

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True, extra="forbid")

    source: SkipValidation[Any] = Field(exclude=True, repr=False)
    """`Local(engine)` or `Remote(url)`; models that are made of each other share it."""
    model: str = ""
    """`prompt` or `base:prompt`, as the server takes it; `soft_prompt` goes before it."""
    soft_prompt: str = ""
    """The name of a prompt; empty is the frozen model alone."""
    require_prompt: bool = False
    """Whether a call without a prompt is an error, as one with a misspelt key of a config is."""

    def with_prompt(self: Model, name: str) -> Model:
        """The same model under a prompt.

        Raises:
          UnknownPromptError: there is none of this name.
        """
        self.source.digest(name)
        return self.model_copy(update={"soft_prompt": name})

    def prompt_of(self, given: dict[str, Any]) -> str:
        """Which prompt a call means.

        Args:
          given: what the call itself names, `soft_prompt` or `model`.

        Raises:
          InputError: none, where one is required.
        """
        named = [given.get("soft_prompt"), given.get("model"), self.soft_prompt, self.model]
        name = next((each for each in named if each), "")
        source: Source = self.source
        name = name.removeprefix(f"{source.base}:")
        name = "" if name == source.base else name
        if not name and self.require_prompt:
            raise InputError("no prompt is named and require_prompt is set; give soft_prompt")
        return name

    def identity_of(self, given: dict[str, Any]) -> dict[str, str]:
        """What decides an answer beside its text: caches that know it never lie."""
        name = self.prompt_of(given)
        return {"base": self.source.base, "soft_prompt": name, "digest": self.source.digest(name)}


class Writing(Prompted):
    """Those that write."""

    temperature: float = 0.0
    """0 is greedy."""
    max_tokens: int | None = Field(
        default=None, validation_alias=AliasChoices("max_tokens", "max_new_tokens")
    )
    """Of an answer at most; `max_new_tokens` is another name for it."""
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: list[str] | None = Field(default=None, alias="stop_sequences")
    timeout: float | None = None
    """Seconds of a call."""
    max_retries: int = 0
    """Taken for others' sake: a call is tried once."""
    api_key: SkipValidation[Any] = Field(default=None, exclude=True, repr=False)
    """Taken for others' sake: the key is that of the source, `Remote(url, api_key)`."""
    streaming: bool = False
    """Whether LangChain reads an answer as it is written, where a call may choose."""

    def asked(self, text: str, stop: list[str] | None, given: dict[str, Any]) -> Asked:
        """A text and how it shall be answered.

        Raises:
          InputError: the call has an option that is not known.
        """
        options = options_of(given)
        how = {name: options.get(name, getattr(self, name)) for name in HOW}
        stops = tuple(stop or self.stop or ())
        return Asked(text, self.prompt_of(options), **how, stops=stops)

    @property
    def sampling(self) -> dict[str, Any]:
        """What of it decides an answer."""
        names = ("temperature", "max_tokens", "top_p", "top_k", "seed", "stop")
        return {name: getattr(self, name) for name in names}


def options_of(given: dict[str, Any]) -> dict[str, Any]:
    """The options of a call under the names that they have here; None asks for nothing.

    Raises:
      InputError: one that is not known, or that cannot be had.
    """
    options = {name: value for name, value in given.items() if value is not None}
    for name in options:
        choose("option of a call", name, OPTIONS)
    if options.pop("n", 1) != 1:
        raise InputError(
            f"n is {given['n']} and a call has one answer; use batch, with a seed for each"
        )
    if "max_new_tokens" in options:
        most = options.pop("max_new_tokens")
        if options.setdefault("max_tokens", most) != most:
            raise InputError(
                f"max_tokens is {options['max_tokens']} and max_new_tokens {most}, which is the "
                "same option; give one of them"
            )
    return options
