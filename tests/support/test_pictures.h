/* SPDX-License-Identifier: Apache-2.0
 *
 * test_pictures.h - the pictures that tests/fixtures/media/vectors.json speaks of. */
#ifndef AGL_TESTS_SUPPORT_TEST_PICTURES_H
#define AGL_TESTS_SUPPORT_TEST_PICTURES_H

#include "base/json.h"
#include "media/image.h"

#define TEST_PICTURES "tests/fixtures/media/"

/* The whole of vectors.json; json_object_put when done. */
struct json_object *test_picture_vectors(void);

/* noise(h, w) of the script that made the vectors. */
agl_image test_picture_noise(int64_t height, int64_t width);

/* The picture of a row: {"file": name} decoded, or {"noise": [h, w]}. */
agl_image test_picture_of(struct json_object *row);

/* Lower-case hex of SHA-256. */
typedef struct {
    char text[65];
} test_hex;
test_hex test_sha256(const void *data, size_t bytes);

#endif
