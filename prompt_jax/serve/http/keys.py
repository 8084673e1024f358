"""Who may ask, for what, and about which prompts."""

import fnmatch
import hashlib
import hmac
import json
from pathlib import Path
from typing import NamedTuple

from prompt_jax.config import InputError

SCOPES = ("infer", "admin")


class Key(NamedTuple):
    """Somebody with an API key."""

    name: str
    digest: str
    """sha256 of the key, in hex; the key itself is nowhere."""
    scopes: tuple[str, ...] = ("infer",)
    prompts: tuple[str, ...] = ("*",)
    """Patterns of the names that it may see and use; the base is always among them."""

    def sees(self, name: str) -> bool:
        """Whether prompts of this name exist for it."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.prompts)


ANYBODY, NOBODY = Key("anybody", "", SCOPES), Key("nobody", "", (), ())


class Keys:
    """All keys of a server; without any, everybody may do everything.

    Args:
      keys: at least one, unless the server is for its own machine alone.
    """

    def __init__(self, keys: tuple[Key, ...] = ()):
        self._keys = keys

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, header: str | None) -> Key | None:
        """Whose key `Authorization: Bearer KEY` is; None of nobody's.

        All are compared, in time that tells nothing of where they differ.
        """
        if not self._keys:
            return ANYBODY
        scheme, _, given = (header or "").partition(" ")
        digest = hashlib.sha256(given.strip().encode("utf-8", "surrogatepass")).hexdigest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found if scheme.lower() == "bearer" else None


def read_keys(path: str | Path) -> Keys:
    """The keys of a file: a JSON list of `name`, `sha256`, `scopes` and `prompts`.

    Raises:
      InputError: no such file, or not such a list.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"the keys of {path} cannot be read: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path} is a JSON list of keys, at least one")
    return Keys(tuple(_key(path, number, row) for number, row in enumerate(rows)))


def _key(path: str | Path, number: int, row: object) -> Key:
    fields = {"name", "sha256", "scopes", "prompts"}
    if not isinstance(row, dict) or not {"name", "sha256"} <= row.keys() <= fields:
        raise InputError(f"key {number} of {path} has {', '.join(sorted(fields))}, got {row!r}")
    digest, scopes = str(row["sha256"]).lower(), tuple(row.get("scopes", ("infer",)))
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise InputError(f"sha256 of key {number} of {path} is 64 hex digits")
    if not scopes or set(scopes) - set(SCOPES):
        raise InputError(f"scopes of key {number} of {path} are of {SCOPES}, got {scopes}")
    return Key(str(row["name"]), digest, scopes, tuple(map(str, row.get("prompts", ("*",)))))
