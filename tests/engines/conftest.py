"""What runs the engines themselves: `make engines` has them in an environment of its own."""
import os

import pytest


def pytest_runtest_setup(item):
    if not os.environ.get("STS_ENGINES"):
        pytest.skip("needs DuckDB, Spark and rsyslog: make engines")
