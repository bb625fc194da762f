"""Runs of two processes that are killed, one or both, at each phase: nobody is left, and the status tells."""

import pytest
from parallel import test_launcher

from torture.conftest import count

KILLS = 50


@pytest.mark.slow
def test_groups(tmp_path, figure):
    with figure("kills of groups of processes") as counted:
        for number in range(count(KILLS)):
            folder = tmp_path / str(number)
            folder.mkdir()
            with counted.case(number):
                test_launcher.test_nobody_is_left(folder, number)
