"""API keys: who may ask, for what, about which prompts, until when and how much.

[{"name": "web", "sha256": "...", "prompts": ["films*"], "requests_per_minute": 600},
 {"name": "ops", "sha256": "...", "scopes": ["infer", "admin", "metrics"]}]
"""

import fnmatch
import hashlib
import hmac
import json
import logging
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, get_args

from prompt_jax.config import InputError
from prompt_jax.serve.http.budgets import Budget, Limits

LOG = logging.getLogger(__name__)
KeyScope: TypeAlias = Literal["infer", "admin", "metrics"]
SCOPES: tuple[KeyScope, ...] = get_args(KeyScope)
PATTERN = re.compile(r"([a-z0-9._*?-]|\[!?[a-z0-9._-]+\])+")
"""A pattern of names: their letters, and what `fnmatch` reads as more than itself."""
NO_KEY = hashlib.sha256(b"").hexdigest()


class Key(NamedTuple):
    """Somebody with an API key."""

    name: str
    digest: str
    """sha256 of the key, in hex; the key itself is stored nowhere."""
    scopes: tuple[KeyScope, ...] = ("infer",)
    prompts: tuple[str, ...] = ("*",)
    """Patterns of the names that it may see and use; the base is always among them."""
    expires: date | None = None
    """The last day on which it works, in UTC."""
    limits: Limits = Limits()

    def sees(self, name: str) -> bool:
        """Whether prompts of this name exist for it."""
        # `fnmatch.fnmatch` ignores case on some systems, and a key sees the same prompts on all.
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.prompts)

    @property
    def expired(self) -> bool:
        """Whether its last day is over."""
        return self.expires is not None and datetime.now(UTC).date() > self.expires


ANYBODY = Key("anybody", "", SCOPES)
NOBODY = Key("nobody", "", (), ())
"""Who comes without a key to a route that asks for none."""


class Keys:
    """All keys of a server; without any, everybody may do everything.

    Args:
      keys: at least one, unless the server is for its own machine alone.
      path: the file that they are from, which may change; None where there is none.
    """

    def __init__(self, keys: tuple[Key, ...] = (), path: Path | None = None):
        self._keys, self._path = keys, path
        self._budgets = {(key.digest, key.limits): Budget(key.limits) for key in keys}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, header: str | None) -> Key | None:
        """The key of `Authorization: Bearer KEY`; None where it is nobody's."""
        if not self._keys:
            return ANYBODY
        scheme, _, secret = (header or "").partition(" ")
        digest = hashlib.sha256(secret.strip().encode("utf-8", "surrogatepass")).hexdigest()
        match = None
        # All are compared, in equal time, so that the time of an answer tells nothing of a key.
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                match = key
        return match if scheme.lower() == "bearer" else None

    def budget(self, key: Key) -> Budget:
        """What is left to a key of what it may ask for."""
        return self._budgets.get((key.digest, key.limits)) or Budget(key.limits)

    def refresh(self) -> list[str]:
        """Reads the file again; keys that are not in it any more are nobody's from then on.

        Returns:
          Why the file cannot be used, in which case all keys stay as they were.
        """
        if self._path is None:
            return []
        try:
            keys = keys_of(self._path)
        except InputError as error:
            return [str(error)]
        if keys != self._keys:
            # What a key has used up stays used up, unless its limits are new.
            fresh = {(key.digest, key.limits): Budget(key.limits) for key in keys}
            self._budgets = fresh | {
                place: budget for place, budget in self._budgets.items() if place in fresh
            }
            self._keys = keys
            LOG.warning("keys of %s from now on: %s", self._path, [key.name for key in keys])
        return []


def read_keys(path: str | Path) -> Keys:
    """The keys of a file, see `docs/serving.md`.

    Raises:
      InputError: it cannot be read, or a row is not as it has to be.
    """
    return Keys(keys_of(Path(path)), Path(path))


def keys_of(path: Path) -> tuple[Key, ...]:
    """The rows of a file of keys, each checked."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"the keys of {path} cannot be read: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise InputError(
            f'{path} is no list of keys; write [{{"name": "web", "sha256": "..."}}] with at least '
            "one row"
        )
    keys = tuple(_key(f"row {i} of {path}", row) for i, row in enumerate(rows, 1))
    first: dict[str, int] = {}
    for i, key in enumerate(keys, 1):
        if first.setdefault(key.digest, i) != i:
            raise InputError(
                f"rows {first[key.digest]} and {i} of {path} are one key (the same sha256); keep "
                "one of them"
            )
    return keys


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; of a field that occurs twice, JSON would silently take the last."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{', '.join(map(repr, twice))} stands twice in one row; keep one of them")
    return fields


def _key(place: str, row: object) -> Key:
    if not isinstance(row, dict):
        raise InputError(f'{place} is no key such as {{"name": "web", "sha256": "..."}}: {row!r}')
    unknown = sorted(row.keys() - FORMS.keys())
    missing = sorted({"name", "sha256"} - row.keys())
    if unknown or missing:
        # No values: somebody may have written the key itself there, and errors go into logs.
        wrong = f"has no field {', '.join(unknown)}" if unknown else f"lacks {', '.join(missing)}"
        raise InputError(f"{place} {wrong}; the fields are {', '.join(FORMS)}")
    for name, value in row.items():
        form = FORMS[name]
        if not form.fits(value):
            shown = "" if form.secret else f", got {json.dumps(value)[:80]}"
            raise InputError(f"{name} of {place} is {form.words}{shown}")
    expires = row.get("expires")
    return Key(
        name=row["name"],
        digest=row["sha256"].lower(),
        scopes=tuple(row.get("scopes", Key._field_defaults["scopes"])),
        prompts=tuple(row.get("prompts", Key._field_defaults["prompts"])),
        expires=None if expires is None else date.fromisoformat(expires),
        limits=Limits(**{name: row.get(name) for name in Limits._fields}),
    )


class Form(NamedTuple):
    """What a field of a row has to be."""

    fits: Callable[[object], bool]
    words: str
    secret: bool = False
    """Whether an error leaves out what stands there."""


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= 64


def _is_digest(value: object) -> bool:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-fA-F]{64}", value):
        return False
    return value.lower() != NO_KEY


def _are_scopes(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(scope in SCOPES for scope in value)


def _are_patterns(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(pattern, str) and PATTERN.fullmatch(pattern) for pattern in value
    )


def _is_day(value: object) -> bool:
    # `fromisoformat` reads weeks and days without dashes as well.
    if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII):
        return False
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True


def _is_count(value: object) -> bool:
    # Not `isinstance`, for which True is a whole number.
    return type(value) is int and 0 < value < 10**15


FORMS = {
    "name": Form(_is_name, 'a text such as "web", of 1 to 64 letters'),
    "sha256": Form(
        _is_digest, "the 64 hex digits of `printf %s KEY | sha256sum`, of a KEY not empty", True
    ),
    "scopes": Form(_are_scopes, f'a list such as ["infer"], of {", ".join(SCOPES)}'),
    "prompts": Form(_are_patterns, 'a list of patterns of prompts\' names, such as ["films*"]'),
    "expires": Form(_is_day, 'the last day on which it works, such as "2027-01-31"'),
    **dict.fromkeys(Limits._fields, Form(_is_count, "a whole number above 0")),
}
"""Field of a row -> what it has to be."""
