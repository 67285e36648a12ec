"""Progress on its way from the module to whoever waits."""

from __future__ import annotations

from ansible_collections.gpuhub.platform.plugins.action import bundle_check
from ansible_collections.gpuhub.platform.plugins.module_utils.progress import ProgressFile


def test_what_the_file_says_is_shown_once_each_time_it_changes(tmp_path, monkeypatch):
    file, shown = tmp_path / "progress", []
    texts = iter(["", "one", "one", "two"])

    class Done:
        """An event that is set when there is nothing more to say."""

        def wait(self, seconds):
            text = next(texts, None)
            if text is None:
                return True
            file.write_text(text)
            return False

    monkeypatch.setattr(bundle_check.Display, "display", lambda self, text: shown.append(text))
    bundle_check.show(file, Done())
    assert shown == ["one", "two"]


def test_it_is_written_once_a_second_and_not_before(tmp_path):
    now = [0.0]
    progress = ProgressFile(tmp_path / "progress", lambda: now[0])

    def after(seconds, done):
        now[0] = seconds
        progress("reading x.tar.gz", done, 11_200_000_000)
        return (tmp_path / "progress").read_text() if (tmp_path / "progress").exists() else None

    assert after(0.5, 0) is None, "what is over at once needs no word"
    assert after(1.5, 3_100_000_000) == "reading x.tar.gz: 3.1 of 11.2 GB"
    assert after(2.0, 9_000_000_000) == "reading x.tar.gz: 3.1 of 11.2 GB"
    assert after(3.0, 11_200_000_000) == "reading x.tar.gz: 11.2 of 11.2 GB"


def test_nobody_who_waits_is_no_reason_to_fail(tmp_path):
    now = [0.0]
    progress = ProgressFile(tmp_path / "gone" / "progress", lambda: now[0])
    now[0] = 5.0
    progress("x", 1, 2)
