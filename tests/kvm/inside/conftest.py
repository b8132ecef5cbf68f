"""Fixtures of tests on KVM: those of tests/functional.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import importlib.util
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(os.path.dirname(HERE))
for name in 'functional', 'chaos':
    sys.path.insert(0, os.path.join(TESTS, name))

# Theirs has the name of this one.
_spec = importlib.util.spec_from_file_location(
    'functional_conftest', os.path.join(TESTS, 'functional', 'conftest.py'))
_theirs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_theirs)

make_pair = _theirs.make_pair
pytest_configure = _theirs.pytest_configure
pytest_runtest_makereport = _theirs.pytest_runtest_makereport
