"""What requests may hold; what is not here is passed over or, where it would matter, refused."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[
    str, StringConstraints(max_length=200), Field(json_schema_extra={"format": "prompt"})
]
"""What names a prompt; every such field is one that a key's patterns hold for."""
Text = Annotated[str, StringConstraints(min_length=1, max_length=100_000)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
UNSUPPORTED = (
    "tools", "tool_choice", "functions", "logit_bias", "response_format", "presence_penalty",
    "frequency_penalty", "best_of", "suffix", "echo", "bad_words", "min_p", "use_beam_search",
    "length_penalty", "ignore_eos", "allowed_token_ids", "logits_processors", "guided_json",
    "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "prompt_logprobs",
    "no_repeat_ngram_size",
)  # fmt: skip
"""Fields that change an answer and that nothing here does, of OpenAI's API and of vLLM's; null,
false, 0 and 1 ask for nothing."""


class Body(BaseModel):
    """Any request: fields that are not known are passed over, as OpenAI's clients expect."""

    model_config = ConfigDict(extra="allow")


class Composition(Body):
    """A prompt made of several, as `prompt_jax.compose` makes it."""

    prompts: Annotated[list[Name], Field(min_length=2, max_length=8)]
    how: Literal["concat", "average", "weighted", "task_arithmetic"] = "concat"
    weights: (
        Annotated[list[Annotated[float, Field(ge=-100, le=100)]], Field(max_length=8)] | None
    ) = None


class Prompted(Body):
    """A request to the model under a prompt."""

    model: Name = ""
    compose: Composition | None = None
    """In place of `model`."""


class Sampling(Prompted):
    """How an answer is written."""

    max_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=2**20)] = 0
    seed: Seed = 0
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    min_tokens: Annotated[int, Field(ge=0, le=4096)] = 0
    stop_token_ids: Annotated[list[int], Field(max_length=8)] | None = None
    n: Annotated[int, Field(ge=1, le=8)] = 1
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool = False
    stream_options: dict[str, object] | None = None
    logprobs: bool | Annotated[int, Field(ge=0, le=1)] | None = None

    @property
    def limit(self) -> int | None:
        """Tokens of an answer, under whichever of OpenAI's two names."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> list[str]:
        """All stop sequences."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class CompletionRequest(Sampling):
    """`/v1/completions`."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=64)]


class Message(Body):
    """A turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[dict[str, object]], Field(min_length=1, max_length=64)]


class ChatRequest(Sampling):
    """`/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=256)]


class EmbeddingRequest(Prompted):
    """`/v1/embeddings`."""

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=64)]
    encoding_format: Literal["float", "base64"] = "float"


class ClassifyRequest(Prompted):
    """`/v1/classify`: by the prompt's own head, or among label words."""

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=64)]
    labels: Annotated[list[Stop], Field(min_length=2, max_length=64)] | None = None
    prompts: Annotated[list[Name], Field(min_length=1, max_length=16)] | None = None
    """An ensemble, in place of `model`."""
    how: Literal["average", "vote", "weighted"] = "average"
    weights: Annotated[list[Annotated[float, Field(ge=0)]], Field(max_length=16)] | None = None


class GenerateRequest(Sampling):
    """`/v1/generate`: a prompt for every text."""

    text: Text | Annotated[list[Text], Field(min_length=1, max_length=64)]
    prompts: Annotated[list[Name | None], Field(max_length=64)] | None = None


class LoadRequest(Body):
    """`/v1/load_lora_adapter`, as vLLM has it; the path is a name in the store and no path."""

    lora_name: Name
    lora_path: Name
    load_inplace: bool = False


class UnloadRequest(Body):
    """`/v1/unload_lora_adapter`."""

    lora_name: Name


class AliasRequest(Body):
    """`/v1/prompts/{name}/aliases/{alias}`."""

    version: Annotated[int, Field(ge=1, lt=10**9)]
