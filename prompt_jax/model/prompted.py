"""A frozen backbone and a prompt, called as PEFT's models are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.answers import head_for, mean_loss, tokenizer_of
from prompt_jax.backbones import Backbone
from prompt_jax.backbones.sizes import numbers
from prompt_jax.config import InputError, MethodConfig
from prompt_jax.data.alignment import IGNORED
from prompt_jax.data.texts import tokenized
from prompt_jax.forward import Injection, PromptedModel, for_tasks
from prompt_jax.generate import generate, read_once
from prompt_jax.methods import materialize, resolve
from prompt_jax.model.inputs import texts, token_ids
from prompt_jax.prompts import PeftFolder, Prompt, fresh, load_prompt, prompt_for, save_prompt
from prompt_jax.prompts.multitask import TaskIds, task_numbers
from prompt_jax.prompts.prompt import check_task
from prompt_jax.tasks import conversation
from prompt_jax.tasks.chat import messages_of

# Jitted once for all models: weights are arguments, so models of one config share programs.
_logits = jax.jit(PromptedModel.seq2seq_logits)
# Static, as it decides the shape of what comes out.
_text_logits = jax.jit(PromptedModel.text_logits, static_argnames="virtual")
_text_states = jax.jit(PromptedModel.text_states)


class Output(NamedTuple):
    """What a call of the model gives."""

    logits: Float[Array, "B *U V"]
    """Of every decoder position; of every text position, U = T, where there is one stack only.

    With a head V is its classes, [B, C] of SEQ_CLS; FEATURE_EXTRACTION has states [B, T, D]."""
    loss: Float[Array, ""] | None = None
    """Mean over the labels that are not -100, in nats; None without labels."""


class PromptTuningModel:
    """A frozen backbone with a prompt, or with none; made by `from_pretrained`.

    Attributes:
      backbone: the frozen model.
      tuned: the tuned tree, the only thing to train; assign a trained one. None without a prompt.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompt: Prompt | None,
        tuned: Any,
        task_id: int | str | None = None,
    ):
        self.backbone = backbone
        self.tuned = tuned
        self._source = prompt
        self._task_id = task_id
        self._read_once: tuple[Any, Injection | None] | None = None
        if task_id is not None:
            self._injection(None, 0)  # A task that is not there is told now, not at the first call.

    def __repr__(self) -> str:
        method = "no prompt" if self._source is None else self._method.kind
        trained = "" if self._source is None else f", {numbers(self.tuned)}"
        return f"<PromptTuningModel: {method}{trained}, on {self.backbone!r}>"

    @classmethod
    def from_pretrained(
        cls,
        backbone: Backbone,
        source: MethodConfig | Prompt | PeftFolder | str | Path | None,
        *,
        seed: int = 0,
        allow_mismatch: bool = False,
        task_id: int | str | None = None,
    ) -> "PromptTuningModel":
        """A model with a fresh prompt, a saved one, or none.

        Args:
          source: a config makes a fresh prompt; a path, or what `load_prompt` gave, takes that
            one; None is the plain backbone.
          allow_mismatch: takes a prompt of other weights or another tokenizer; the width must fit.
          task_id: of a prompt for several tasks, the one that calls mean which give no task_ids:
            its number from 0, or its name.

        Raises:
          InputError: the prompt is not there, is damaged or does not fit, the backbone does not
            do its task, or there is no task `task_id`.
        """
        if source is None:
            return cls(backbone, None, None, task_id)
        if isinstance(source, MethodConfig):
            check_task(resolve(source, backbone), backbone)
            tuned = fresh(source, backbone, seed)
            return cls(backbone, prompt_for(tuned, source, backbone, seed=seed), tuned, task_id)
        if isinstance(source, str | Path):
            source = load_prompt(source)
        prompt = source.on(backbone, allow_mismatch=allow_mismatch)
        check_task(prompt.method, backbone)
        return cls(backbone, prompt, jax.tree.map(jnp.asarray, prompt.trained_tree), task_id)

    @property
    def prompt(self) -> Prompt | None:
        """The prompt as it stands now; scores and versions of earlier rows are not carried over."""
        source = self._source
        if source is None:
            return None
        now = prompt_for(
            self.tuned,
            self._method,
            self.backbone,
            **{name: getattr(source, name) for name in ("name", "task", "tasks", "seed")},
        )
        return source if source.digest == now.digest else now

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        decoder_input_ids: Any = None,
        labels: Any = None,
        *,
        task_ids: TaskIds | None = None,
        virtual_logits: bool = False,
    ) -> Output:
        """Logits of every decoder position; the prompt stands in front, the rest is frozen.

        For training take `loss_fn`: this compiles anew for every shape and differentiates nothing.

        Args:
          input_ids: [B, T], numpy or jax.
          attention_mask: [B, T]; None masks `Backbone.padding`, where there is one; PEFT nothing.
          decoder_input_ids: [B, U], beginning with the decoder's start token; None shifts `labels`.
          labels: [B, U]; positions of -100 do not count in the loss, all others do. A model of one
            stack takes no decoder_input_ids, and labels [B, T] stand at the tokens themselves: the
            logits before each one are to predict it. With a head: classes, [B] of SEQ_CLS, or
            numbers where it has one output; [B, T] of TOKEN_CLS, and [B, 2] of QUESTION_ANS, the
            first and the last token of the answer.
          task_ids: of a prompt for several tasks, the task of every row [B], or one for all: its
            number from 0, or its name.
          virtual_logits: of a decoder without a head: logits [B, P + T, V] as PEFT gives them,
            virtual tokens included; the last of these has a say in the loss, on the first token.

        Raises:
          InputError: neither decoder_input_ids nor labels; wrong ranks, shapes or token ids; a
            prompt for several tasks and no task, or none of this number or name.
        """
        tokens, mask = texts(self.backbone, input_ids, attention_mask, self._placement)
        injection = self._injection(task_ids, len(tokens))
        writes = self.backbone.target_place == "behind" and not self._reads_only
        if virtual_logits and not (writes and self._placement == "prefix"):
            raise InputError(
                "virtual_logits want a decoder that writes, its prompt before the text; omit them"
            )
        if self.backbone.target_place != "apart":
            if decoder_input_ids is not None:
                raise InputError(
                    f"backbone {self.backbone.name!r} has one stack and takes no "
                    "decoder_input_ids; give all text as input_ids"
                )
            if self._reads_only:
                return self._encode(injection, tokens, mask, labels)
            return self._read(injection, tokens, mask, labels, virtual_logits)
        return self._write(injection, tokens, mask, decoder_input_ids, labels)

    @property
    def _reads_only(self) -> bool:
        writes = self._source is None or self._method.num_labels is None
        return self.backbone.config.is_encoder or not writes

    def _encode(
        self,
        injection: Injection | None,
        tokens: Int[np.ndarray, "B T"],
        mask: Bool[np.ndarray, "B T"],
        labels: Any,
    ) -> Output:
        """What a call of a model with a head gives, or of an encoder without one."""
        model = PromptedModel.of(self.backbone, injection)
        if self._source is not None and self._method.num_labels is not None:
            head = head_for(self._method)
            logits = head.logits(model, tokens, mask)
            return Output(logits, None if labels is None else head.label_loss(logits, labels, mask))
        if labels is not None:
            raise InputError(
                "labels need a head, and this model has none; set num_labels in the method, or "
                "train with loss_fn"
            )
        features = self._source is not None and self._method.task_type == "FEATURE_EXTRACTION"
        return Output((_text_states if features else _text_logits)(model, tokens, mask))

    def _read(
        self,
        injection: Injection | None,
        tokens: Int[np.ndarray, "B T"],
        mask: Bool[np.ndarray, "B T"],
        labels: Any,
        virtual: bool,
    ) -> Output:
        """What a call of a decoder-only model gives."""
        self.backbone.check_word_head()
        model = PromptedModel.of(self.backbone, injection)
        logits = _text_logits(model, tokens, mask, virtual=virtual)
        if labels is None:
            return Output(logits)
        labels = token_ids(self.backbone, "labels", labels, len(tokens), (IGNORED,))
        if labels.shape != tokens.shape:
            raise InputError(
                f"labels have shape {list(labels.shape)} and input_ids {list(tokens.shape)}; a "
                f"decoder-only model wants a label a token, {IGNORED} where none counts"
            )
        none = ((0, 0), (logits.shape[1] - labels.shape[1], 0))  # Virtual tokens have no labels.
        labels = np.pad(labels, none, constant_values=IGNORED)
        # Shifted here, as in Transformers: labels of one stack stand at the tokens themselves.
        return Output(logits, mean_loss(logits[:, :-1], labels[:, 1:]))

    def _write(
        self,
        injection: Injection | None,
        tokens: Int[np.ndarray, "B T"],
        mask: Bool[np.ndarray, "B T"],
        decoder_input_ids: Any,
        labels: Any,
    ) -> Output:
        """What a call of an encoder-decoder gives."""
        model, batch = PromptedModel.of(self.backbone, injection), len(tokens)
        if labels is not None:
            labels = token_ids(self.backbone, "labels", labels, batch, (IGNORED,))
        if decoder_input_ids is not None:
            inputs = token_ids(self.backbone, "decoder_input_ids", decoder_input_ids, batch)
            if labels is not None and labels.shape != inputs.shape:
                raise InputError(
                    f"labels have shape {list(labels.shape)} and decoder_input_ids "
                    f"{list(inputs.shape)}; give equal shapes, or labels alone"
                )
            logits = _logits(model, tokens, mask, inputs)
        elif labels is not None:
            # -100 has no row in the table; Transformers reads padding in its place too.
            config = self.backbone.config
            targets = np.where(labels != IGNORED, labels, config.filler)
            # One start token alone: what a BART reads behind it stands in Transformers' labels.
            start = config.decoder_start_token_id
            inputs = np.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=start)
            logits = _logits(model, tokens, mask, inputs)
        else:
            raise InputError(
                "decoder_input_ids or labels are needed; to write an answer call generate"
            )
        return Output(logits, None if labels is None else mean_loss(logits, labels))

    def generate(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        *,
        task_ids: TaskIds | None = None,
        **options: Any,
    ) -> Int[np.ndarray, "N U"]:
        """Answers, without the decoder's start token; EOS kept and padding behind it.

        N is B, or B * num_return_sequences.

        Args:
          attention_mask, task_ids: as for a call.
          options: those of `prompt_jax.generate.generate`: max_new_tokens, num_beams, ...
        """
        tokens, mask = texts(self.backbone, input_ids, attention_mask, self._placement)
        if task_ids is not None:
            injection = self._injection(task_ids, len(tokens))
            return generate(self.backbone, injection, tokens, mask, **options)
        # By identity, as a trained tree is assigned whole; comparing numbers would fetch them.
        if self._read_once is None or self._read_once[0] is not self.tuned:
            read = read_once(self.backbone, self._injection(None, len(tokens)))
            self._read_once = self.tuned, read
        return generate(self.backbone, self._read_once[1], tokens, mask, **options)

    def chat(self, messages: Sequence[Mapping[str, str]], **options: Any) -> str:
        """The assistant's answer to a chat, in the tokenizer's chat template.

        The prompt's system text goes in front of messages that bring none. Without a template, and
        under a prompt that was trained on plain text, the messages are plain text. For a batch,
        render with `backbone.tokenizer.apply_chat_template` and call `generate`.

        Args:
          messages: `[{"role": "user", "content": "..."}]`, as for `apply_chat_template`.
          options: as for `generate`.

        Raises:
          InputError: messages that the template refuses; or as `generate`.

        Example:
          >>> model.chat([{"role": "user", "content": "What is the capital of France?"}])
          'The capital of France is Paris.'
        """
        tokenizer = tokenizer_of(self.backbone)
        task, turns = self._source and self._source.task, messages_of(messages, "messages")
        text = conversation(task, turns, tokenizer, system_turn=self._placement == "system")
        (tokens,), _ = tokenized(tokenizer, [text])
        answer, *_ = self.generate([tokens], np.ones((1, len(tokens)), bool), **options)
        return tokenizer.decode(answer, skip_special_tokens=True).strip()

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Saves the prompt, as a folder that PEFT loads where it can represent it."""
        prompt = self.prompt
        if prompt is None:
            raise InputError(
                "the plain backbone has no prompt to save; pass a method's config to "
                "from_pretrained"
            )
        return save_prompt(folder, prompt, overwrite=overwrite)

    def print_trainable_parameters(self) -> None:
        """Prints the numbers trained and held, in PEFT's words."""
        trainable = optax.tree.size(self.tuned)
        total = trainable + optax.tree.size(self.backbone.params)
        print(
            f"trainable params: {trainable:,d} || all params: {total:,d} || "
            f"trainable%: {100 * trainable / total:.4f}"
        )

    @property
    def _placement(self) -> str:
        return "prefix" if self._source is None else self._method.place

    @property
    def _method(self) -> Any:
        return self._source and self._source.trained_method

    def _injection(self, task_ids: TaskIds | None, rows: int) -> Injection | None:
        """What the prompt puts into the model, of the task that is meant, or of every row's."""
        task_ids = self._task_id if task_ids is None else task_ids
        if self._source is None:
            if task_ids is not None:
                raise InputError("the plain backbone has no prompt and so no task; leave it out")
            return None
        # At every call, since a caller may have assigned another tree.
        injection = materialize(self._method, self.tuned)
        if isinstance(injection, Injection) and task_ids is None:
            return injection
        return for_tasks(injection, task_numbers(self._source, task_ids, rows))
