"""How properties are tested."""

from __future__ import annotations

import os

import hypothesis

# The same examples in every run, so that what was green stays it; a soak looks for new ones. No deadline: machines are
# busy.
hypothesis.settings.register_profile("test", deadline=None, database=None, derandomize=True)
hypothesis.settings.register_profile("soak", deadline=None, database=None, max_examples=5000)
hypothesis.settings.load_profile("soak" if os.environ.get("GPUHUB_SOAK") else "test")
