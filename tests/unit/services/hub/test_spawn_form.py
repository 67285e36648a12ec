"""The form: what people read, and that nothing in it is anything but text."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from string import Formatter

import pytest

HOSTILE = '"><script>alert(1)</script>{{ 7 * 7 }}{cores}%s'


@pytest.fixture(scope="session")
def form(archive):
    from gpuhub_hub import spawn_form

    return spawn_form


class Page(HTMLParser):
    """Elements of a page, and the text in each that has an id."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.texts: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag != "input":
            self._open.append(attributes.get("id", attributes.get("for", "")))

    def handle_endtag(self, tag):
        self._open.pop()

    def handle_data(self, data):
        for name in self._open:
            if name:
                self.texts[name] = self.texts.get(name, "") + data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def view(modules_form, reasons=(None, None), slug="size", **account):
    from gpuhub_core.quantities import Limits, Resources
    from gpuhub_core.quota_profiles import Profile, Request
    from gpuhub_hub.portal_client import Account
    from gpuhub_hub.quota import View

    profiles = tuple(
        Profile(f"{slug}-{number}", f"{slug} {number}", Request(Resources(1000, 2**30, number)), reason=reason)
        for number, reason in enumerate(reasons)
    )
    away = account.pop("away", False)
    account = {"limits": Limits(8000, None, 2), "usage": Resources(1500, 2**30, 1), **account}
    return View(profiles, Account(0.0, **account), away)


def reason(code="over_limit", text="Because.", numbers=None, until=None):
    from gpuhub_core.quota_profiles import Reason

    return Reason(code, text, numbers or {}, until)


def test_each_size_has_a_name_and_a_state(form):
    page = Page(form.render(view(form, (reason(), None, None)), "en"))
    inputs = page.all("input")
    assert [one["type"] for one in inputs] == ["radio"] * 3 and {one["name"] for one in inputs} == {"profile"}
    assert ["disabled" in one for one in inputs] == [True, False, False]
    # The first that can be had is chosen already.
    assert ["checked" in one for one in inputs] == [False, True, False]
    labels = {one["for"] for one in page.all("label")}
    for one in inputs:
        assert one["id"] in labels and page.texts[one["id"]].strip()
        assert page.texts[one["aria-describedby"]].strip()
    assert page.texts[inputs[0]["aria-describedby"]] == "Cannot be started now: Because."
    assert len(page.all("fieldset")) == len(page.all("legend")) == 1
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert not page.all("script") and not any(key.startswith("on") for _, one in page.elements for key in one)


def test_what_is_used_and_free(form):
    html = form.render(view(form, free={"A100": 3, "T4": 0, "any": 3}), "en")
    assert "Cores in use: 1.5 of 8." in html
    assert "GPUs in use: 1 of 2." in html
    assert "GiB of memory in use" not in html
    assert "Free now: 3 A100." in html
    assert "Free now: no GPU." in form.render(view(form, free={"A100": 0, "any": 0}), "en")


def test_an_old_answer_is_called_one(form):
    at = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    assert "This is what it said at 2026-01-02 03:04 UTC." in form.render(view(form, away=True, at=at), "en")


def test_nothing_is_markup(form):
    hostile = view(form, (reason("other", HOSTILE), reason(HOSTILE, "")), slug=HOSTILE, free={HOSTILE: 1, "any": 1})
    page = Page(form.render(hostile, "en"))
    assert not page.all("script")
    assert {one["value"] for one in page.all("input")} == {f"{HOSTILE}-0", f"{HOSTILE}-1"}
    assert "49" not in " ".join(page.texts.values())
    assert HOSTILE in page.texts["gpuhub-state-1"]


def test_no_size(form):
    html = form.render(view(form, ()), "en")
    assert "There is no size that you may start." in html and "<input" not in html


def refusal(form, code, numbers=None, **more):
    from gpuhub_hub.quota import NotGrantedError

    return form.refusal(NotGrantedError(reason(code, numbers=numbers, **more)), "en")


def test_refusals_say_what_to_do(form):
    assert "Try again in a minute" in refusal(form, "away")
    assert "Choose another size" in refusal(form, "something new", text="")
    assert refusal(form, "something new", text="The portal's words.") == "The portal's words."
    names = {"slug": HOSTILE, "slugs": "a, b"}
    assert refusal(form, "no_such_size", names).startswith(f"There is no size '{HOSTILE}' for you.")
    assert "Ask an administrator" in refusal(form, "unknown_user")


@pytest.mark.parametrize("code", ["legend", "use_gpu", "reason_away", "no_such_size", "{", "", "__class__"])
def test_a_portal_s_codes_choose_no_other_text(form, code):
    numbers = {"language": 1, "key": 2, "until": 3, "a b": 4}
    assert refusal(form, code, numbers, text="Said so.") == "Said so."


@pytest.mark.parametrize(
    ("accepted", "found"),
    [
        ("", "en"),
        ("de", "en"),
        ("zh-TW,zh;q=0.9,en;q=0.8", "zh-Hant"),
        ("zh-HK, en;q=0.1", "zh-Hant"),
        ("zh-Hant-CN", "zh-Hant"),
        ("zh-CN,zh;q=0.9", "zh-Hans"),
        ("zh", "zh-Hans"),
        ("zh-SG", "zh-Hans"),
        ("de;q=1, en;q=0.5, zh;q=0.8", "zh-Hans"),
        ("en-GB, zh", "en"),
        ("zh;q=0, de", "en"),
        ("zh;q=x, EN", "en"),
        ("*", "en"),
        (";q=,-,zh-", "zh-Hans"),
    ],
)
def test_languages(archive, accepted, found):
    from gpuhub_hub.texts import language_of

    assert language_of(accepted) == found


def fields(texts) -> dict[str, set[str]]:
    return {key: {name for _, name, _, _ in Formatter().parse(text) if name} for key, text in texts.items()}


def test_every_language_has_every_text(archive):
    """And the same places to fill in."""
    from gpuhub_hub.texts import TEXTS

    english, *others = TEXTS.values()
    assert len(others) == 2 and set(others[0]) == set(others[1])
    for texts in others:
        assert {key: value for key, value in fields(texts).items() if key in english} == fields(english)
        assert fields(texts) == fields(others[0])


def test_chinese_is_written_in_one_script_and_with_its_own_marks(archive):
    from gpuhub_hub.texts import TEXTS

    for language, others in (("zh-Hant", "务规启动节点请选择仅"), ("zh-Hans", "務規啟動節點請選擇僅")):
        written = "".join(TEXTS[language].values())
        assert not set(others) & set(written)
        assert not re.search(r"[\u4e00-\u9fff] ?[,:;(]", written)


HOUR = 3600
REASONS = {
    "over_limit": (
        {"gpu": {"needed": 2, "limit": 4, "used": 2, "reserved": 1}},
        "超过您的上限：需要 2 个 GPU，您的上限是 4 个 GPU，已使用 2 个 GPU，已预留 1 个 GPU。",
    ),
    "over_limit, of all": (
        {
            "cpu_milli": {"needed": 500, "limit": 8000, "used": 8000, "reserved": 0},
            "memory_bytes": {"needed": 2**30, "limit": 2**30, "used": 2**29, "reserved": 0},
        },
        "需要 1 GiB 内存，您的上限是 1 GiB 内存，已使用 0.5 GiB 内存、需要 0.5 个 CPU 核心，您的上限是 8 个 CPU 核心，",
    ),
    "over_limit, whatever is stopped": (
        {
            "cpu_milli": {"needed": 500, "limit": 8000, "used": 8000, "reserved": 0},
            "gpu": {"needed": 8, "limit": 4, "used": 1, "reserved": 0},
        },
        "超过您的上限：需要 8 个 GPU，您的上限是 4 个 GPU。请选择较小的规格，或请管理员提高上限。",
    ),
    "budget_used": (
        {"gpu_hours a month": {"amount": 200 * HOUR, "used": 200 * HOUR}},
        "您的预算已经用完（每月 200 GPU 小时）；2026-02-01 00:00 UTC 起又有可用的额度。管理员可以延长预算。不含 GPU",
    ),
    "budget_used, of money": (
        {"cost within 30 days": {"amount": 12_500_000, "used": 13_000_000}},
        "您的预算已经用完（最近 30 天 12.5 费用单位）；",
    ),
    "too_large": (
        {"gpu": {"needed": 8, "largest": 4}, "cpu_milli": {"needed": 64000, "largest": 32000}},
        "超过您能使用的任何一个节点：需要 8 个 GPU，一个节点最多有 4 个 GPU。请选择较小的规格。",
    ),
    "none_free": (
        {"gpu": {"needed": 4, "largest_free": 2, "free": 5}},
        "需要 4 个 GPU，一个节点最多空闲 2 个 GPU，全部共空闲 5 个 GPU。",
    ),
    "none_free, beside GPUs": (
        {
            "gpu": {"needed": 1, "largest_free": 1, "free": 5},
            "memory_bytes": {"needed": 2**34, "largest_free": 2**33},
        },
        "目前没有足够的空闲资源：需要 16 GiB 内存，一个节点最多空闲 8 GiB 内存。",
    ),
    "none_free, by the hub": ({"gpu": {"needed": 4, "free": 3}}, "需要 4 个 GPU，全部共空闲 3 个 GPU。"),
}


@pytest.mark.parametrize("name", REASONS)
def test_reasons_in_chinese(form, name):
    numbers, words = REASONS[name]
    why = reason(name.partition(",")[0], "English.", numbers, datetime(2026, 2, 1, tzinfo=UTC))
    assert words in form.explain(why, "zh-Hans")
    assert ("不含 GPU" in form.explain(why, "zh-Hans")) is (name == "budget_used")
    traditional = form.explain(why, "zh-Hant")
    assert traditional != form.explain(why, "zh-Hans") and "{" not in traditional
    assert form.explain(why, "en") == "English."


@pytest.mark.parametrize("code", ["over_limit", "budget_used", "too_large", "none_free"])
@pytest.mark.parametrize("numbers", [{"gpu": {}}, {"gpu": 1}, {"disk": {"needed": 1}}, {"gpu": {"needed": "{x}"}}, []])
def test_numbers_that_do_not_fit_leave_the_portal_s_words(form, code, numbers):
    assert form.explain(reason(code, "The portal's words.", numbers), "zh-Hant") == "The portal's words."


def test_names_of_sizes_are_translated_and_those_of_the_installation_are_not(archive):
    from gpuhub_core.quantities import Resources
    from gpuhub_core.quota_profiles import Profile, Request, display_name
    from gpuhub_hub.reasons import display

    def named(name: str, request: Request) -> str:
        return display(Profile("slug", name or display_name(request), request), "zh-Hant")

    cpu, gpu = Request(Resources(1500, 2**30)), Request(Resources(8000, 2**36, 2), "A100", rdma=True)
    assert named("", cpu) == "僅 CPU，1.5 個 CPU 核心，1 GiB 記憶體"
    assert named("", gpu) == "2 個 GPU（A100），8 個 CPU 核心，64 GiB 記憶體，RDMA"
    assert named("", Request(gpu.resources, "any")).startswith("2 個 GPU（任何型號），")
    assert named("Small", cpu) == "Small"


def test_a_form_in_chinese(form):
    html = form.render(
        view(form, (reason(numbers=REASONS["over_limit"][0]), None), free={"A100": 3, "any": 3}), "zh-Hant"
    )
    page = Page(html)
    assert page.all("div")[0]["lang"] == "zh-Hant"
    assert page.texts["gpuhub-state-1"].startswith("現在無法啟動：超過您的上限：需要 2 個 GPU")
    assert page.texts["gpuhub-state-2"] == "現在可以啟動"
    assert "目前可用：A100 3 個。" in html


def test_a_notice_in_every_language(archive):
    from gpuhub_hub.enforcement import notice

    end = {
        "username": "alice",
        "servername": "one",
        "ends_at": datetime.now(UTC) + timedelta(seconds=599.5),
        "reason": "Your budget of 10 GPU hours a month is used up.",
    }
    english = notice(end, "en")
    assert english["text"].startswith("Your server one will be stopped in 10 min (")
    assert (english["seconds"], english["reason"]) == (599, end["reason"])
    assert notice({**end, "servername": ""}, "en")["text"].startswith("Your server will be stopped in 10 min (")
    assert notice(end, "zh-Hant")["text"].startswith("您的伺服器 one 將在 10 分鐘後（")
    over = notice({**end, "ends_at": datetime.now(UTC) - timedelta(hours=1)}, "en")
    assert over["seconds"] == 0 and "in 0 min" in over["text"]
    # What JupyterLab shows of it.
    assert len(notice({**end, "servername": "x" * 20}, "en")["text"]) <= 140
