/* SPDX-License-Identifier: Apache-2.0 */
#include "support/test_pictures.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/file_map.h"

#define FILE_BYTES_MAX (1 << 20)

struct json_object *test_picture_vectors(void)
{
    struct json_object *root;
    agl_error err = {0};
    if (agl_json_load(&root, TEST_PICTURES "vectors.json", FILE_BYTES_MAX, &err) != AGL_OK) fail_msg("%s", err.message);
    return root;
}

agl_image test_picture_noise(int64_t height, int64_t width)
{
    size_t bytes = (size_t)(height * width * 3);
    agl_image image = {malloc(bytes), height, width};
    for (size_t i = 0; i < bytes; i++) {
        image.pixels[i] = i < bytes / 2 ? (uint8_t)((uint32_t)(i * 2654435761u) >> 24) : (uint8_t)(i / 96 % 2 * 255);
    }
    return image;
}

agl_image test_picture_of(struct json_object *row)
{
    struct json_object *size = agl_json_member(row, "noise");
    if (size != NULL) {
        return test_picture_noise(json_object_get_int64(json_object_array_get_idx(size, 0)),
                                  json_object_get_int64(json_object_array_get_idx(size, 1)));
    }
    char path[300], *data;
    size_t bytes;
    agl_image image;
    snprintf(path, sizeof path, TEST_PICTURES "%s", json_object_get_string(agl_json_member(row, "file")));
    assert_int_equal(agl_file_read(&data, &bytes, path, FILE_BYTES_MAX, NULL), AGL_OK);
    assert_int_equal(agl_image_decode(&image, data, bytes, NULL, NULL), AGL_OK);
    free(data);
    return image;
}

test_hex test_sha256(const void *data, size_t bytes)
{
    test_hex hex;
    agl_digest digest = agl_sha256(data, bytes);
    for (size_t i = 0; i < sizeof digest.bytes; i++) snprintf(hex.text + 2 * i, 3, "%02x", digest.bytes[i]);
    return hex;
}
