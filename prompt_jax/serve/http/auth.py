"""The one door: every route is in a table with its scope, and reaches prompts through a `View`.

A route that the table does not have cannot be added, and a handler has no other way to a prompt
than `request.state.view`, which shows and changes what its key may.
"""

import contextlib
from collections.abc import Iterator, Sequence

from starlette.datastructures import Headers

from prompt_jax.prompts import Prompt
from prompt_jax.serve.catalog import Catalog, unknown_model
from prompt_jax.serve.http.errors import Refused
from prompt_jax.serve.http.keys import NOBODY, Key, Keys, KeyScope
from prompt_jax.serve.http.logs import trace
from prompt_jax.serve.prompts import Served

OPEN = None
ROUTES: dict[tuple[str, str], KeyScope | None] = {
    ("GET", "/"): OPEN,
    ("GET", "/livez"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/health"): OPEN,
    ("GET", "/metrics"): "metrics",
    ("GET", "/openapi.json"): "infer",
    ("GET", "/v1/key"): "infer",
    ("GET", "/v1/models"): "infer",
    ("GET", "/v1/models/{model:path}"): "infer",
    ("POST", "/v1/completions"): "infer",
    ("POST", "/v1/chat/completions"): "infer",
    ("POST", "/v1/responses"): "infer",
    ("POST", "/v1/embeddings"): "infer",
    ("POST", "/v1/classify"): "infer",
    ("POST", "/v1/generate"): "infer",
    ("POST", "/v1/tags"): "infer",
    ("POST", "/v1/spans"): "infer",
    ("GET", "/v1/prompts"): "infer",
    ("GET", "/v1/prompts/{name}"): "infer",
    ("PUT", "/v1/prompts/{name}"): "admin",
    ("DELETE", "/v1/prompts/{name}/{version}"): "admin",
    ("PUT", "/v1/prompts/{name}/aliases/{alias}"): "admin",
    ("POST", "/v1/load_lora_adapter"): "admin",
    ("POST", "/v1/unload_lora_adapter"): "admin",
}
"""Method and path -> the scope that it asks for, or OPEN."""


class View:
    """The prompts of a catalog as one key sees them: others are not there, to read or to change."""

    def __init__(self, catalog: Catalog, key: Key):
        self._catalog, self.key = catalog, key

    @property
    def served(self) -> list[Served]:
        """All versions, by name and number."""
        return [served for served in self._catalog.served if self.key.sees(served.name)]

    def find(self, model: str) -> Served | None:
        """What a name means now; None of the base itself. See `Catalog.find`."""
        served = self._catalog.find(model, self.key.sees)
        name = self._catalog.base if served is None else served.name
        trace().prompts[name if served is None else served.reference] = name
        return served

    def composed(
        self, names: Sequence[str], how: str, weights: Sequence[float] | None
    ) -> Served | None:
        """A prompt composed of several; None where the base is one of them."""
        parts = [self.find(name) for name in names]
        prompts = [part for part in parts if part is not None]
        return self._catalog.composed(prompts, how, weights) if len(prompts) == len(parts) else None

    def put(self, name: str, prompt: Prompt, expected: str | None) -> Served:
        """A new version of a prompt."""
        return self._catalog.put(self.writable(name), prompt, expected=expected)

    def alias(self, name: str, alias: str, version: int, expected: str | None) -> Served | None:
        """Makes an alias mean a version."""
        self._catalog.alias(self.writable(name), alias, version, expected=expected)
        return self.find(f"{name}@{version}")

    def remove(self, name: str, version: int, expected: str | None) -> None:
        """Deletes a version."""
        self._catalog.remove(self.writable(name), version, expected=expected)

    def load(self, model: str, reference: str, *, replace: bool) -> None:
        """Makes an alias mean a version, see `Catalog.load`."""
        # Both count: the name would change what others get, and the version is read under it.
        self.writable(model.partition("@")[0])
        self._catalog.load(model, reference, self.key.sees, replace=replace)

    def unload(self, model: str) -> None:
        """Takes an alias away, see `Catalog.unload`."""
        self.writable(model.partition("@")[0])
        self._catalog.unload(model)

    def writable(self, name: str) -> str:
        """A name that the key may change.

        Raises:
          UnknownPromptError: it may not; as for a prompt that is not there, whether it is or not.
        """
        if not self.key.sees(name):
            raise unknown_model(name)
        return name


class Door:
    """Lets in a client whose key has the scope of a route, for as much as the key may have."""

    def __init__(self, keys: Keys, catalog: Catalog):
        self._keys, self._catalog = keys, catalog

    @contextlib.contextmanager
    def admit(self, headers: Headers, need: KeyScope | None) -> Iterator[View]:
        """The prompts of whose request it is, until it is answered.

        Args:
          need: the scope of its route.

        Raises:
          Refused: no key or a wrong one, one without the scope, or that has had too much.
        """
        if need is OPEN:
            yield View(self._catalog, NOBODY)
            return
        # Of several a proxy in front may have checked another one than is taken here.
        secrets = headers.getlist("authorization")
        key = self._keys.find(secrets[0] if len(secrets) == 1 else None)
        if key is None:
            raise Refused(401, "invalid_api_key", "no such API key; send Authorization: Bearer KEY")
        trace().key = key.name
        if key.expired:
            message = f"this key worked until {key.expires}; ask who runs the server for a new one"
            raise Refused(401, "expired_api_key", message)
        if need not in key.scopes:
            raise Refused(403, "forbidden", f"this key has no scope {need!r}")
        with self._keys.budget(key).request():
            yield View(self._catalog, key)
