"""For pytest: a test's name, time and failure are told as it ends.

SPDX-License-Identifier: GPL-2.0-or-later

An outer guest may be ended at any time, and what pytest keeps for its end
would be lost then: PYTHONPATH=tests/kvm/inside python3 -m pytest -p atonce
"""


def pytest_report_teststatus(report):
    """No dots: a line each."""
    if report.when == 'call' or report.failed:
        return (report.outcome, '',
                f'{report.outcome.upper()} in {report.duration:.1f} s')
    return None


def pytest_runtest_logreport(report):
    if report.when == 'call' and report.passed and report.capstdout:
        print(f'\n{report.capstdout.rstrip()}', end=' ', flush=True)
    if report.failed:
        print(f'\n{report.nodeid}: {report.longreprtext}', flush=True)
        for title, text in report.sections:
            print(f'--- {title}\n{text}', flush=True)
