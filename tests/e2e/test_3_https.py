"""HTTPS: people work by it, a renewed certificate is taken up while they do, and it can be taken away again."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import certificates
import pytest
from harness import (
    HEAD,
    HUB,
    PAGE_TIMEOUT,
    PORTAL,
    Deployment,
    browser_on_the_bastion,
    run_cell,
    start_server,
    stop_server,
    wait_for,
)
from playwright.sync_api import Page, WebSocket
from site_deployment import EVERYTHING, HTTPS, NAME

ADDRESS = "10.77.0.11"
SITE = f"https://{NAME}"
SITE_PORTAL = f"{SITE}:8443"
TLS = "/etc/gpuhub/nginx"
LARGE = 50 * 2**20


@dataclass
class Authorities:
    """The site's own authority, a browser's home that trusts it and the deployment's, and certificates it has given."""

    folder: Path
    site: certificates.Pair
    pairs: dict[str, certificates.Pair] = field(default_factory=dict)

    def pair(self, name: str, **properties) -> certificates.Pair:
        """A certificate of the site's authority by a name of the test's; made when it is first asked for."""
        if name not in self.pairs:
            settings = {"names": (NAME,), "issuer": self.site, **properties}
            self.pairs[name] = certificates.make(self.folder / name, **settings)
        return self.pairs[name]

    def settings(self, name: str, key_of: str = "") -> list[str]:
        """What tells the playbook to use a certificate."""
        return [
            f"-enginx_certificate_file={self.pair(name).certificate_file}",
            f"-enginx_certificate_key_file={self.pair(key_of or name).key_file}",
        ]


@pytest.fixture(scope="module")
def authorities(tmp_path_factory) -> Authorities:
    folder = tmp_path_factory.mktemp("tls")
    return Authorities(folder, certificates.make(folder / "site", authority=True, common_name="authority of the site"))


def test_what_cannot_be_published_is_refused_before_any_change(deployment, authorities):
    authorities.pair("expired", start=-90, end=-1)
    authorities.pair("other-name", names=("www.example.com",))
    authorities.pair("good")
    rows = {
        "expired at 20": [*HTTPS, *authorities.settings("expired")],
        f"is not for {NAME}: it names www.example.com": [*HTTPS, *authorities.settings("other-name")],
        "is not the key of": [*HTTPS, *authorities.settings("good", key_of="expired")],
        "give both, or none": [*HTTPS, f"-enginx_certificate_file={authorities.pair('good').certificate_file}"],
        'users:(("kubeli': [*HTTPS, "-enginx_https_port=10250"],
        "nginx_usage_portal_port is 443": [*HTTPS, "-enginx_usage_portal_port=443"],
        "nginx_usage_portal_port is 10250, and a port is taken": [*HTTPS, "-enginx_usage_portal_port=10250"],
    }
    before = state(deployment)
    for number, (said, settings) in enumerate(rows.items()):
        # site.yml comes to the same tasks before it changes anything; once is enough to show that.
        play = deployment.role(["nginx"], "check", *settings) if number else deployment.play(*settings)
        assert play.code != 0, said
        # Long messages are shown in several lines.
        assert said in " ".join(play.output.split()), play.output[-3000:]
        assert play.changed == 0, play.changed_tasks()
    assert state(deployment) == before


def state(deployment: Deployment) -> str:
    """What this role could change on the head."""
    look = "dpkg-query -l nginx 2>&1; ls -lR --time-style=full-iso /etc/nginx /etc/gpuhub"
    return deployment.on(HEAD, look, check=False)


@pytest.fixture(scope="module")
def page(deployment, site, authorities) -> Iterator[Page]:
    """The browser of somebody who trusts both authorities and has NAME in their DNS."""
    home = authorities.folder / "home"
    database = home / ".pki/nssdb"
    database.mkdir(parents=True)
    own = authorities.folder / "own.crt"
    own.write_text(deployment.on(HEAD, "cat /var/lib/gpuhub/pki/ca.crt"))
    certutil = ["certutil", "-d", f"sql:{database}"]
    subprocess.run([*certutil, "-N", "--empty-password"], check=True, stdin=subprocess.DEVNULL)
    for name, file in {"own": own, "site": authorities.site.certificate_file}.items():
        subprocess.run([*certutil, "-A", "-t", "C,,", "-n", name, "-i", file], check=True, stdin=subprocess.DEVNULL)
    with browser_on_the_bastion(f"--host-resolver-rules=MAP {NAME} {ADDRESS}", HOME=str(home)) as browser:
        page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        page.set_default_timeout(PAGE_TIMEOUT)
        yield page


def served(deployment: Deployment) -> bytes:
    """The certificate that a new connection gets."""
    code = f"import ssl; print(ssl.get_server_certificate(('{ADDRESS}', 443)))"
    return deployment.lab("run", "python3", "-c", code).strip().encode()


def curl(deployment: Deployment, url: str, *arguments: str) -> tuple[int, str]:
    """Status and headers."""
    resolve = [option for port in (80, 443, 8443) for option in ("--resolve", f"{NAME}:{port}:{ADDRESS}")]
    return deployment.http(url, "-k", "-o", "/dev/null", "-D", "-", *resolve, *arguments)


def test_is_published(site):
    assert site.code == 0, site.output[-6000:]
    summary = site.output[-4000:]
    assert f"{SITE}/hub/authorize" in summary
    assert "/var/lib/gpuhub/pki/ca.crt" in summary
    assert "passwords travel in clear text" not in summary
    assert f"Usage portal    {SITE_PORTAL}" in summary


def test_clear_text_leads_to_https(deployment, site):
    status, headers = curl(deployment, f"http://{NAME}/user/x/lab?next=//evil.example")
    assert status == 308
    assert f"Location: {SITE}/user/x/lab?next=//evil.example" in headers
    status, headers = curl(deployment, f"{SITE}/hub/login")
    assert status == 200
    assert "Strict-Transport-Security: max-age=31536000" in headers
    assert curl(deployment, f"{SITE}/hub/api")[0] == 200
    status, headers = curl(deployment, f"{SITE_PORTAL}/healthz")
    assert status == 200
    assert "Strict-Transport-Security: max-age=31536000" in headers


@pytest.mark.parametrize(
    "header", ["Host: evil.example", "Host: ", "Host: 10.77.0.11", "Host: hub.example.com.evil.example"]
)
def test_other_names_are_not_answered(deployment, site, header):
    for scheme, refused in (("http", 0), ("https", 421)):
        status, headers = curl(deployment, f"{scheme}://{NAME}/hub/login", "-H", header)
        assert status in (refused, 400), (scheme, headers)
        assert "Location" not in headers
    status, headers = curl(deployment, f"{SITE_PORTAL}/api/v1/auth/login", "-H", header)
    assert status in (421, 400), headers


def test_what_clients_say_of_themselves_is_not_believed(deployment, site):
    lies = (
        "X-Forwarded-Proto: http",
        "X-Scheme: http",
        "Forwarded: proto=http;host=evil.example",
        "X-Forwarded-Host: evil.example",
    )
    arguments = [option for lie in lies for option in ("-H", lie)]
    status, headers = curl(deployment, f"{SITE}/hub/login", *arguments)
    assert status == 200
    assert "evil" not in headers
    cookies = [line for line in headers.splitlines() if line.lower().startswith("set-cookie:")]
    assert cookies
    assert all("secure" in cookie.lower() for cookie in cookies), cookies


@pytest.fixture(scope="module")
def sockets(page) -> list[WebSocket]:
    """WebSockets that the page has opened to kernels."""
    opened: list[WebSocket] = []
    page.on("websocket", lambda one: opened.append(one) if "/channels" in one.url else None)
    return opened


def test_a_notebook_by_https(deployment, page, sockets):
    page.goto(f"http://{NAME}/hub/login")
    assert page.url.startswith(f"{SITE}/hub/login")
    page.fill("input[name=username]", "admin")
    page.fill("input[name=password]", deployment.secret("jupyterhub-password-admin"))
    page.click("input[type=submit], button[type=submit]")
    page.wait_for_url(re.compile(rf"{SITE}/(user/admin/|hub/(home|spawn))"))
    start_server(page, "admin", hub=SITE)
    assert page.url.startswith(f"{SITE}/user/admin/")
    cookies = page.context.cookies(f"{SITE}/hub/")
    assert cookies
    assert all(cookie["secure"] for cookie in cookies), cookies
    page.goto(f"{SITE}/user/admin/lab?reset")
    page.locator(".jp-LauncherCard[data-category=Notebook]").first.click()
    assert run_cell(page, "6 * 7") == "42"
    assert [one for one in sockets if not one.is_closed()]


def test_a_login_at_the_portal_s_node_port_goes_on_by_https(page):
    """Whoever begins it in clear text is asked for no password there."""
    other = page.context.new_page()
    asked: list[str] = []
    other.on("request", lambda request: asked.append(request.url))
    other.goto(f"{PORTAL}/api/v1/auth/login?next=/api/v1/me")
    assert other.url == f"{SITE_PORTAL}/api/v1/me"
    assert json.loads(other.inner_text("pre"))["username"] == "admin"
    assert [url for url in asked if not url.startswith("https:")] == asked[:1]
    cookies = page.context.cookies(f"{SITE_PORTAL}/api/v1/me")
    assert [cookie["secure"] for cookie in cookies if cookie["name"] == "gpuhub-usage-portal"] == [True], cookies
    other.close()


def test_a_large_file_is_uploaded(deployment, page):
    status = page.evaluate(
        """async size => {
            const token = document.cookie.match(/(?:^|; )_xsrf=([^;]+)/)[1];
            const content = btoa('x'.repeat(size));
            const answer = await fetch('/user/admin/api/contents/large.bin', {
                method: 'PUT',
                headers: {'X-XSRFToken': token, 'Content-Type': 'application/json'},
                body: JSON.stringify({type: 'file', format: 'base64', content}),
            });
            return answer.status;
        }""",
        LARGE,
    )
    assert status == 201
    homes = "/mnt/shared/.gpuhub/homes/jhub"
    assert (
        int(deployment.on(HEAD, f"stat -c %s {homes}/home-admin*/large.bin; rm {homes}/home-admin*/large.bin")) == LARGE
    )


def test_a_certificate_renewed_by_a_run_is_taken_up(deployment, authorities, page, sockets):
    connected = [one for one in sockets if not one.is_closed()]
    run = deployment.role(["nginx"], "main", *HTTPS, *authorities.settings("first"))
    assert run.code == 0, run.output
    key = authorities.pair("first").key_file.read_text().splitlines()[1]
    assert key not in run.output
    wait_for("the certificate is served", lambda: served(deployment) == leaf(authorities.pair("first")))
    assert run_cell(page, "6 * 8", index=1) == "48"
    assert not [one for one in connected if one.is_closed()], "the kernel's connection was cut"


def test_a_certificate_renewed_on_the_head_is_taken_up(deployment, authorities, page, sockets):
    """As an ACME client does it: one file after the other, and a while in between."""
    connected = [one for one in sockets if not one.is_closed()]
    renewed = authorities.pair("second")
    replace(deployment, f"{TLS}/tls.crt", renewed.certificate_file.read_text())
    wait_for(
        "nginx is asked about a pair that does not fit",
        lambda: "key values mismatch" in deployment.on(HEAD, "journalctl -u gpuhub-nginx-certificate.service"),
    )
    assert served(deployment) == leaf(authorities.pair("first"))
    replace(deployment, f"{TLS}/tls.key", renewed.key_file.read_text())
    wait_for("the certificate is served", lambda: served(deployment) == leaf(renewed))
    assert run_cell(page, "6 * 9", index=2) == "54"
    assert connected
    assert not [one for one in connected if one.is_closed()], "the kernel's connection was cut"
    page.reload()


def leaf(pair: certificates.Pair) -> bytes:
    return certificates.pem(pair.certificate).strip()


def replace(deployment: Deployment, path: str, text: str) -> None:
    """Replace a file on the head as a whole."""
    new = f"{path}.new"
    deployment.on(HEAD, f"umask 077; cat > {new} <<'END'\n{text}END\nchmod --reference={path} {new} && mv {new} {path}")


def test_nginx_comes_back_after_a_crash(deployment, site):
    def main() -> str:
        return deployment.on(HEAD, "systemctl show nginx --property=MainPID --value").strip()

    crashed = main()
    deployment.on(HEAD, "systemctl kill --signal=KILL nginx")
    wait_for("nginx runs again", lambda: main() not in (crashed, "0"))
    assert curl(deployment, f"{SITE}/hub/api")[0] == 200


def test_a_second_run_changes_nothing(deployment, authorities, site):
    again = deployment.play(*EVERYTHING, *authorities.settings("second"))
    assert again.code == 0, again.output[-6000:]
    assert again.changed == 0, again.changed_tasks()


def test_no_user_with_a_hostile_name(deployment, page):
    """By the REST API, as an administrator."""
    page.goto(f"{SITE}/hub/home")
    names = ["..", "../../x", "a/b", "алиса", "x" * 253, "alice-b---0123456789abcdef0123"]
    answers = page.evaluate(
        """names => Promise.all(names.map(async name => {
            const headers = {'X-XSRFToken': window.jhdata.xsrf_token, 'Content-Type': 'application/json'};
            const body = JSON.stringify({usernames: [name]});
            return (await fetch('/hub/api/users', {method: 'POST', headers, body})).status;
        }))""",
        names,
    )
    assert answers == [400] * len(names)


def test_uninstalled(deployment, site, page):
    stop_server(page, SITE)
    page.locator("#stop").wait_for(state="hidden")
    removed = deployment.role(["nginx"], "uninstall")
    assert removed.code == 0, removed.output
    assert curl(deployment, f"{SITE}/hub/api")[0] == 0
    assert deployment.http(f"{HUB}/hub/api")[0] == 200
    # What is the firewall's stays: those of the site are active.
    ours = "-path '/etc/nginx/*gpuhub*' -o -name '*nginx*' -o -name '*tls*'"
    places = "/etc/nginx/conf.d /etc/gpuhub /etc/systemd/system /usr/local/lib"
    assert deployment.on(HEAD, f"find {places} -mindepth 1 -maxdepth 1 '(' {ours} ')'") == ""
    assert deployment.role(["nginx"], "uninstall").changed == 0
