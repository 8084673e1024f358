"""Prompts on the Hugging Face hub: a repository each, with its card."""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from prompt_jax.config import InputError
from prompt_jax.prompts.folder import OWN_FILES, save_prompt
from prompt_jax.prompts.loading import load_prompt
from prompt_jax.prompts.peft import PeftFolder
from prompt_jax.prompts.prompt import Prompt

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILES = sorted(name for name in OWN_FILES if not name.endswith(".bin"))
"""The files of a repository that are asked for: none of them could be run."""


def push_prompt(
    prompt: Prompt | PeftFolder, repository: str, *, private: bool = True, token: str | None = None
) -> str:
    """Writes a prompt to a repository of the hub, made if it is not there, in one commit.

    Args:
      repository: `owner/name`.
      private: of a repository that is made now.
      token: None takes that of `hf auth login`.

    Returns:
      The commit, by which `pull_prompt` reads exactly this.

    Raises:
      InputError: no such name, or the hub refuses or cannot be reached.
    """
    import huggingface_hub

    _check(repository)
    with tempfile.TemporaryDirectory() as place, _answered(f"{repository} cannot be written"):
        folder = save_prompt(Path(place, "prompt"), prompt)
        api = huggingface_hub.HfApi(token=token)
        api.create_repo(repository, private=private, exist_ok=True)
        message = f"{prompt.name or 'A soft prompt'} ({prompt.digest[:12]})"
        done = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=message,
            # The prompt before may have had files that this one has not.
            delete_patterns=FILES,
        )
    return done.oid


def pull_prompt(repository: str, revision: str, *, token: str | None = None) -> Prompt | PeftFolder:
    """The prompt of a repository, ours or PEFT's; only safetensors, JSON and card are asked for.

    Args:
      repository: `owner/name`.
      revision: a commit, which always means the same; or a tag or branch, which may not.

    Raises:
      InputError: no such name or revision, the hub cannot be reached, or it has no prompt there.
    """
    import huggingface_hub

    _check(repository)
    if not revision:
        raise InputError(
            "pulling wants a revision: the commit that shall be read, or a tag or branch (main)"
        )
    with _answered(f"{repository} at {revision!r} is not to be had"):
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision, token=token, allow_patterns=FILES
        )
    return load_prompt(folder)


def _check(repository: str) -> None:
    if not REPOSITORY.fullmatch(repository):
        raise InputError(f"a repository of the hub is owner/name, got {repository!r}")


@contextlib.contextmanager
def _answered(failure: str) -> Iterator[None]:
    """Turns errors of the hub's client into an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # What its client raises changes with its HTTP library.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{failure}: {reason}") from error
