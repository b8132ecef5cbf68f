/*
 * Small things for the bare test guest: memory, serial line, options.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The serial line is COM1 at 115200, polled: it serves people and logs,
 * and works from the first instruction to a panic.
 */

#include <stdarg.h>

#include "ftguest.h"

#define COM1        0x3f8
#define LSR_EMPTY   0x20

static char options[512];

void *memcpy(void *to, const void *from, size_t n)
{
    void *start = to;

    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    return start;
}

void *memset(void *to, int byte, size_t n)
{
    void *start = to;

    asm volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(byte) : "memory");
    return start;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const uint8_t *p = a, *q = b;

    for (size_t i = 0; i < n; i++) {
        if (p[i] != q[i]) {
            return p[i] - q[i];
        }
    }
    return 0;
}

void serial_init(void)
{
    outb(COM1 + 1, 0);                  /* no interrupts */
    outb(COM1 + 3, 0x80);
    outb(COM1, 1);                      /* divisor 1 */
    outb(COM1 + 1, 0);
    outb(COM1 + 3, 3);                  /* 8 bits, no parity */
    outb(COM1 + 2, 7);                  /* FIFO on and empty */
    outb(COM1 + 4, 3);
}

static void print_char(char c)
{
    /* A machine without COM1 reads all ones: no wait for ever. */
    for (unsigned i = 0; i < 1000000; i++) {
        if (inb(COM1 + 5) & LSR_EMPTY) {
            break;
        }
    }
    outb(COM1, c);
}

static void print_number(uint64_t v, unsigned base)
{
    char digits[24];
    unsigned n = 0;

    do {
        digits[n++] = "0123456789abcdef"[v % base];
        v /= base;
    } while (v);
    while (n) {
        print_char(digits[--n]);
    }
}

/* All numbers are passed as uint64_t. */
void print(const char *format, ...)
{
    va_list ap;
    uint64_t v;

    va_start(ap, format);
    for (; *format; format++) {
        if (*format == '\n') {
            print_char('\r');
        }
        if (*format != '%') {
            print_char(*format);
            continue;
        }
        switch (*++format) {
        case 's':
            for (const char *s = va_arg(ap, const char *); *s; s++) {
                print_char(*s);
            }
            break;
        case 'u':
            print_number(va_arg(ap, uint64_t), 10);
            break;
        case 'b':                       /* a byte, two digits */
            v = va_arg(ap, uint64_t);
            print_number(v >> 4 & 15, 16);
            print_number(v & 15, 16);
            break;
        case 'x':
            print_number(va_arg(ap, uint64_t), 16);
            break;
        }
    }
    va_end(ap);
}

void put_be16(uint8_t *p, uint16_t v)
{
    p[0] = v >> 8;
    p[1] = v;
}

void put_be32(uint8_t *p, uint32_t v)
{
    v = __builtin_bswap32(v);
    memcpy(p, &v, sizeof(v));
}

void put_be64(uint8_t *p, uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(p, &v, sizeof(v));
}

uint32_t get_be32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return __builtin_bswap32(v);
}

void *arena_alloc(size_t size, size_t align)
{
    static uintptr_t next = ARENA_BASE;
    uintptr_t at = (next + align - 1) & ~(align - 1);

    if (size > ARENA_END - ARENA_BASE || at + size > ARENA_END) {
        print("ftguest: PANIC no room for %u bytes more for the disks\n",
              size);
        for (;;) {
            asm volatile("cli; hlt");
        }
    }
    next = at + size;
    return memset((void *)at, 0, size);
}

void options_init(const char *line)
{
    size_t n = 0;

    while (line[n] && n < sizeof(options) - 1) {
        options[n] = line[n];
        n++;
    }
    options[n] = 0;
}

/* The text after "name=", or NULL; a later one wins over an earlier. */
static const char *option_find(const char *name)
{
    const char *found = NULL;

    for (const char *p = options; *p; ) {
        size_t n = 0;

        while (name[n] && p[n] == name[n]) {
            n++;
        }
        if (!name[n] && p[n] == '=') {
            found = p + n + 1;
        }
        while (*p && *p != ' ') {
            p++;
        }
        while (*p == ' ') {
            p++;
        }
    }
    return found;
}

bool option_given(const char *name)
{
    return option_find(name) != NULL;
}

uint64_t option_number(const char *name, uint64_t otherwise)
{
    const char *p = option_find(name);
    uint64_t v = 0;

    if (!p || *p < '0' || *p > '9') {
        return otherwise;
    }
    while (*p >= '0' && *p <= '9') {
        v = v * 10 + (*p++ - '0');
    }
    return v;
}

/* Is @word in the comma-separated list that option @name holds? */
bool option_word(const char *name, const char *word)
{
    const char *p = option_find(name);

    while (p && *p && *p != ' ') {
        size_t n = 0;

        while (word[n] && p[n] == word[n]) {
            n++;
        }
        if (!word[n] && (!p[n] || p[n] == ',' || p[n] == ' ')) {
            return true;
        }
        while (*p && *p != ' ' && *p != ',') {
            p++;
        }
        if (*p == ',') {
            p++;
        }
    }
    return false;
}
