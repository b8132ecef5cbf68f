/*
 * A sector's content: made from its number and a version, and checked.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Everything in a sector follows from the run (this boot on this disk), the
 * sector's number and the version, so the model need only keep the version.
 * The CRC is for those who have no model: the cold check, and the host's
 * check_image() in ftguest.py. It is zlib's CRC-32.
 */

#include "blk.h"

#define SECTOR_MAGIC    0x4b445446u     /* "FTDK" */
#define SECTOR_END      0x62bdab39u     /* never a boot signature */
#define FILL_WORDS      60
#define CRC_POLYNOMIAL  0xedb88320u

typedef struct Sector {
    uint32_t magic;
    uint32_t run;
    uint64_t sector;
    uint64_t version;
    uint64_t fill[FILL_WORDS];
    uint32_t crc;                       /* of all before it */
    uint32_t end;
} Sector;

_Static_assert(sizeof(Sector) == BLK_SECTOR, "a sector is 512 bytes");

static uint32_t crc_table[8][256];

void sector_init(void)
{
    for (unsigned i = 0; i < 256; i++) {
        uint32_t v = i;

        for (unsigned bit = 0; bit < 8; bit++) {
            v = v >> 1 ^ (v & 1 ? CRC_POLYNOMIAL : 0);
        }
        crc_table[0][i] = v;
    }
    for (unsigned i = 0; i < 256; i++) {
        for (unsigned n = 1; n < 8; n++) {
            uint32_t before = crc_table[n - 1][i];

            crc_table[n][i] = before >> 8 ^ crc_table[0][before & 255];
        }
    }
}

/* Eight bytes at a time; @words is how many such. */
static uint32_t crc(const void *data, unsigned words)
{
    const uint64_t *p = data;
    uint32_t v = 0xffffffff;

    for (; words; words--) {
        uint64_t w = *p++ ^ v;

        v = crc_table[7][w & 255] ^
            crc_table[6][w >> 8 & 255] ^
            crc_table[5][w >> 16 & 255] ^
            crc_table[4][w >> 24 & 255] ^
            crc_table[3][w >> 32 & 255] ^
            crc_table[2][w >> 40 & 255] ^
            crc_table[1][w >> 48 & 255] ^
            crc_table[0][w >> 56];
    }
    return ~v;
}

static uint32_t sector_crc(const Sector *s)
{
    return crc(s, offsetof(Sector, crc) / 8);
}

static uint64_t fill_seed(uint32_t run, uint64_t sector, uint64_t version)
{
    return mix((uint64_t)run << 32 ^ version) ^ mix(sector);
}

void sector_make(uint8_t *p, uint32_t run, uint64_t sector,
                 uint32_t version)
{
    Sector *s = (Sector *)p;
    uint64_t w = fill_seed(run, sector, version);

    s->magic = SECTOR_MAGIC;
    s->run = run;
    s->sector = sector;
    s->version = version;
    for (unsigned i = 0; i < FILL_WORDS; i++) {
        w = next_word(w);
        s->fill[i] = w;
    }
    s->crc = sector_crc(s);
    s->end = SECTOR_END;
}

/* What is there, without knowing what should be. */
SectorLook sector_look(const uint8_t *p)
{
    const Sector *s = (const Sector *)p;
    const uint64_t *w = (const uint64_t *)p;
    SectorLook look = {
        .state = SECTOR_BLANK,
        .run = s->run,
        .sector = s->sector,
        .version = s->version,
    };

    for (unsigned i = 0; i < BLK_SECTOR / 8; i++) {
        if (w[i]) {
            look.state = s->magic == SECTOR_MAGIC && s->end == SECTOR_END &&
                         s->crc == sector_crc(s) ? SECTOR_VALID
                                                 : SECTOR_TORN;
            break;
        }
    }
    return look;
}

static bool sector_blank(const uint8_t *p)
{
    const uint64_t *w = (const uint64_t *)p;

    for (unsigned i = 0; i < BLK_SECTOR / 8; i++) {
        if (w[i]) {
            return false;
        }
    }
    return true;
}

static bool sector_is(const uint8_t *p, uint32_t run, uint64_t sector,
                      uint32_t version)
{
    const Sector *s = (const Sector *)p;
    uint64_t w = fill_seed(run, sector, version);

    if (s->magic != SECTOR_MAGIC || s->run != run || s->sector != sector ||
        s->version != version) {
        return false;
    }
    for (unsigned i = 0; i < FILL_WORDS; i++) {
        w = next_word(w);
        if (s->fill[i] != w) {
            return false;
        }
    }
    return s->crc == sector_crc(s) && s->end == SECTOR_END;
}

/* Does a sector hold what the model says? */
bool sector_check(const uint8_t *p, uint32_t run, uint64_t sector,
                  uint32_t model)
{
    uint32_t version = model & ~MODEL_DISCARDED;

    if (model == MODEL_ANY) {
        return true;
    }
    if (version == 0) {
        return sector_blank(p);
    }
    return sector_is(p, run, sector, version) ||
           ((model & MODEL_DISCARDED) && sector_blank(p));
}

/* Before a read, so that one that brings nothing is noticed. */
void sector_spoil(uint8_t *p)
{
    Sector *s = (Sector *)p;

    s->magic = 0x6c6f7073;
    s->fill[FILL_WORDS / 2] = ~0ull;
    s->end = 0x21646c6f;
}
