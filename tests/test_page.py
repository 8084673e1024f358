"""The page of the server in a browser: types, switches prompts, and reads what they answer."""

import dataclasses
import json
import os
import shutil

import pytest

pytest.importorskip("fastapi")
selenium = pytest.importorskip("selenium")
DRIVER = shutil.which("chromedriver")
if DRIVER is None or shutil.which("chromium") is None:
    pytest.skip("needs chromium and chromedriver", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402
from serving import KEYS, SIZES, prompt_of, serving  # noqa: E402

from prompt_jax.methods import PromptTuningConfig  # noqa: E402
from prompt_jax.prompts import save_prompt  # noqa: E402
from prompt_jax.serve import Engine, Store
from prompt_jax.serve.catalog import Catalog
from prompt_jax.serve.http import create_app
from prompt_jax.serve.http.prompts import packed
from prompt_jax.tasks import Task

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
)  # fmt: skip


@pytest.fixture(params=[(1280, 900), (360, 780)], ids=["desk", "phone"])
def browser(request, tmp_path):
    options = webdriver.ChromeOptions()
    width, height = request.param
    for flag in (*QUIET, f"--window-size={width},{height}", f"--user-data-dir={tmp_path}/profile"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    made = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    device = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    made.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
    yield made
    made.quit()


@pytest.fixture(scope="module")
def address(tiny_folder, tmp_path_factory):
    from prompt_jax.weights import load_backbone

    backbone = load_backbone(str(tiny_folder))
    store = Store(tmp_path_factory.mktemp("store"))
    task = Task(name="t", source="review: {text}", target="{y}")
    for seed, name in enumerate(("films", "satire", *(f"other{i}" for i in range(6)))):
        prompt = prompt_of(backbone, PromptTuningConfig(num_virtual_tokens=4), seed)
        store.put(name, dataclasses.replace(prompt, task=task) if name == "films" else prompt)
    with Engine(backbone, room=[PromptTuningConfig(num_virtual_tokens=8)], **SIZES) as engine:
        catalog = Catalog(engine, store)
        assert catalog.refresh() == []
        with serving(create_app(catalog, KEYS)) as found:
            yield found, backbone


def within(browser, what):
    return WebDriverWait(browser, 60).until(lambda _: what())


def cards(browser):
    return browser.find_elements(By.CSS_SELECTOR, "#answers .answer")


def rows(browser):
    return browser.find_elements(By.CSS_SELECTOR, "#prompts label")


def box(browser, name):
    return browser.find_element(By.CSS_SELECTOR, f"#prompts input[value='{name}']")


def ask(browser, count):
    """What the cards say once all are answered."""
    browser.find_element(By.ID, "go").click()
    status = browser.find_element(By.ID, "status")
    within(browser, lambda: f"{count} of {count} answered" in status.text)
    assert len(cards(browser)) == count
    return [card.text for card in cards(browser)]


def enter(browser, address, key):
    browser.get(address)
    status = browser.find_element(By.ID, "status")
    within(browser, lambda: status.text == "This server asks for a key.")
    browser.find_element(By.ID, "key").send_keys(key)
    browser.find_element(By.ID, "enter").click()
    within(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#prompts input"))


def test_prompts_are_switched_and_read(browser, address):
    enter(browser, address[0], "user")
    for name in ("manage", "composing", "keys"):
        assert not browser.find_element(By.ID, name).is_displayed()
    hint = browser.find_element(By.ID, "template")
    within(browser, lambda: hint.text == "films@1 was trained on texts like: review: {text}")
    search = browser.find_element(By.ID, "filter")
    search.send_keys("SATIR")
    assert [row.text.split()[0] for row in rows(browser) if row.is_displayed()] == ["satire@1"]
    search.clear()
    search.send_keys(" ", Keys.BACKSPACE)
    assert all(row.is_displayed() for row in rows(browser))
    text = browser.find_element(By.ID, "text")
    text.send_keys("<img src=x onerror=alert(1)> a fine film")
    browser.find_element(By.CSS_SELECTOR, "[value=write]").click()
    (first,) = ask(browser, 1)
    box(browser, "films@1").click()
    box(browser, "satire@1").click()
    (second,) = ask(browser, 1)
    said = [each.split("\n")[:2] for each in (first, second)]
    assert [title for title, _ in said] == ["films@1", "satire@1"] and said[0][1] != said[1][1]
    for told in ("log-probability", "latency", "nearest words", "ms"):
        assert told in first

    box(browser, "films@1").click()
    assert [each.split("\n")[:2] for each in ask(browser, 2)] == said  # Side by side.
    Select(browser.find_element(By.ID, "how")).select_by_value("concat")
    (both,) = ask(browser, 1)
    assert both.startswith("concat of films@1, satire@1")
    browser.find_element(By.CSS_SELECTOR, "[value=classify]").click()
    browser.find_element(By.ID, "labels").send_keys("good, bad")
    (classes,) = ask(browser, 1)
    assert "good" in classes and "bad" in classes and "%" in classes
    labels = browser.find_element(By.ID, "labels")
    labels.send_keys(f", {'d' * 60}" * 2)  # A word that is wider than its card.
    browser.find_element(By.ID, "go").click()
    within(browser, lambda: "0 of 1 answered" in browser.find_element(By.ID, "status").text)
    (refused,) = cards(browser)
    assert "ddd' is there twice" in refused.text

    page = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert page <= 0  # Nothing sticks out on the right.
    if folder := os.environ.get("SCREENSHOTS"):
        size = browser.get_window_size()["width"]
        for scheme in ("light", "dark"):
            emulated = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)
            browser.save_screenshot(f"{folder}/page_{size}_{scheme}.png")
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [each["params"] for each in sent if each["method"] == "Network.requestWillBeSent"]
    ours = [each["request"]["url"] for each in sent if each["documentURL"].startswith(address[0])]
    assert len(ours) > 5 and all(url.startswith(f"{address[0]}/") for url in ours)
    assert not [entry for entry in browser.get_log("browser") if "Refused" in entry["message"]]


def test_prompts_are_loaded_and_swapped(browser, address, tmp_path):
    enter(browser, address[0], "admin")
    browser.find_element(By.CSS_SELECTOR, "#manage summary").click()
    new = prompt_of(address[1], PromptTuningConfig(num_virtual_tokens=4), 7)
    (tmp_path / "p.zip").write_bytes(packed(save_prompt(tmp_path / "p", new)))
    before = len(browser.find_elements(By.CSS_SELECTOR, "#prompts input"))
    browser.find_element(By.ID, "name").send_keys("new")
    browser.find_element(By.ID, "file").send_keys(str(tmp_path / "p.zip"))
    browser.find_element(By.CSS_SELECTOR, "#load button").click()
    status = browser.find_element(By.ID, "status")
    within(browser, lambda: status.text == "new has a new version.")
    assert len(browser.find_elements(By.CSS_SELECTOR, "#prompts input")) == before + 1
    Select(browser.find_element(By.ID, "which")).select_by_visible_text("films@1")
    browser.find_element(By.CSS_SELECTOR, "#swap button").click()
    within(browser, lambda: status.text == "films is version 1 now.")
    assert "default" in browser.find_element(By.ID, "prompts").text
