"""Names of runs: one name, one folder, one parser."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudit.errors import ConfigError
from mudit.runs import Setting, Target

KEY = re.compile(r"[a-z0-9_-]+")  # the workflow's wildcard
NAMES = st.from_regex(r"[a-z][a-z0-9-]*", fullmatch=True)
COUNTS = st.integers(1, 10**6)


@given(st.builds(Setting, NAMES, COUNTS, COUNTS, st.none() | st.integers(-64, 64)))
def test_a_setting_is_its_name(setting):
    assert Setting.parse(setting.name) == setting
    assert KEY.fullmatch(setting.name)


@given(st.builds(Target, NAMES, st.integers(0, 10**6)))
def test_a_target_is_its_name(target):
    assert Target.parse(target.name) == target
    assert KEY.fullmatch(target.name)


def test_the_readouts_multiplier_is_part_of_the_name():
    assert Setting("mup", 32, 64).name == "mup_w32_b64"
    assert Setting("mup", 32, 64, -2).name == "mup_w32_b64_o-2"
    assert len({Setting("mup", 32, 64, multiplier).name for multiplier in (None, -2, 0, 2)}) == 4


@pytest.mark.parametrize("name", ["mup_w32", "mup_w32_b64_", "mup_w32_b64_o", "mup_w32_b64_o1.5", "Mup_w32_b64", "mup_w32_b64_s0"])
def test_anything_else_is_one_line_with_an_example(name):
    with pytest.raises(ConfigError, match=f"'{re.escape(name)}' is not the name of a sweep setting; an example is 'mup_w32_b64'"):
        Setting.parse(name)


@pytest.mark.parametrize("name", ["mup_w032_b64", "mup_w32_b64_o-0", "mup_w32_b64_o02"])
def test_a_second_spelling_is_refused(name):
    with pytest.raises(ConfigError, match="is not the name of a sweep setting; it would be"):
        Setting.parse(name)
