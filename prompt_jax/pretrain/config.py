"""Every option of pretraining, and their validation."""

from dataclasses import dataclass

from prompt_jax.config import InputError, at_least, choose

PRETRAIN_DTYPES = ("float32", "bfloat16")
WORD_VECTORS = ("teacher", "random")
RATES = ("learning_rate", "prompt_learning_rate", "head_weight", "embedding_scale")
SIZES = ("num_layers", "num_decoder_layers", "d_ff", "num_heads", "steps", "checkpoint_every")
SIZES += ("virtual_tokens", "rows_per_slot", "slots_per_step", "slot_steps", "most_classes")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One stage of pretraining a small T5 for soft prompts.

    A later stage names the output of an earlier one in `start`.
    """

    text_folder: str
    """Where the text files are, one paragraph a line."""
    files: tuple[tuple[str, float], ...]
    """(file name, share of its sentences to keep); the shares are the mixture."""
    output: str
    """The folder to write: the model in Hugging Face's format, checkpoints and metrics."""
    start: str = ""
    """The output of an earlier stage, whose weights and tokenizer go on; empty starts afresh."""
    tokenizer: str = ""
    """A spiece.model; empty trains one of `vocab_pieces` pieces on the text."""
    vocab_pieces: int = 16_000
    """Pieces of a vocabulary trained here; 100 sentinels come on top."""
    word_vectors: str = "teacher"
    """How the token table starts: `teacher`, the word vectors of teacher_folder; or `random`."""
    teacher_folder: str = ""
    """A BERT in Hugging Face's format, e.g. all-MiniLM-L6-v2; only its word vectors are read."""
    lexicon: str = ""
    """A file of rated words, e.g. vader_lexicon.txt: the token table starts with the ratings in a
    coordinate, and some classifiers ask for the sign of a text's sum. Empty does without."""
    num_layers: int = 4
    num_decoder_layers: int = 3
    d_model: int = 256
    d_ff: int = 512
    num_heads: int = 4
    embedding_scale: float = 3.0
    """Root mean square of the saved token table. The function stays the same; what changes is how
    far an optimizer step of a given size moves a prompt."""
    classify_share: float = 0.65
    """Share of steps on invented classifiers; the other steps rewrite, restore, fill in, go on."""
    slots: int = 48
    """Tasks alive at once for either kind of step, each with a soft prompt of its own."""
    slots_per_step: int = 8
    """Tasks in a batch."""
    rows_per_slot: int = 8
    """Texts of a task in a batch."""
    slot_steps: int = 1500
    """Steps after which a task gives its slot, and its prompt, to a new one."""
    label_starts: float = 0.6
    """Share of classifiers whose prompt starts from its label words; others start from any."""
    most_classes: int = 6
    """Classes of an invented classifier, at most."""
    virtual_tokens: int = 10
    """P, the length of the prompts."""
    text_tokens: int = 26
    """Longest text of a classifier."""
    pair_tokens: int = 48
    """Longest input and target of the other tasks."""
    sentences_per_file: int = 26_000
    steps: int = 6000
    learning_rate: float = 5e-4
    """Peak of Adam's for the model; the token table takes a third of it."""
    prompt_learning_rate: float = 0.3
    """Adafactor's for the prompts of the slots, as prompt tuning later uses it."""
    head_weight: float = 1.0
    """Weight of reading a text's place in the word space from the encoder; its head is dropped."""
    warmup_steps: int = 200
    decay_steps: int = 2000
    """The last steps, in which the learning rate falls linearly to zero."""
    dtype: str = "float32"
    """What the matrix products are computed in; bfloat16 on accelerators."""
    checkpoint_every: int = 500
    seed: int = 0

    def __post_init__(self):
        # A list would do as data, but a config is also the key of a compiled step.
        object.__setattr__(self, "files", tuple((name, share) for name, share in self.files))
        choose("dtype", self.dtype, PRETRAIN_DTYPES)
        choose("word_vectors", self.word_vectors, WORD_VECTORS)
        for name in SIZES:
            at_least(name, getattr(self, name), 1)
        for name in (*RATES, "warmup_steps", "decay_steps"):
            at_least(name, getattr(self, name), 0)
        at_least("most_classes", self.most_classes, 2, "a classifier has two sides")
        at_least("text_tokens", self.text_tokens, 8)
        at_least("pair_tokens", self.pair_tokens, 8)
        at_least("d_model", self.d_model, 16, "the last 8 dimensions hold a word's form")
        if self.word_vectors == "teacher":
            at_least("num_decoder_layers", self.num_decoder_layers, 2, "one pools, one looks up")
        at_least("slots", self.slots, self.slots_per_step, "or draw fewer with slots_per_step")
        if not self.files:
            raise InputError("files is empty; name at least one text file and its share")
        for name, share in self.files:
            if not 0 < share <= 1:
                raise InputError(
                    f"the share of {name!r} must be above 0 and at most 1, got {share}"
                )
        for name in ("classify_share", "label_starts"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        if self.d_model % self.num_heads:
            raise InputError(
                f"d_model {self.d_model} is not a multiple of num_heads {self.num_heads}; "
                "choose a divisor"
            )
        if self.word_vectors == "teacher" and not (self.teacher_folder or self.start):
            raise InputError(
                'word_vectors="teacher" needs teacher_folder, a BERT in Hugging Face\'s format; '
                'without one set word_vectors="random"'
            )

    @property
    def rows(self) -> int:
        """B, the rows of a batch."""
        return self.slots_per_step * self.rows_per_slot
