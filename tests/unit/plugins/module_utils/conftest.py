"""How properties are tested."""

from __future__ import annotations

import hypothesis
import sample

# The same examples in every run, so that what was green stays it; a soak looks for new ones. No deadline: machines are
# busy.
hypothesis.settings.register_profile("test", deadline=None, database=None, derandomize=True, max_examples=30)
hypothesis.settings.register_profile("soak", deadline=None, database=None, max_examples=5000)
hypothesis.settings.load_profile(sample.size("test", "soak"))
