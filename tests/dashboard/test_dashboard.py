#!/usr/bin/env python3
"""A real training is submitted, watched, scaled, drained, stopped and resumed through the page, as a person would."""

import os
import signal
import subprocess
import time
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from cluster import DEADLINE, PERENNIAL, Cluster, perennial
from look import Watched, accessible, by_keyboard, fits

PICTURES = os.path.abspath("pictures")
SCREENSHOTS = Path(os.environ["SCREENSHOTS"])
JOB = f"""name = "NAME"
[data]
dir = "{PICTURES}"
image_size = 32
[train]
epochs = EPOCHS
batch_size = 24
slots = 4
[ema]
decay = 0.98
"""
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 375, "height": 740}

expect.set_options(timeout=DEADLINE * 1000)


def job(name, epochs):
    return JOB.replace("NAME", name).replace("EPOCHS", str(epochs))


def shot(page, name):
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def looks_right(page, name):
    """In light and dark, on a large screen and on a phone."""
    for scheme in ["light", "dark"]:
        page.emulate_media(color_scheme=scheme)
        for width, size in [("wide", WIDE), ("phone", PHONE)]:
            page.set_viewport_size(size)
            where = f"{name}-{scheme}-{width}"
            shot(page, where)
            fits(page, where)
            accessible(page, where)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(WIDE)


def state_is(page, state):
    expect(page.locator("#state .badge")).to_have_text(state)


def members(page, count):
    expect(page.locator("#members tr")).to_have_count(count)


def event(page, text):
    expect(page.locator("#events li").filter(has_text=text).first).to_be_visible()


def a_job_is_submitted(page, cluster):
    page.goto(cluster.url)
    expect(page.get_by_role("heading", name="Workers (2)")).to_be_visible()
    page.get_by_label("or write it here").fill('name = "tulips"\n[train]\nepoch = 3\n')
    page.get_by_role("button", name="Submit").click()
    expect(page.locator("#submit-error")).to_contain_text("unknown key `train.epoch`")
    page.get_by_label("or write it here").fill(job("tulips", 5000))
    page.get_by_role("button", name="Submit").press("Enter")
    expect(page.get_by_role("heading", name="tulips")).to_be_visible()
    state_is(page, "running")


def it_is_watched(page):
    members(page, 2)
    expect(page.locator("#by-step svg[role=img]")).to_have_count(3)
    expect(page.locator("#by-epoch svg[role=img]")).to_have_count(3)
    expect(page.get_by_role("img", name="Slots of each member by step")).to_be_visible()
    before = page.locator("#progress progress").get_attribute("value")
    expect(page.locator("#progress progress")).not_to_have_attribute("value", before)
    expect(page.locator("#checkpoints tr").first).to_contain_text("agrees")


def it_is_scaled(page):
    expect(page.get_by_role("spinbutton", name="Workers")).to_have_value("2")
    page.locator("#wanted").fill("1")
    page.get_by_role("button", name="Scale").click()
    expect(page.get_by_role("status")).to_contain_text("is to have 1 worker")
    members(page, 1)
    page.locator("#wanted").fill("2")
    page.keyboard.press("Enter")
    members(page, 2)
    page.locator("#wanted").fill("9")
    # The browser would not send it; the coordinator does not take it either.
    page.evaluate("document.getElementById('scale').noValidate = true")
    page.get_by_role("button", name="Scale").click()
    expect(page.locator("#action-error")).to_contain_text("9 workers are more than job `tulips` can use")
    page.locator("#wanted").fill("2")


def a_death_and_a_recovery_are_seen(page, cluster):
    cluster.workers[0].send_signal(signal.SIGKILL)
    page.get_by_role("radio", name="Faults and recoveries").check()
    event(page, "is gone")
    expect(page.locator("#events li.recovery").first).to_be_visible()
    page.get_by_role("radio", name="All").check()
    members(page, 1)
    cluster.add_workers(1)
    members(page, 2)


def a_worker_is_drained(page, cluster):
    name = page.locator("#members th").first.text_content()
    page.get_by_role("button", name=f"Drain {name}").click()
    page.get_by_role("dialog").get_by_role("button", name="Drain").click()
    event(page, f"{name} leaves after this step")
    expect(page.locator("#members th").filter(has_text=name)).to_have_count(0)
    cluster.add_workers(1)
    members(page, 2)


def it_outlives_its_coordinator(page, cluster):
    cluster.coordinator.kill()
    cluster.coordinator.wait()
    expect(page.locator("#trouble")).to_contain_text("does not answer")
    cluster.start()
    expect(page.locator("#trouble")).to_be_hidden()
    members(page, 2)
    state_is(page, "running")


def it_is_stopped_by_keyboard_and_resumed(page):
    dialog = page.get_by_role("dialog")
    page.get_by_role("button", name="Stop", exact=True).focus()
    page.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    state_is(page, "running")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(dialog.get_by_role("button", name="Stop")).to_be_focused()
    page.keyboard.press("Enter")
    state_is(page, "stopped")
    expect(page.get_by_role("link", name="Report of step")).to_be_visible()
    expect(page.locator("#report img").first).to_be_visible()
    event(page, "stopped after step")
    page.get_by_role("button", name="Resume").click()
    state_is(page, "running")
    page.get_by_role("button", name="Stop at once").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop at once").click()
    state_is(page, "stopped")


def the_page_says_what_the_store_says(page, cluster):
    # The job is over; what the page shows of its log may be a second old.
    [audit] = [it for it in perennial("audit", "tulips", "--store", cluster.store) if it["event"] == "audit"]
    expect(page.locator("#ledger .hash")).to_have_text(audit["ledger_root"])


def a_report_is_a_page_of_its_own(page, context):
    with context.expect_page() as opened:
        page.get_by_role("link", name="Report of step").first.click()
    report = opened.value
    expect(report.get_by_role("heading", name="Most confident mistakes")).to_be_visible()
    report.locator("img").first.scroll_into_view_if_needed()
    report.wait_for_function("() => document.images[0].naturalWidth > 0")
    assert report.evaluate("() => origin") == "null", "it is of no origin"
    report.close()


def a_job_file_is_picked_and_its_job_finishes(page, cluster):
    Path("roses.toml").write_text(job("roses", 1))
    page.goto(cluster.url)
    page.get_by_label("Pick a job file").set_input_files("roses.toml")
    expect(page.get_by_label("or write it here")).to_have_value(job("roses", 1))
    page.get_by_role("button", name="Submit").click()
    state_is(page, "finished")
    expect(page.get_by_role("button", name="Resume")).to_be_hidden()
    page.get_by_role("link", name="All jobs").click()
    expect(page.locator("#jobs tr")).to_have_count(2)


def in_plain_text_on_this_machine(browser):
    context = browser.new_context(viewport=WIDE)
    page = context.new_page()
    with Cluster("plain") as cluster:
        cluster.add_workers(2)
        watched = Watched(page, cluster.url)
        a_job_is_submitted(page, cluster)
        it_is_watched(page)
        it_is_scaled(page)
        a_death_and_a_recovery_are_seen(page, cluster)
        a_worker_is_drained(page, cluster)
        looks_right(page, "job")
        by_keyboard(page, "job")
        it_outlives_its_coordinator(page, cluster)
        it_is_stopped_by_keyboard_and_resumed(page)
        looks_right(page, "stopped")
        the_page_says_what_the_store_says(page, cluster)
        a_report_is_a_page_of_its_own(page, context)
        a_job_file_is_picked_and_its_job_finishes(page, cluster)
        looks_right(page, "overview")
        by_keyboard(page, "overview")
        watched.check()
    context.close()


def with_tokens_under_tls(browser):
    for words in (["init", "certs"], ["issue", "certs", "coordinator"], ["token", "certs", "vera", "--role", "view"],
                  ["token", "certs", "otto", "--role", "operate"]):
        subprocess.run([PERENNIAL, "certs", *words], check=True, stdout=subprocess.DEVNULL)
    tls = ["--tls-ca", "certs/ca.pem", "--tls-cert", "certs/coordinator.pem", "--tls-key", "certs/coordinator.key"]
    tokens = {name: Path(f"certs/{name}.token").read_text().strip() for name in ["vera", "otto"]}
    context = browser.new_context(viewport=WIDE, ignore_https_errors=True)
    page = context.new_page()
    with Cluster("secure", [*tls, "--tokens", "certs/tokens"], scheme="https") as cluster:
        watched = Watched(page, cluster.url)
        page.goto(cluster.url)
        token, sign_in = page.get_by_label("Token"), page.get_by_role("button", name="Sign in")
        expect(token).to_be_focused()
        looks_right(page, "login")
        token.fill("perennial-0123")
        sign_in.click()
        expect(page.locator("#login-error")).to_contain_text("that is no token")
        token.fill("perennial-" + "0" * 64)
        sign_in.click()
        expect(page.locator("#login-error")).to_contain_text("the token is not known here")
        for name, role, operates in [("vera", "viewer", False), ("otto", "operator", True)]:
            token.fill(tokens[name])
            sign_in.click()
            expect(page.locator("#who")).to_have_text(f"{name} ({role})")
            assert page.get_by_role("heading", name="Submit a job").is_visible() == operates
            assert page.evaluate("() => document.cookie") == "", "no script reads the token"
            assert tokens[name] not in page.content()
            page.reload()
            expect(page.locator("#who")).to_have_text(f"{name} ({role})")
            page.get_by_role("button", name="Sign out").click()
            expect(token).to_be_visible()
        watched.check()
        cluster.log.flush()
        said = Path("secure.log").read_text()
        assert not any(secret in said for secret in tokens.values()), "a token stands in the log"
    context.close()


def main():
    with sync_playwright() as playwright:
        # Nobody else is at work within this browser, and root has no sandbox.
        browser = playwright.chromium.launch(executable_path=os.environ["CHROMIUM"], args=["--no-sandbox"])
        for part in [in_plain_text_on_this_machine, with_tokens_under_tls]:
            start = time.monotonic()
            part(browser)
            print(f"ok {part.__name__}: {time.monotonic() - start:.0f} s", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
