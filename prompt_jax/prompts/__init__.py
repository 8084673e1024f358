"""Saved prompts: files in and out, PEFT's folders among them, and what a prompt looks like.

Identity is the sha256 of the rows. What PEFT cannot represent is never written as something that
PEFT loads and runs differently.
"""

from prompt_jax.backbones.backbone import tokenizer_hash as tokenizer_hash
from prompt_jax.prompts.composition import compose as compose
from prompt_jax.prompts.engines import check_engine as check_engine
from prompt_jax.prompts.engines import export_to_engine as export_to_engine
from prompt_jax.prompts.engines import serving_line as serving_line
from prompt_jax.prompts.folder import check_free as check_free
from prompt_jax.prompts.folder import export_peft as export_peft
from prompt_jax.prompts.folder import export_prompt as export_prompt
from prompt_jax.prompts.folder import save_prompt as save_prompt
from prompt_jax.prompts.hub import pull_prompt as pull_prompt
from prompt_jax.prompts.hub import push_prompt as push_prompt
from prompt_jax.prompts.loading import fresh as fresh
from prompt_jax.prompts.loading import list_prompts as list_prompts
from prompt_jax.prompts.loading import load_prompt as load_prompt
from prompt_jax.prompts.loading import load_shaped as load_shaped
from prompt_jax.prompts.multitask import of_task as of_task
from prompt_jax.prompts.multitask import task_names as task_names
from prompt_jax.prompts.neighbours import draw_similarity as draw_similarity
from prompt_jax.prompts.neighbours import inspect as inspect
from prompt_jax.prompts.neighbours import nearest_words as nearest_words
from prompt_jax.prompts.neighbours import similarity as similarity
from prompt_jax.prompts.peft import PeftFolder as PeftFolder
from prompt_jax.prompts.prompt import Prompt as Prompt
from prompt_jax.prompts.prompt import check_task as check_task
from prompt_jax.prompts.prompt import prompt_for as prompt_for
from prompt_jax.prompts.transfer import Similar as Similar
from prompt_jax.prompts.transfer import recycle as recycle
from prompt_jax.prompts.transfer import similarities as similarities
from prompt_jax.prompts.transfer import task_embedding as task_embedding
