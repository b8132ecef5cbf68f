"""Fixtures of the functional tests.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import sys

import pytest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line(
        'markers', 'slow: takes more than a few seconds; -m "not slow"')


def pytest_collection_modifyitems(config, items):
    for path in (harness.QEMU, harness.GUEST):
        if not os.path.exists(path):
            raise pytest.UsageError(f'{path} is missing: run make and '
                                    f'make guest first')


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if call.when == 'call' and report.failed:
        item.failed = True
        for pair in getattr(item, 'pairs', ()):
            report.sections.extend(pair.report())


@pytest.fixture
def make_pair(tmp_path, request):
    """Makes a Pair; its processes end with the test, whatever happens."""
    request.node.pairs = []

    def make(kind=harness.Pair, **kwargs):
        pair = kind(tmp_path, **kwargs)
        request.node.pairs.append(pair)
        return pair

    yield make
    try:
        if not getattr(request.node, 'failed', False):
            for pair in request.node.pairs:
                pair.wait_arbiter()
    finally:
        for pair in request.node.pairs:
            pair.close()
    for pair in request.node.pairs:
        if not getattr(request.node, 'failed', False):
            pair.check_arbiter()
