"""LangChain's own tests of chat models and embeddings, without sockets; see test_langchain.py."""

import functools

from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests, EmbeddingsUnitTests
from serving import SIZES, prompt_of

import prompt_jax as pj
from prompt_jax.integrations.langchain import ChatPromptJax, PromptJaxEmbeddings
from prompt_jax.integrations.sources import Local
from prompt_jax.serve import Engine


@functools.cache
def source():
    """The embedded model and prompts that make it say something."""
    backbone = pj.load_backbone("embedded")
    method = pj.PromptTuningConfig(num_virtual_tokens=4)
    seeds = {"films": 5, "satire": 6}  # Of prompts that leave no text of the tests unanswered.
    prompts = {name: prompt_of(backbone, method, seed) for name, seed in seeds.items()}
    return Local(Engine(backbone, prompts, **{**SIZES, "lengths": (128,)}))


class Chat:
    """What the tests need to know."""

    @property
    def chat_model_class(self):
        return ChatPromptJax

    @property
    def chat_model_params(self):
        return {"model": "embedded:satire", "source": source()}

    @property
    def model_override_value(self):
        return "embedded:films"

    @property
    def has_tool_calling(self):
        return False

    @property
    def has_structured_output(self):
        return False


class TestChatUnit(Chat, ChatModelUnitTests):
    """Without the model."""


class TestChatIntegration(Chat, ChatModelIntegrationTests):
    """With it."""


class Vectors:
    """As `Chat`."""

    @property
    def embeddings_class(self):
        return PromptJaxEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": "embedded:films", "source": source()}


class TestEmbeddingsUnit(Vectors, EmbeddingsUnitTests):
    """Without the model."""


class TestEmbeddingsIntegration(Vectors, EmbeddingsIntegrationTests):
    """With it."""
