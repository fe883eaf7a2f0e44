/* SPDX-License-Identifier: Apache-2.0
 *
 * image_exif.c - the orientation tag of an EXIF block (TIFF 6.0 layout):
 *
 *   "II" or "MM", 42, offset -> count, entries of 12 bytes {tag, type, count, value}
 *
 * Only the first directory is read. Anything odd means upright, as in Pillow. */
#include <stdbool.h>
#include <string.h>

#include "media/image_codec.h"

#define TAG_ORIENTATION 0x0112
enum { TYPE_BYTE = 1, TYPE_SHORT = 3, TYPE_LONG = 4 };

static uint32_t read16(const uint8_t *data, bool little)
{
    return little ? (uint32_t)data[1] << 8 | data[0] : (uint32_t)data[0] << 8 | data[1];
}

static uint32_t read32(const uint8_t *data, bool little)
{
    return little ? read16(data + 2, true) << 16 | read16(data, true)
                  : read16(data, false) << 16 | read16(data + 2, false);
}

int agl_exif_orientation(agl_bytes exif)
{
    if (exif.bytes >= 6 && memcmp(exif.data, "Exif\0\0", 6) == 0)
        exif = (agl_bytes){exif.data + 6, exif.bytes - 6};
    if (exif.bytes < 8 || (memcmp(exif.data, "II", 2) != 0 && memcmp(exif.data, "MM", 2) != 0))
        return 1;
    bool little = exif.data[0] == 'I';
    uint32_t at = read32(exif.data + 4, little);
    if (read16(exif.data + 2, little) != 42 || at > exif.bytes - 2) return 1;
    size_t entries = read16(exif.data + at, little), room = (exif.bytes - 2 - at) / 12;
    if (entries > room) entries = room;
    for (size_t i = 0; i < entries; i++) {
        const uint8_t *entry = exif.data + at + 2 + 12 * i;
        if (read16(entry, little) != TAG_ORIENTATION) continue;
        uint32_t type = read16(entry + 2, little), value = 0;
        if (type == TYPE_BYTE) value = entry[8];
        else if (type == TYPE_SHORT) value = read16(entry + 8, little);
        else if (type == TYPE_LONG) value = read32(entry + 8, little);
        return value >= 1 && value <= 8 ? (int)value : 1;
    }
    return 1;
}
