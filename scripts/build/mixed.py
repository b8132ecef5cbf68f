# Build some of our sources with sanitizers, linked to the ordinary objects.
# SPDX-License-Identifier: GPL-2.0-or-later
#
# QEMU is not built a second time: meson's own build of a unit test says how
# its sources are compiled and what it is linked with.  Sources of ours are
# compiled again, with other flags; QEMU's libraries are taken as they are.
# Memory errors are found where our code reads and writes, and in all that is
# allocated, by whomever.

import hashlib
import json
import os
import shlex
import subprocess
import sys

# The coroutines of an instrumented program have to tell the sanitizer when
# they change the stack.
COROUTINE = 'util/coroutine-ucontext.c'

# Flags of the ordinary build that have no place here: warnings (given there),
# what only gcc knows, and what hides a use of memory that was not set.
DROP = ('-W', '-O', '-ftrivial-auto-var-init', '-fzero-call-used-regs',
        '-fdiagnostics-color')
WITH_ARG = ('-MQ', '-MF', '-o', '-c')


def fail(text):
    sys.exit(f'{os.path.basename(sys.argv[0])}: {text}')


def quote(text):
    """As a value or a path in ninja's file."""
    return text.replace('$', '$$').replace(':', '$:').replace(' ', '$ ')


class Mixed:
    def __init__(self, obj, out, compiler, cflags, ldflags):
        self.obj = os.path.abspath(obj)
        self.out = os.path.abspath(out)
        self.compiler, self.cflags, self.ldflags = compiler, cflags, ldflags
        self.ninja = shlex.split(os.environ.get('NINJA', 'ninja'))
        self.objects = {}           # output -> (source, flags)
        self.programs = {}          # output -> (objects, arguments, inputs)
        self.inputs = set()
        os.makedirs(self.out, exist_ok=True)
        self._ninja('build.ninja')
        self._read_commands()

    def _ninja(self, *args, quiet=True):
        run = subprocess.run([*self.ninja, '-C', self.obj, *args],
                             stdout=subprocess.PIPE if quiet else None,
                             text=True)
        if run.returncode != 0:
            fail(f'{(run.stdout or "").strip()}\nninja {args[0]} failed')
        return run.stdout

    def _read_commands(self):
        text = self._ninja('-t', 'compdb', '-x', 'c_COMPILER', 'c_LINKER')
        # -C makes it say where it goes
        db = json.loads(text[text.index('[\n'):])
        self.command = {e['output']: e for e in db}

    def unit_tests(self, directory):
        """The programs that meson makes of the sources in @directory."""
        return sorted(o for o in self.command
                      if os.path.dirname(o) == directory)

    def _flags(self, output):
        words = shlex.split(self.command[output]['command'])[1:]
        flags = []
        while words:
            word = words.pop(0)
            if word in WITH_ARG:
                words.pop(0)
            elif word == '-MD' or word.startswith(f'-I{output[:-2]}'):
                continue
            elif not word.startswith(DROP) and \
                    not (word.startswith('-I') and word.endswith('.p')):
                flags.append(word)
        return flags

    def _object(self, source, flags):
        flags = [*flags, *self.cflags]
        key = hashlib.sha1('\n'.join([source, *flags]).encode()).hexdigest()
        name = os.path.splitext(os.path.basename(source))[0]
        output = os.path.relpath(f'{self.out}/{name}-{key[:8]}.o', self.obj)
        self.objects[output] = (source, flags)
        return output

    def program(self, name, like, sources=None):
        """
        A program that is linked as the unit test @like is; of the same
        sources, or of @sources (relative to the build directory) instead.
        """
        if like not in self.command:
            fail(f'{like}: no such unit test in {self.obj}')
        objects, rest, mine = [], [], None
        words = shlex.split(self.command[like]['command'])[1:]
        while words:
            word = words.pop(0)
            if word == '-o':
                words.pop(0)
            elif not word.startswith(f'{like}.p/'):
                rest.append(word)
            elif sources is None or '/ft/' not in self._source(word):
                objects.append(self._object(self._source(word),
                                            self._flags(word)))
            elif os.path.basename(word).startswith(os.path.basename(like)):
                mine = self._flags(word)
        for source in sources or []:
            objects.append(self._object(source, mine))
        if any(w.startswith('libblock.a.p/') for w in rest):
            like_object = f'{like}.p/{os.path.basename(like)}.c.o'
            objects.append(self._object(f'../qemu/{COROUTINE}',
                                        self._flags(like_object)))
        inputs = [w for w in rest if w.endswith(('.o', '.a')) and
                  not os.path.isabs(w)]
        self.inputs.update(inputs)
        output = os.path.relpath(f'{self.out}/{name}', self.obj)
        self.programs[output] = (objects, rest, inputs)
        return f'{self.out}/{name}'

    def _source(self, output):
        # /build/qemu/tests/unit/ft/../../../migration/ft/wire.c is one file
        # with /build/qemu/migration/ft/wire.c.
        return os.path.normpath(self.command[output]['file'])

    def build(self, jobs):
        """Make all that was asked for, and what it is linked with."""
        self._ninja(*sorted(self.inputs), f'-j{jobs}')
        where = os.path.relpath(self.out, self.obj)
        lines = [f'builddir = {quote(where)}',
                 'rule cc',
                 f'  command = {self.compiler} $flags -MD -MF $out.d '
                 '-o $out -c $in',
                 '  description = CC $out',
                 '  depfile = $out.d',
                 '  deps = gcc',
                 'rule link',
                 f'  command = {self.compiler} $in $rest -o $out',
                 '  description = LINK $out']
        for output, (source, flags) in sorted(self.objects.items()):
            lines += [f'build {quote(output)}: cc {quote(source)}',
                      '  flags = ' +
                      shlex.join(flags).replace('$', '$$')]
        for output, (objects, rest, inputs) in sorted(self.programs.items()):
            # The objects first: what they define is not taken from a library.
            names = ' '.join(quote(o) for o in objects)
            implicit = ' '.join(quote(i) for i in inputs)
            lines += [f'build {quote(output)}: link {names} | {implicit}',
                      '  rest = ' + shlex.join(
                          [*rest, *self.ldflags]).replace('$', '$$')]
        with open(f'{self.out}/build.ninja', 'w', encoding='utf-8') as f:
            f.write('\n'.join(lines) + '\n')
        self._ninja('-f', f'{where}/build.ninja', f'-j{jobs}', quiet=False)
