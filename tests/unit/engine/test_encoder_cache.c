/* SPDX-License-Identifier: Apache-2.0
 *
 * test_encoder_cache.c - entries never overlap, pinned ones stay, the oldest leave first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "engine/encoder_cache.h"
#include "support/test_engine_run.h"

#define ROWS 100
#define PINNED_MAX 8

static agl_digest digest_of(uint32_t id)
{
    agl_digest digest = {0};
    memcpy(digest.bytes, &id, sizeof id);
    return digest;
}

static int64_t rows_of(uint32_t id) { return 1 + id % 30; }

static void entries_keep_their_rows(void **state)
{
    (void)state;
    agl_encoder_cache *cache;
    assert_int_equal(agl_encoder_cache_create(&cache, NULL, ROWS, 4, NULL), AGL_OK);
    uint32_t owner[ROWS] = {0};             /* id + 1 that wrote the row last */
    struct { uint32_t id; int32_t entry; } pinned[PINNED_MAX];
    uint32_t pinned_count = 0, hits = 0, refused = 0;
    uint64_t seed = 3;
    for (int i = 0; i < 300000; i++) {
        if (pinned_count == PINNED_MAX || (pinned_count > 0 && test_random(&seed) % 2 == 0)) {
            uint32_t place = (uint32_t)(test_random(&seed) % pinned_count);
            agl_encoder_cache_unpin(cache, pinned[place].entry);
            pinned[place] = pinned[--pinned_count];
            continue;
        }
        uint32_t id = (uint32_t)(test_random(&seed) % 40);
        agl_digest digest = digest_of(id);
        int32_t entry = agl_encoder_cache_find(cache, &digest);
        bool hit = entry != AGL_ENCODER_NONE;
        if (!hit) entry = agl_encoder_cache_insert(cache, &digest, rows_of(id));
        if (entry == AGL_ENCODER_NONE) {
            refused++;
            continue;
        }
        int64_t first = agl_encoder_cache_row(cache, entry);
        assert_true(first >= 0 && first + rows_of(id) <= ROWS);
        for (int64_t r = first; r < first + rows_of(id); r++) {
            if (hit) assert_int_equal(owner[r], id + 1);
            owner[r] = id + 1;
        }
        hits += hit;
        pinned[pinned_count].id = id;
        pinned[pinned_count++].entry = entry;
        for (uint32_t p = 0; p < pinned_count; p++) {   /* nobody wrote over a pinned one */
            int64_t row = agl_encoder_cache_row(cache, pinned[p].entry);
            assert_int_equal(owner[row], pinned[p].id + 1);
            assert_int_equal(owner[row + rows_of(pinned[p].id) - 1], pinned[p].id + 1);
        }
    }
    assert_true(hits > 1000 && refused > 0);
    while (pinned_count > 0) agl_encoder_cache_unpin(cache, pinned[--pinned_count].entry);
    assert_int_equal(agl_encoder_cache_pinned(cache), 0);
    agl_encoder_cache_reset(cache);
    assert_int_equal(agl_encoder_cache_used_bytes(cache), 0);
    agl_encoder_cache_destroy(cache);
}

static void the_oldest_leaves_first(void **state)
{
    (void)state;
    agl_encoder_cache *cache;
    assert_int_equal(agl_encoder_cache_create(&cache, NULL, 30, 4, NULL), AGL_OK);
    agl_digest a = digest_of(1), b = digest_of(2), c = digest_of(3), d = digest_of(4);
    const agl_digest *all[] = {&a, &b, &c};
    for (int i = 0; i < 3; i++) {
        agl_encoder_cache_unpin(cache, agl_encoder_cache_insert(cache, all[i], 10));
    }
    agl_encoder_cache_unpin(cache, agl_encoder_cache_find(cache, &a));
    agl_encoder_cache_unpin(cache, agl_encoder_cache_insert(cache, &d, 10));
    assert_int_equal(agl_encoder_cache_find(cache, &b), AGL_ENCODER_NONE);
    assert_int_not_equal(agl_encoder_cache_find(cache, &a), AGL_ENCODER_NONE);
    assert_int_not_equal(agl_encoder_cache_find(cache, &c), AGL_ENCODER_NONE);
    agl_encoder_cache_destroy(cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries_keep_their_rows),
        cmocka_unit_test(the_oldest_leaves_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
