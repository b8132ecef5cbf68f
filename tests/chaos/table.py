"""What became of all faults: a table, and one line.

SPDX-License-Identifier: GPL-2.0-or-later
"""

from linux import percentile

# Which column a verdict is counted in.
COLUMN = {'lost': 'lost', 'duplicate': 'lost', 'reset': 'lost',
          'guest': 'lost', 'double-live': 'double', 'left-over': 'left'}
HEAD = ('fault', 'count', 'survived', 'outage p50', 'p99', 'lost',
        'double-live', 'left over', 'other')


def column(told):
    """lost, double, left or other; None if it has survived."""
    verdict = told['verdict']
    return verdict and COLUMN.get(verdict, 'other')


def row(name, rows):
    """A line of the table, as words."""
    outages = [r['outage_ms'] for r in rows if r.get('outage_ms') is not None]
    columns = [column(r) for r in rows]
    return (name, str(len(rows)), str(columns.count(None)),
            *(f'{percentile(outages, part):.0f} ms' if outages else '-'
              for part in (50, 99)),
            *(str(columns.count(c)) for c in ('lost', 'double', 'left',
                                              'other')))


def lines(rounds):
    """The whole table: a line for each fault and guest, and one for all."""
    for guest in ('bare', 'linux'):
        mine = [r for r in rounds if r['guest'] == guest]
        for name in sorted({r['fault'] for r in mine}):
            yield row(f'{name}{"" if guest == "bare" else ", Linux"}',
                      [r for r in mine if r['fault'] == name])
    yield row('all', rounds)


def text(rounds):
    """For a terminal."""
    table = [HEAD, *lines(rounds)]
    widths = [max(len(line[i]) for line in table) for i in range(len(HEAD))]
    return '\n'.join(' '.join(
        word.ljust(width) if i == 0 else word.rjust(width)
        for i, (word, width) in enumerate(zip(line, widths)))
        for line in table)


def markdown(rounds, troubles, total):
    """For a note, with the cause of each that did not survive."""
    out = ['| ' + ' | '.join(HEAD) + ' |',
           '|---' + '|---:' * (len(HEAD) - 1) + '|']
    out += ['| ' + ' | '.join(line) + ' |' for line in lines(rounds)]
    out += ['', total, '']
    out += [f'- {t["round"]} ({t.get("fault", "end of a world")}): '
            f'{t["verdict"]}: {t["cause"]}' for t in troubles]
    unexpected = [r for r in rounds if not r['expected']]
    out += [f'- {r["round"]} ({r["fault"]}): survived, but not as expected: '
            f'{r["cause"]}' for r in unexpected]
    return '\n'.join(out) + '\n'


def total(seed, rounds, troubles, seconds):
    """The one line. `troubles`: all that was lost, ends of worlds too."""
    def count(which):
        return sum(column(t) == which for t in troubles)

    survived = sum(r['verdict'] is None for r in rounds)
    unexpected = sum(not r['expected'] for r in rounds)
    return (f'chaos: seed {seed}: {len(rounds)} faults, {survived} survived, '
            f'lost {count("lost")}, double-live {count("double")}, left over '
            f'{count("left")}, other {count("other")}, '
            f'not as expected {unexpected}; {seconds:.0f} s')
