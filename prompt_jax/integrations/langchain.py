"""LangChain's models over an engine or a server: every call may have a prompt of its own.

    llm = ChatPromptJax(source=Local(engine))
    llm.with_prompt("films").invoke("a fine film")
    llm.invoke("a fine film", soft_prompt="films")

Calls of different prompts that run at the same time, as branches of a graph do, share a batch.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.embeddings import Embeddings
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import LLM, BaseChatModel, LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, GenerationChunk
from pydantic import ConfigDict

from prompt_jax.config import InputError
from prompt_jax.integrations.calls import OPTIONS, Options, Prompted, Writing, options_of
from prompt_jax.integrations.sources import Call
from prompt_jax.serve.streaming import Piece
from prompt_jax.tasks.chat import messages_of
from prompt_jax.tasks.text import Messages

THREADS = 32
"""Calls of a batch at once: two boards of answers."""
ROLES = {"human": "user", "ai": "assistant", "system": "system"}


class ChatPromptJax(Writing, BaseChatModel):
    """A chat model whose every call may have another soft prompt.

    Messages are read in the tokenizer's chat template; without one a single message is the input
    of the model, and several are a line each, with their roles. It calls no tools and reads text
    alone.

    Raises:
      UnknownPromptError: of calls, there is no prompt of this name.
      InputError: of calls, a message with a part that is no text, or an option that is not known.
    """

    model_config = ConfigDict(extra="forbid")  # LangChain's own classes ignore a misspelt field.

    @property
    def _llm_type(self) -> str:
        return "prompt_jax-chat"

    @property
    def _identifying_params(self) -> Options:
        return {**self.about, **self.sampling}

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: object) -> str:
        # LangChain's cache goes by this string: a new version of a prompt must not get old answers.
        identity = sorted((self._identity or self.identity_of(kwargs)).items())
        return f"{super()._get_llm_string(stop=stop, **kwargs)}{identity}"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: object) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        name = self.prompt_of(kwargs)
        params["ls_provider"] = "prompt_jax"
        params["ls_model_name"] = str(kwargs.get("model") or self.model or name or self.source.base)
        return params

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> ChatResult:
        call = self.call(messages_in(messages), stop, kwargs)
        return self._result(call, kwargs, list(self.written(call)))

    async def agenerate(self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any) -> Any:
        """LangChain's `agenerate`, whose cache asks the source beside the event loop."""
        model = self
        if is_cached(self):
            options = {name: kwargs[name] for name in OPTIONS if name in kwargs}
            model = await asyncio.to_thread(self.looked_up, options)
        return await super(ChatPromptJax, model).agenerate(messages, *args, **kwargs)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> ChatResult:
        call = self.call(messages_in(messages), stop, kwargs)
        return self._result(call, kwargs, [piece async for piece in self.awritten(call)])

    def _result(self, call: Call, options: Options, written: list[Piece]) -> ChatResult:
        last = written[-1]
        message = AIMessage(
            "".join(piece.text for piece in written),
            response_metadata=self._about(call, options, last),
            usage_metadata=usage_of(last),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> Iterator[ChatGenerationChunk]:
        call = self.call(messages_in(messages), stop, kwargs)
        for piece in self.written(call):
            chunk = self._chunk(call, kwargs, piece)
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = self.call(messages_in(messages), stop, kwargs)
        async for piece in self.awritten(call):
            chunk = self._chunk(call, kwargs, piece)
            if run_manager:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def _chunk(self, call: Call, options: Options, piece: Piece) -> ChatGenerationChunk:
        if piece.finish is None:
            return ChatGenerationChunk(message=AIMessageChunk(content=piece.text))
        message = AIMessageChunk(
            content=piece.text,
            response_metadata=self._about(call, options, piece),
            usage_metadata=usage_of(piece),
            chunk_position="last",
        )
        return ChatGenerationChunk(message=message)

    def _about(self, call: Call, options: Options, last: Piece) -> Options:
        name = options.get("model") or self.model
        return {
            "model_name": name or call.prompt or self.source.base,
            "model_provider": "prompt_jax",
            "finish_reason": last.finish,
            "soft_prompt": call.prompt,
            "prompt_digest": last.digest,
        }

    def batch_with_prompts(
        self,
        inputs: Sequence[Any],
        prompts: Sequence[str],
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage | Exception]:
        """An answer for each input, each under its own prompt, in batches that they share.

        Args:
          return_exceptions: an error stands in the place of its answer; else the first one is
            raised.
        """
        if len(inputs) != len(prompts):
            raise InputError(f"there are {len(inputs)} inputs and {len(prompts)} prompts")

        def ask(messages: Any, prompt: str) -> AIMessage | Exception:
            try:
                return self.invoke(messages, soft_prompt=prompt, **kwargs)
            except Exception as error:  # It is the answer to this input alone.
                if not return_exceptions:
                    raise
                return error

        # Threads, since only calls that wait at the same time share a batch.
        with ThreadPoolExecutor(THREADS) as pool:
            futures = [pool.submit(ask, *row) for row in zip(inputs, prompts, strict=True)]
            try:
                return [future.result() for future in futures]
            finally:
                for future in futures:
                    future.cancel()


class PromptJaxLLM(Writing, LLM):
    """Text in, text out; every call may have another soft prompt."""

    model_config = ConfigDict(extra="forbid")  # LangChain's own classes ignore a misspelt field.

    @property
    def _llm_type(self) -> str:
        return "prompt_jax"

    @property
    def _identifying_params(self) -> Options:
        return {**(self._identity or self.about), **self.sampling}

    def generate(self, prompts: list[str], *args: Any, **kwargs: Any) -> Any:
        """LangChain's `generate`, whose cache tells prompts and their versions apart."""
        model, rest = self._settled(kwargs)
        model = model.looked_up({}) if is_cached(self) else model
        return super(PromptJaxLLM, model).generate(prompts, *args, **rest)

    async def agenerate(self, prompts: list[str], *args: Any, **kwargs: Any) -> Any:
        """As `generate`, for an event loop."""
        model, rest = self._settled(kwargs)
        model = await asyncio.to_thread(model.looked_up, {}) if is_cached(self) else model
        return await super(PromptJaxLLM, model).agenerate(prompts, *args, **rest)

    def _settled(self, options: Options) -> "tuple[PromptJaxLLM, Options]":
        """The model as a call wants it, since LangChain's cache passes over a call's arguments."""
        names = [name for name in OPTIONS if name != "stop"]
        settled = options_of({name: options[name] for name in names if name in options})
        if settled.get("model") and not settled.get("soft_prompt"):
            settled["soft_prompt"] = ""  # That of the model itself comes behind those of a call.
        rest = {name: value for name, value in options.items() if name not in names}
        return self.model_copy(update=settled), rest

    def _call(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> str:
        call = self.call(prompt, stop, kwargs)
        return "".join(piece.text for piece in self.written(call))

    async def _acall(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> str:
        call = self.call(prompt, stop, kwargs)
        return "".join([piece.text async for piece in self.awritten(call)])

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> Iterator[GenerationChunk]:
        for piece in self.written(self.call(prompt, stop, kwargs)):
            chunk = GenerationChunk(text=piece.text)
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


class PromptJaxEmbeddings(Prompted, Embeddings):
    """Texts as the mean of the model's last states, read under a soft prompt."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """A vector for each text."""
        return self.source.embed(self.prompt_of({}), texts, self.max_retries)

    def embed_query(self, text: str) -> list[float]:
        """A vector for one text."""
        return self.embed_documents([text])[0]


def is_cached(model: ChatPromptJax | PromptJaxLLM) -> bool:
    """Whether LangChain keeps the answers of a model."""
    return model.cache is not False and bool(model.cache or get_llm_cache())


def usage_of(last: Piece) -> UsageMetadata:
    """The tokens of a text and of its answer, of which this is the last piece."""
    read, count = last.read, last.written
    return UsageMetadata(input_tokens=read, output_tokens=count, total_tokens=read + count)


def messages_in(messages: Sequence[BaseMessage]) -> Messages:
    """The messages of a call under the roles that chat templates know."""
    dicts = [{"role": ROLES.get(m.type, m.type), "content": m.content} for m in messages]
    return messages_of(dicts, "the call")
