"""For tests of your own methods and backbones: tiny models, a tokenizer, batches and laws.

    from prompt_jax.testing import LAWS, Subject, tiny

    subject = Subject(tiny("t5"), MyConfig(), neutral=True)
    for law in LAWS.values():
        law(subject)

Leave out `neutral=True` where a fresh tree already changes the logits.
"""

from prompt_jax.testing.laws import BACKBONE_LAWS as BACKBONE_LAWS
from prompt_jax.testing.laws import LAWS as LAWS
from prompt_jax.testing.models import CONFIGS as CONFIGS
from prompt_jax.testing.models import random_backbone as random_backbone
from prompt_jax.testing.models import random_batch as random_batch
from prompt_jax.testing.models import shaken as shaken
from prompt_jax.testing.models import tiny as tiny
from prompt_jax.testing.models import word_tokenizer as word_tokenizer
from prompt_jax.testing.subject import Subject as Subject
