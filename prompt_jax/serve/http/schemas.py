"""What requests may hold; an unknown field is refused, unless it asks for nothing."""

from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, Strict, StringConstraints
from pydantic import model_validator as validated
from pydantic_core import PydanticCustomError

from prompt_jax.config.writing import COLDEST
from prompt_jax.serve.sampling import TOP

Int = Annotated[int, Strict()]
Float = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]
Name = Annotated[
    str, StringConstraints(max_length=200), Field(json_schema_extra={"format": "prompt"})
]
"""What names a prompt; every such field is one that a key's patterns hold for."""
Text = Annotated[str, StringConstraints(max_length=100_000)]
Tokens = Annotated[list[Annotated[Int, Field(ge=0)]], Field(max_length=100_000)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Seed = Annotated[Int, Field(ge=-(2**63), lt=2**63)]
# Clients write 1e-8 where others take no 0.
Temperature = Annotated[
    Float, Field(ge=0, le=2), AfterValidator(lambda value: 0.0 if value < COLDEST else value)
]
Share = Annotated[Float, Field(gt=0, le=1)]
Value: TypeAlias = object
"""Any value of JSON."""
NEUTRAL: dict[str, tuple[Value, ...]] = {
    "add_generation_prompt": (True,), "add_special_tokens": (True,), "allowed_token_ids": ([],),
    "annotations": ([],), "background": (False,), "bad_words": ([],), "best_of": (1,),
    "chat_template_kwargs": ({},), "continue_final_message": (False,), "detokenize": (True,),
    "documents": ([],), "early_stopping": (False,), "echo": (False,),
    "frequency_penalty": (0,), "function_call": ("none", "auto"), "functions": ([],),
    "ignore_eos": (False,), "include": ([],), "include_obfuscation": (True, False),
    "include_stop_str_in_output": (False,), "length_penalty": (1,), "logit_bias": ({},),
    "logits_processors": ([],), "min_p": (0,), "modalities": (["text"],),
    "no_repeat_ngram_size": (0,), "parallel_tool_calls": (True, False),
    "presence_penalty": (0,), "priority": (0,), "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},), "service_tier": ("auto", "default"),
    "skip_special_tokens": (True,), "spaces_between_special_tokens": (True,), "store": (False,),
    "suffix": ("",), "text": ({"format": {"type": "text"}}, {}), "tool_calls": ([],),
    "tool_choice": ("none", "auto"), "tools": ([],), "top_logprobs": (0,),
    "truncation": ("disabled",), "typical_p": (1,), "use_beam_search": (False,),
    "verbosity": ("medium",),
}  # fmt: skip
"""Fields of OpenAI's API and of vLLM's that nothing here does, and values that ask for nothing."""
ABOUT = (
    "cache_salt", "lora_int_id", "metadata", "name", "prompt_cache_key", "prompt_cache_retention",
    "request_id", "safety_identifier", "user",
)  # fmt: skip
"""Fields that tell who asks, and change no answer."""


class Body(BaseModel):
    """Any request.

    Null is as if the field were not there, as OpenAI takes it.
    """

    @validated(mode="before")
    @classmethod
    def _asking(cls, body: Value) -> Value:
        """The fields that ask for something."""
        if not isinstance(body, dict):
            return body
        fields = {name: value for name, value in body.items() if value is not None}
        for name, value in fields.items():
            if name in cls.model_fields or name in ABOUT:
                continue
            if not any(_same(value, neutral) for neutral in NEUTRAL.get(name, ())):
                raise PydanticCustomError(
                    "unsupported",
                    "{field} is not supported here; allowed: {allowed}",
                    {"field": written(name)[:80], "allowed": ", ".join(cls.model_fields)},
                )
        return fields


def written(name: object) -> str:
    """A name of a field as an error can have it: half a character is no UTF-8."""
    return str(name).encode(errors="backslashreplace").decode()


def _same(value: Value, neutral: Value) -> bool:
    # True == 1 and False == 0 in Python, and to a client they are other values.
    return isinstance(value, bool) == isinstance(neutral, bool) and value == neutral


def twice(field: str, twin: str) -> PydanticCustomError:
    """The error of two fields that mean the same."""
    fields = {"field": field, "twin": twin}
    return PydanticCustomError("unsupported", "{field} and {twin} are both set; give one", fields)


def listed(value: Value) -> Value:
    """One text, or the tokens of one, as a list of it."""
    tokens = isinstance(value, list) and bool(value) and all(type(item) is int for item in value)
    return [value] if tokens or isinstance(value, str) else value


Inputs = Annotated[
    list[Text | Tokens],
    Field(min_length=1, max_length=64),
    BeforeValidator(listed, json_schema_input_type=Text | Tokens | list[Text] | list[Tokens]),
]
"""A text or several, each in words or in tokens."""


class Composition(Body):
    """A prompt made of several, as `prompt_jax.compose` makes it."""

    prompts: Annotated[list[Name], Field(min_length=2, max_length=8)]
    how: Literal["concat", "average", "weighted", "task_arithmetic"] = "concat"
    weights: (
        Annotated[list[Annotated[Float, Field(ge=-100, le=100)]], Field(max_length=8)] | None
    ) = None


class Prompted(Body):
    """A request to the model under a prompt."""

    model: Name = ""
    compose: Composition | None = None
    """In place of `model`."""
    truncate_prompt_tokens: Annotated[Int, Field(ge=-1)] | None = None
    """Tokens that a longer text is cut to; -1 is the most that the server reads."""

    @validated(mode="after")
    def _one_prompt(self) -> "Prompted":
        if self.model and self.compose:
            raise twice("compose", "model")
        return self


class StreamOptions(Body):
    """What a stream tells beside the answer."""

    include_usage: Flag = False


class Sampling(Prompted):
    """How an answer is written."""

    max_tokens: Annotated[Int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[Int, Field(ge=1)] | None = None
    temperature: Temperature = 0.0
    top_p: Share = 1.0
    top_k: Annotated[Int, Field(ge=-1, le=2**20)] = 0
    """0 and -1 are all."""
    seed: Seed | None = None
    """Without one every request draws anew."""
    repetition_penalty: Annotated[Float, Field(gt=0, le=10)] = 1.0
    min_tokens: Annotated[Int, Field(ge=0)] = 0
    stop_token_ids: Annotated[list[Int], Field(max_length=8)] | None = None
    n: Annotated[Int, Field(ge=1, le=8)] = 1
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stream: Flag = False
    stream_options: StreamOptions | None = None

    @validated(mode="after")
    def _one_limit(self) -> "Sampling":
        if self.max_tokens and self.max_completion_tokens not in (None, self.max_tokens):
            raise twice("max_completion_tokens", "max_tokens")
        return self

    @property
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens to report beside every token; None reports no tokens."""
        return None

    @property
    def limit(self) -> int | None:
        """Tokens of an answer, under whichever of OpenAI's two names."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> list[str]:
        """All stop sequences."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class WithTokens(Sampling):
    """Whose answers may come with their tokens."""

    logprobs: Flag | Annotated[Int, Field(ge=0, le=TOP)] | None = None
    """True is 0: the tokens of the answer and no others."""

    @property
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens to report beside every token; None reports no tokens."""
        if self.logprobs is None or self.logprobs is False:
            return None
        return 0 if self.logprobs is True else self.logprobs


class CompletionRequest(WithTokens):
    """`/v1/completions`."""

    prompt: Inputs
    echo: Flag = False
    """Whether an answer begins with the text."""


def as_text(kind: Value) -> Value:
    """The kind of a part; `/v1/responses` has two names for a text."""
    return "text" if kind in ("input_text", "output_text") else kind


class Part(BaseModel, extra="allow"):
    """A part of a message."""

    type: Annotated[str, BeforeValidator(as_text)] = "text"


Role = Literal["system", "developer", "user", "assistant"]


class Message(Body):
    """A turn of a chat."""

    role: Role
    content: Text | Annotated[list[Part], Field(max_length=64)] = ""
    type: Literal["message"] = "message"
    id: Text | None = None
    """Of an answer that comes back, as is its `status`."""
    status: Text | None = None

    @validated(mode="before")
    @classmethod
    def _no_tool(cls, message: Value) -> Value:
        """Runs before the fields are looked at, of which a tool's message has some of its own."""
        role = message.get("role") if isinstance(message, dict) else None
        if role in ("tool", "function"):
            raise PydanticCustomError(
                "unsupported",
                "role {role} is not supported, since a prompt calls no tools; allowed: {allowed}",
                {"field": "role", "role": role, "allowed": ", ".join(get_args(Role))},
            )
        return message

    @property
    def spoken(self) -> dict[str, object]:
        """Who says what."""
        return self.model_dump(include={"role", "content"})


class ChatRequest(Sampling):
    """`/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=256)]
    logprobs: Flag = False
    top_logprobs: Annotated[Int, Field(ge=0, le=TOP)] = 0

    @validated(mode="after")
    def _rivals_of_tokens(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError(
                "unsupported", "top_logprobs needs logprobs: true", {"field": "top_logprobs"}
            )
        return self

    @property
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens to report beside every token; None reports no tokens."""
        return self.top_logprobs if self.logprobs else None


class ResponseRequest(Prompted):
    """`/v1/responses`."""

    input: Text | Annotated[list[Message], Field(min_length=1, max_length=256)]
    instructions: Text | None = None
    """What a system message in front of the input says."""
    max_output_tokens: Annotated[Int, Field(ge=1)] | None = None
    temperature: Temperature = 0.0
    top_p: Share = 1.0
    seed: Seed | None = None
    stream: Flag = False

    @property
    def messages(self) -> list[Message]:
        """The input as a chat."""
        turns = self.input
        turns = [Message(role="user", content=turns)] if isinstance(turns, str) else turns
        system = self.instructions
        return turns if system is None else [Message(role="system", content=system), *turns]

    @property
    def sampling(self) -> Sampling:
        """How the answer is written."""
        return Sampling(
            max_tokens=self.max_output_tokens, temperature=self.temperature, top_p=self.top_p,
            seed=self.seed, truncate_prompt_tokens=self.truncate_prompt_tokens,
        )  # fmt: skip


class EmbeddingRequest(Prompted):
    """`/v1/embeddings`."""

    input: Inputs
    encoding_format: Literal["float", "base64"] = "float"


class ClassifyRequest(Prompted):
    """`/v1/classify`: by the prompt's own head, or among label words."""

    input: Inputs
    labels: Annotated[list[Stop], Field(min_length=2, max_length=64)] | None = None
    prompts: Annotated[list[Name], Field(min_length=1, max_length=16)] | None = None
    """An ensemble, in place of `model`."""
    how: Literal["average", "vote", "weighted"] = "average"
    """Of an ensemble, as are `weights`."""
    weights: Annotated[list[Annotated[Float, Field(ge=0)]], Field(max_length=16)] | None = None

    @validated(mode="after")
    def _one_answerer(self) -> "ClassifyRequest":
        if self.prompts is not None and (self.model or self.compose):
            raise twice("prompts", "compose" if self.compose else "model")
        if self.prompts is None and self.model_fields_set & {"how", "weights"}:
            raise PydanticCustomError(
                "unsupported",
                "{field} is of an ensemble: give its prompts too",
                {"field": "how" if "how" in self.model_fields_set else "weights"},
            )
        return self


class MarkRequest(Prompted):
    """`/v1/tags` and `/v1/spans`: words alone, since answers name places in them."""

    input: Annotated[
        list[Text],
        Field(min_length=1, max_length=64),
        BeforeValidator(listed, json_schema_input_type=Text | list[Text]),
    ]


class GenerateRequest(WithTokens):
    """`/v1/generate`: a prompt for every text."""

    text: Inputs
    prompts: Annotated[list[Name | None], Field(max_length=64)] | None = None

    @validated(mode="after")
    def _one_prompt_each(self) -> "GenerateRequest":
        if self.prompts is not None and (self.model or self.compose):
            raise twice("prompts", "compose" if self.compose else "model")
        return self


class LoadRequest(Body):
    """`/v1/load_lora_adapter`, as vLLM has it; the path is a name in the store and no path."""

    lora_name: Name
    lora_path: Name
    load_inplace: Flag = False


class UnloadRequest(Body):
    """`/v1/unload_lora_adapter`."""

    lora_name: Name


class AliasRequest(Body):
    """`/v1/prompts/{name}/aliases/{alias}`."""

    version: Annotated[Int, Field(ge=1, lt=10**9)]
