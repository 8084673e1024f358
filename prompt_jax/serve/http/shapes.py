"""What responses look like: OpenAI's objects, with the prompt's digest beside."""

from typing import Any, Literal, NotRequired, TypeAlias

from fastapi.responses import PlainTextResponse

# Of typing_extensions, as pydantic asks before Python 3.12.
from typing_extensions import TypedDict

Finish: TypeAlias = Literal["stop", "length"] | None


class Identity(TypedDict):
    """Which numbers answered."""

    model: str
    system_fingerprint: str
    prompt_digest: str


class Usage(TypedDict):
    """Tokens of texts and answers, no virtual ones."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TokenList(TypedDict):
    """`logprobs` of a completion: the tokens of an answer, of the text before them with `echo`."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class Candidate(TypedDict):
    """One of the likeliest tokens at a place."""

    token: str
    logprob: float
    bytes: list[int]


class ContentToken(Candidate):
    """A token of a chat's answer."""

    top_logprobs: list[Candidate]


class ContentTokens(TypedDict):
    """`logprobs` of a chat."""

    content: list[ContentToken]
    refusal: None


class CompletionChoice(TypedDict):
    """One answer."""

    index: int
    text: str
    finish_reason: Finish
    logprobs: TokenList | None
    model: NotRequired[str]
    """Of `/v1/generate`, where every text may have another prompt."""
    prompt_digest: NotRequired[str]


class Completion(Identity):
    """`/v1/completions` and `/v1/generate`, and the chunks of their streams."""

    id: str
    created: int
    object: Literal["text_completion", "generation"]
    choices: list[CompletionChoice]
    usage: NotRequired[Usage]


class ChatMessage(TypedDict):
    """What the assistant says."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(TypedDict):
    """One answer."""

    index: int
    message: ChatMessage
    finish_reason: Finish
    logprobs: ContentTokens | None


class ChatCompletion(Identity):
    """`/v1/chat/completions`."""

    id: str
    created: int
    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class ReadUsage(TypedDict):
    """Tokens of texts."""

    prompt_tokens: int
    total_tokens: int


class Embedding(TypedDict):
    """A text as a vector: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(Identity):
    """`/v1/embeddings`."""

    object: Literal["list"]
    data: list[Embedding]
    usage: ReadUsage


class Classified(TypedDict):
    """The likeliest label of a text, and the probability of every one."""

    index: int
    label: str
    probs: dict[str, float]


class Classification(TypedDict):
    """`/v1/classify`; of an ensemble, `prompts` and `prompt_digests` stand for one prompt's."""

    object: Literal["list"]
    data: list[Classified]
    model: NotRequired[str]
    system_fingerprint: NotRequired[str]
    prompt_digest: NotRequired[str]
    prompts: NotRequired[list[str]]
    prompt_digests: NotRequired[list[str]]


class TaggedWord(TypedDict):
    """A word of a text and its tag; characters are those of the text as it was sent."""

    word: str
    start: int
    end: int
    tag: str
    probability: float | None
    """None of a word that was cut off, whose tag is the first."""


class TaggedText(TypedDict):
    """The words of a text."""

    index: int
    words: list[TaggedWord]


class Tagging(Identity):
    """`/v1/tags`."""

    object: Literal["list"]
    data: list[TaggedText]


class AnswerSpan(TypedDict):
    """The part of a text that answers its question; empty where none does."""

    index: int
    text: str
    start: int
    end: int
    probability: float


class Spans(Identity):
    """`/v1/spans`."""

    object: Literal["list"]
    data: list[AnswerSpan]


class OutputText(TypedDict):
    """A part of a message of `/v1/responses`."""

    type: Literal["output_text"]
    text: str
    annotations: list[str]
    logprobs: list[ContentToken]


class OutputMessage(TypedDict):
    """A message of `/v1/responses`."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Literal["completed", "incomplete", "in_progress"]
    content: list[OutputText]


class Incomplete(TypedDict):
    """Why an answer ends early."""

    reason: Literal["max_output_tokens"]


class NoneCached(TypedDict):
    """No tokens of a text are kept between requests."""

    cached_tokens: int


class NoneThought(TypedDict):
    """All tokens are the answer's own."""

    reasoning_tokens: int


class ResponseUsage(TypedDict):
    """Tokens of the input and of the answer."""

    input_tokens: int
    input_tokens_details: NoneCached
    output_tokens: int
    output_tokens_details: NoneThought
    total_tokens: int


class Response(Identity):
    """`/v1/responses`."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete", "in_progress"]
    error: None
    incomplete_details: Incomplete | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    output: list[OutputMessage]
    parallel_tool_calls: bool
    previous_response_id: None
    temperature: float
    tool_choice: Literal["none"]
    tools: list[str]
    top_p: float
    usage: ResponseUsage | None


class Model(TypedDict):
    """A model: the frozen one, or a prompt for it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    aliases: NotRequired[list[str]]
    method: NotRequired[str]
    poisoned: NotRequired[bool]
    """Whether its answers were NaN or infinite, so that it is refused."""


class Models(TypedDict):
    """`/v1/models`."""

    object: Literal["list"]
    data: list[Model]


class PromptDetails(Model):
    """`GET /v1/prompts/{name}`."""

    task: str | None
    template: str | None
    """What its texts were filled into."""
    chat: bool
    system: str
    size: int
    """Numbers in it."""
    metrics: dict[str, object]
    nearest_words: list[str]


class Removed(TypedDict):
    """A version that was removed."""

    id: str
    object: Literal["model"]
    deleted: bool


class KeyHolder(TypedDict):
    """`/v1/key`."""

    name: str
    scopes: list[str]
    prompts: list[str]


class Problem(TypedDict):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None
    request_id: NotRequired[str]


class Failure(TypedDict):
    """The body of every error."""

    error: Problem


class Documented(TypedDict):
    """How a route tells what it answers with, without a second look at every answer."""

    response_model: None
    responses: dict[int | str, dict[str, Any]]
    response_class: NotRequired[type[PlainTextResponse]]


EVENT = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("event", "data")},
    "required": ["data"],
}
"""An event of a stream: OpenAPI 3.1 describes a stream by each of its events."""


def answers(shape: type, *, streams: bool = False) -> Documented:
    """The options of a route whose answers have a shape; str is plain text.

    Args:
      streams: whether they may come as events too.
    """
    codes = ("4XX", "5XX")
    if shape is str:
        # By its name, since FastAPI takes a model here for one in plain text.
        content = {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}}
        failure = {"description": "What was wrong.", "content": content}
        return {
            "response_model": None, "responses": dict.fromkeys(codes, failure),
            "response_class": PlainTextResponse,
        }  # fmt: skip
    events = {"text/event-stream": {"schema": EVENT}} if streams else {}
    success, failure = {"model": shape, "content": events}, {"model": Failure}
    return {"response_model": None, "responses": {200: success, **dict.fromkeys(codes, failure)}}
