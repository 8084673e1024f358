"""Whose key may do what, over all routes, keys and prompts; and how much of it."""

import asyncio
import json
import re

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

from serving import HOLDERS, KEYS, digest, prompt_of, serving, until  # noqa: E402

from prompt_jax.methods import PromptTuningConfig  # noqa: E402
from prompt_jax.prompts import save_prompt  # noqa: E402
from prompt_jax.serve import UnknownPromptError
from prompt_jax.serve.http import Keys, create_app
from prompt_jax.serve.http.auth import OPEN, ROUTES, View
from prompt_jax.serve.http.budgets import Limits
from prompt_jax.serve.http.errors import error_of
from prompt_jax.serve.http.keys import Key, read_keys
from prompt_jax.serve.http.prompts import packed
from prompt_jax.serve.http.schemas import CompletionRequest
from prompt_jax.serve.http.writing import COMPLETION, respond

pytestmark = pytest.mark.timeout(180)
SECRETS = [None, "nobody's", *(key.name for key in HOLDERS)]
LONG = "word " * 100
"""More than the server reads: a request that may ask is refused for it, and computes nothing."""
SAMPLES = {
    "prompt": LONG, "input": LONG, "text": LONG, "messages": [{"role": "user", "content": LONG}],
    "labels": ["good", "bad"], "version": 1, "lora_name": "films@live", "lora_path": "films",
    "load_inplace": True,
}  # fmt: skip
"""What a field of a body holds, where a route has it."""
OWN, OTHER, ABSENT = "films", "satire", "no-such"


def sites(spec, schema):
    """Where a body names prompts: paths of fields, with the length of a list in its place."""
    schema = (
        spec["components"]["schemas"][schema["$ref"].split("/")[-1]] if "$ref" in schema else schema
    )
    for option in schema.get("anyOf", ()):
        yield from sites(spec, option)
    if schema.get("format") == "prompt":
        yield ()
    for field, inner in schema.get("properties", {}).items():
        yield from ((field, *rest) for rest in sites(spec, inner))
    if "items" in schema:
        size = schema.get("minItems", 1)
        yield from ((size, *rest) for rest in sites(spec, schema["items"]))


def part_at(site, name):
    """The part of a body that names a prompt at a site."""
    if not site:
        return name
    inner = part_at(site[1:], name)
    return [inner] * site[0] if isinstance(site[0], int) else {site[0]: inner}


def requests_of(spec, method, path):
    """Where the requests of a route name a prompt, and what is sent for a site and a name."""
    about = spec["paths"].get(path.replace(":path", ""), {}).get(method.lower(), {})
    parameters = re.findall(r"\{(\w+)", path)
    assert set(parameters) <= {"name", "model", "version", "alias"}, f"what of {path} is a prompt?"
    places, fields = [("path",)] if {"name", "model"} & set(parameters) else [], {}
    bodies = about.get("requestBody", {}).get("content", {})
    if "application/json" in bodies:
        schema = bodies["application/json"]["schema"]
        body = spec["components"]["schemas"][schema["$ref"].split("/")[-1]]
        missing = set(body.get("required", ())) - set(SAMPLES)
        assert not missing, f"{path} needs samples of {missing}"
        fields = {field: SAMPLES[field] for field in SAMPLES if field in body["properties"]}
        places += sites(spec, schema)

    def request_of(site, name):
        url = re.sub(r"\{(name|model)(:path)?\}", name, path)
        url = url.replace("{version}", "1").replace("{alias}", "live")
        in_body = part_at(site, name) if site not in ((), ("path",)) else {}
        return url, {**fields, **in_body}

    return places or [()], request_of


def status_of(secret, name, method, path, site):
    """What a request has to be answered with."""
    scope = ROUTES[method, path]
    if scope is OPEN:
        return 200
    key = next((key for key in HOLDERS if key.name == secret), None)
    if key is None or key.expired:
        return 401
    if scope not in key.scopes:
        return 403
    if not site:
        return 200
    if not key.sees(name):
        return 404
    if method in ("PUT", "DELETE"):
        return 412  # If-Match names a digest that no prompt has.
    if path == "/v1/unload_lora_adapter" or (name == ABSENT and site != ("lora_name",)):
        return 404  # No name has the alias `default`, which is what would be unloaded.
    if path == "/v1/load_lora_adapter" and name != OWN:
        return 400  # An alias is one of its own prompt.
    return 200 if method == "GET" or scope == "admin" else 400  # Too long a text.


def test_all_routes_by_all_keys_of_all_prompts(served, tmp_path):
    address, catalog, backbone = served
    prompt = prompt_of(backbone, PromptTuningConfig(num_virtual_tokens=4), 9)
    upload = packed(save_prompt(tmp_path / "p", prompt))
    spec = create_app(catalog, KEYS).openapi()
    routes = {route: requests_of(spec, *route) for route in ROUTES}
    cells = [
        (secret, name, method, path, site)
        for secret in SECRETS
        for name in (OWN, OTHER, ABSENT)
        for (method, path), (places, _) in routes.items()
        for site in places
        if site or name == OWN
    ]
    replies = {}
    with httpx.Client(base_url=address) as client:
        before = [(each.reference, each.aliases) for each in catalog.served]
        for cell in cells:
            secret, name, method, path, site = cell
            url, fields = routes[method, path][1](site, name)
            body = {"content": upload} if path == "/v1/prompts/{name}" else {"json": fields}
            headers = {"If-Match": '"0"', "X-Request-ID": "cell"} | (
                {"Authorization": f"Bearer {secret}"} if secret else {}
            )
            reply = client.request(method, url, headers=headers, **body)
            assert reply.status_code == status_of(*cell), (cell, reply.text[:300])
            replies[cell] = reply
        catalog.unload(SAMPLES["lora_name"])
    assert [(each.reference, each.aliases) for each in catalog.served] == before
    for cell, reply in replies.items():
        secret, name, *where = cell
        if secret in ("tenant", "team"):
            assert name == OTHER or OTHER not in reply.text, (cell, reply.text[:300])
        if name == OTHER and reply.status_code == 404:
            absent = replies[secret, ABSENT, *where]
            assert (absent.status_code, absent.text) == (404, reply.text.replace(OTHER, ABSENT))


def test_a_route_without_a_scope_is_not_added(served):
    app = create_app(served.catalog, KEYS)
    with pytest.raises(LookupError, match="GET /v1/new has no scope; add it to ROUTES"):
        app.get("/v1/new")(lambda: None)
    app.mount("/files", lambda scope, receive, send: None)
    with pytest.raises(LookupError, match="asks for no key"):
        app.check_routes()


def test_a_composition_is_told_by_the_names_of_who_asks(served):
    """Also where somebody else has composed the same numbers under other names before."""
    catalog, parts = served.catalog, ("films@1", "films@2")
    copies = [catalog.put("copied", catalog.find(part).prompt).reference for part in parts]
    try:
        ops, tenant = View(catalog, HOLDERS[-2]), View(catalog, HOLDERS[1])
        first = ops.composed(copies, "concat", None)
        second = tenant.composed(parts, "concat", None)
        assert first.digest == second.digest and "copied" in first.reference
        assert "copied" not in second.reference
    finally:
        for version in (1, 2):
            catalog.remove("copied", version)


def test_a_request_is_answered_by_the_version_it_began_with(served):
    catalog = served.catalog
    prompt = prompt_of(served.backbone, PromptTuningConfig(num_virtual_tokens=3), 7)
    catalog.put("films-hot", prompt)
    app = create_app(catalog, KEYS)
    responses, view = app.state.responses, View(catalog, HOLDERS[1])
    body = CompletionRequest(model="films-hot", prompt="a fine film", max_tokens=4)

    async def answer():
        version = await responses.served(view, body)
        catalog.remove("films-hot", 1)
        return await respond(responses, body, [(version, "a fine film")], COMPLETION)

    reply = asyncio.run(answer())
    assert (reply["model"], reply["prompt_digest"]) == ("films-hot@1", prompt.digest)
    with pytest.raises(UnknownPromptError) as error:
        catalog.engine.score("films-hot@1", [5], [[7], [8]])
    status, body = error_of(error.value)
    assert "known: " in str(error.value) and status == 404
    assert body["error"]["message"] == "there is no prompt 'films-hot@1'"


def replies_to(app, *requests):
    """The statuses of requests to an application, one after the other, and the last reply."""

    async def send():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            replies = [await client.request(*route, **options) for *route, options in requests]
            return [reply.status_code for reply in replies], replies[-1]

    return asyncio.run(send())


HOSTS = {
    "localhost": 200, "127.0.0.1:8000": 200, "[::1]:8000": 200, "127.3.2.1": 200, "LOCALHOST": 200,
    "my.laptop": 200, "prompt_jax:8000": 200, "attacker.example:8000": 400,
    "localhost.attacker.example": 400, "127.0.0.1.nip.io": 400, "169.254.169.254": 400, "": 400,
}  # fmt: skip


def test_without_keys_a_server_answers_to_its_own_names(served):
    requests = [("GET", "/v1/models", {"headers": {"Host": host}}) for host in HOSTS]
    statuses, _ = replies_to(
        create_app(served.catalog, Keys(), hosts=("My.Laptop", "prompt_jax")), *requests
    )
    assert dict(zip(HOSTS, statuses, strict=True)) == HOSTS
    strange = ("GET", "/livez", {"headers": {"Host": "attacker.example"}})
    _, reply = replies_to(create_app(served.catalog, Keys()), strange)
    assert "start it with --hosts NAME" in reply.json()["error"]["message"]
    assert replies_to(create_app(served.catalog, KEYS), strange)[0] == [200]
    assert replies_to(create_app(served.catalog, KEYS, hosts=("a",)), strange)[0] == [400]


def test_a_key_is_taken_back_while_the_server_runs(served, tmp_path, caplog):
    file = tmp_path / "keys.json"
    row = {"name": "web", "sha256": digest("web")}
    file.write_text(json.dumps([row, {"name": "ops", "sha256": digest("ops")}]))
    app = create_app(served.catalog, read_keys(file), refresh=0.02)
    with serving(app) as address, httpx.Client(base_url=address) as client:

        def status(secret):
            headers = {"Authorization": f"Bearer {secret}"}
            return client.get("/v1/models", headers=headers).status_code

        assert (status("web"), status("ops")) == (200, 200)
        file.write_text("[")
        until(lambda: "keys stay as they were" in caplog.text)
        assert (status("web"), status("ops")) == (200, 200)
        file.write_text(json.dumps([row]))
        until(lambda: status("ops") == 401)
        assert status("web") == 200


def test_a_key_has_so_many_requests_and_tokens(served):
    keys = Keys((
        Key("rare", digest("rare"), limits=Limits(requests_per_minute=2)),
        Key("brief", digest("brief"), limits=Limits(tokens_per_day=3)),
    ))  # fmt: skip
    app = create_app(served.catalog, keys)
    rare = {"headers": {"Authorization": "Bearer rare"}}
    statuses, reply = replies_to(app, *[("GET", "/v1/models", rare)] * 3)
    assert statuses == [200, 200, 429] and 25 <= int(reply.headers["Retry-After"]) <= 30
    assert reply.json()["error"]["code"] == "rate_limit_exceeded"
    assert replies_to(app, ("GET", "/livez", rare))[0] == [200]
    brief = {"headers": {"Authorization": "Bearer brief"}}
    classify = {**brief, "json": {"model": "films", "input": "a b c d", "labels": ["good", "bad"]}}
    statuses, reply = replies_to(app, *[("POST", "/v1/classify", classify)] * 2)
    assert statuses == [200, 429] and "3 tokens a day" in reply.text
    assert int(reply.headers["Retry-After"]) > 3600


def test_what_is_refused_costs_no_tokens(served):
    key = Key("brief", digest("brief"), limits=Limits(tokens_per_day=10))
    headers = {"headers": {"Authorization": "Bearer brief"}}
    body = {"model": "films", "labels": ["good", "bad"]}
    statuses, _ = replies_to(
        create_app(served.catalog, Keys((key,))),
        ("POST", "/v1/classify", {**headers, "json": {**body, "input": "word " * 500}}),
        ("POST", "/v1/completions", {**headers, "json": {"prompt": "a b " * 5, "n": 65}}),
        ("POST", "/v1/classify", {**headers, "json": {**body, "input": "a b"}}),
    )
    assert statuses == [400, 400, 200]


@pytest.mark.parametrize(("spare", "next_status"), [(0, 429), (1, 200)])
def test_a_stream_is_a_request_until_its_last_word(spare, next_status, served):
    tokens = len(served.backbone.tokenizer("a b")["input_ids"]) + 8
    limits = Limits(concurrent_requests=1, tokens_per_day=tokens + spare)
    app = create_app(served.catalog, Keys((Key("one", digest("one"), limits=limits),)))
    headers = {"Authorization": "Bearer one"}
    body = json.dumps({"model": "films", "prompt": "a b", "max_tokens": 8, "stream": True}).encode()
    scope = {
        "type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"",
        "headers": [(b"authorization", b"Bearer one"), (b"content-type", b"application/json")],
    }  # fmt: skip

    async def both():
        begun, go, statuses = asyncio.Event(), asyncio.Event(), []
        messages = iter([{"type": "http.request", "body": body}])

        async def receive():
            return next(messages, None) or await asyncio.Future()

        async def send(message):
            statuses.append(message.get("status"))
            if message["type"] == "http.response.body":
                begun.set()
                await go.wait()

        stream = asyncio.ensure_future(app(scope, receive, send))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await begun.wait()
            during = await client.get("/v1/models", headers=headers)
            go.set()
            await stream
            after = await client.get("/v1/models", headers=headers)
        return statuses[0], during, after.status_code

    status, during, after = asyncio.run(both())
    assert (status, during.status_code, after) == (200, 429, next_status)
    assert "1 requests at once" in during.text and during.headers["Retry-After"] == "1"
