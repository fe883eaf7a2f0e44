/* SPDX-License-Identifier: Apache-2.0
 *
 * image_png_filter.c - PNG row filters (PNG 1.2, section 6), undone in place.
 *
 *       c  b        Each byte adds a guess from its left (a), upper (b) and
 *       a  x        upper left (c) neighbour, one pixel away.
 *
 * All bytes of one pixel are worked on at once, in the compiler's vector types:
 * left-to-right dependence leaves nothing else to run side by side. */
#include <string.h>

#include "media/image_codec.h"

typedef uint8_t bytes8 __attribute__((vector_size(8)));
typedef uint8_t bytes16 __attribute__((vector_size(16)));
typedef int16_t words8 __attribute__((vector_size(16)));

#define INLINE static inline __attribute__((always_inline))

/* 3- and 6-byte pixels read on into the next one: one move instead of two. The slack covers the end. */
INLINE bytes8 load(const uint8_t *data, size_t pixel_bytes)
{
    bytes8 value = {0};
    memcpy(&value, data, pixel_bytes == 3 ? 4 : pixel_bytes == 6 ? 8 : pixel_bytes);
    return value;
}

INLINE void store(uint8_t *data, bytes8 value, size_t pixel_bytes)
{
    memcpy(data, &value, pixel_bytes);
}

INLINE words8 widen(bytes8 value)
{
    return __builtin_convertvector(value, words8);
}

INLINE bytes8 narrow(words8 value)
{
    return __builtin_convertvector(value, bytes8);
}

INLINE words8 absolute(words8 value)
{
    words8 sign = value >> 15;
    return (value ^ sign) - sign;
}

static void undo_up(uint8_t *row, const uint8_t *above, size_t bytes)
{
    size_t i = 0;
    for (; i + sizeof(bytes16) <= bytes; i += sizeof(bytes16)) {
        bytes16 x, b;
        memcpy(&x, row + i, sizeof x);
        memcpy(&b, above + i, sizeof b);
        x += b;
        memcpy(row + i, &x, sizeof x);
    }
    for (; i < bytes; i++) row[i] = (uint8_t)(row[i] + above[i]);
}

INLINE void undo_sub(uint8_t *row, size_t bytes, size_t pixel_bytes)
{
    bytes8 a = {0};
    for (size_t i = 0; i < bytes; i += pixel_bytes) {
        a += load(row + i, pixel_bytes);
        store(row + i, a, pixel_bytes);
    }
}

INLINE void undo_average(uint8_t *row, const uint8_t *above, size_t bytes, size_t pixel_bytes)
{
    words8 a = {0};
    for (size_t i = 0; i < bytes; i += pixel_bytes) {
        words8 b = widen(load(above + i, pixel_bytes));
        bytes8 x = load(row + i, pixel_bytes) + narrow((a + b) >> 1);
        store(row + i, x, pixel_bytes);
        a = widen(x);
    }
}

/* The neighbour nearest to a + b - c; ties prefer a, then b. */
INLINE void undo_paeth(uint8_t *row, const uint8_t *above, size_t bytes, size_t pixel_bytes)
{
    words8 a = {0}, c = {0};
    for (size_t i = 0; i < bytes; i += pixel_bytes) {
        words8 b = widen(load(above + i, pixel_bytes));
        words8 to_a = b - c, to_b = a - c;
        words8 to_c = absolute(to_a + to_b);
        to_a = absolute(to_a);
        to_b = absolute(to_b);
        words8 not_a = (to_a > to_b) | (to_a > to_c);
        words8 not_b = to_b > to_c;
        words8 guess = (not_a & ((not_b & c) | (~not_b & b))) | (~not_a & a);
        a = (widen(load(row + i, pixel_bytes)) + guess) & 255;
        store(row + i, narrow(a), pixel_bytes);
        c = b;
    }
}

INLINE bool undo(uint8_t *row, const uint8_t *above, size_t bytes, int filter, size_t pixel_bytes)
{
    switch (filter) {
    case 0: return true;
    case 1: undo_sub(row, bytes, pixel_bytes); return true;
    case 2: undo_up(row, above, bytes); return true;
    case 3: undo_average(row, above, bytes, pixel_bytes); return true;
    case 4: undo_paeth(row, above, bytes, pixel_bytes); return true;
    default: return false;
    }
}

bool agl_png_unfilter(uint8_t *row, const uint8_t *above, size_t bytes, int filter,
                      size_t pixel_bytes)
{
    switch (pixel_bytes) {
    case 1: return undo(row, above, bytes, filter, 1);
    case 2: return undo(row, above, bytes, filter, 2);
    case 3: return undo(row, above, bytes, filter, 3);
    case 4: return undo(row, above, bytes, filter, 4);
    case 6: return undo(row, above, bytes, filter, 6);
    default: return undo(row, above, bytes, filter, 8);
    }
}
