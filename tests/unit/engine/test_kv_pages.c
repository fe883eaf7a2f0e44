/* SPDX-License-Identifier: Apache-2.0
 *
 * test_kv_pages.c - page accounting and prefix cache under millions of random operations,
 * against a model that is too simple to be wrong: per page a count, a kept flag and a list. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/kv_pages.h"
#include "engine/prefix_cache.h"
#include "support/test_engine_run.h"

#define PAGES 37
#define OPERATIONS 2000000

/* What the pool should be: idle pages in eviction order, cold ones first. */
typedef struct {
    uint32_t refs[PAGES];
    bool kept[PAGES], cold[PAGES];
    agl_page_id idle[2][PAGES];
    uint32_t idle_count[2];
    agl_page_id evicted;        /* by the last acquire */
} pool_model;

static void model_idle_remove(pool_model *model, agl_page_id page)
{
    uint32_t queue = !model->cold[page], place = 0;
    while (model->idle[queue][place] != page) place++;
    model->idle_count[queue]--;
    memmove(&model->idle[queue][place], &model->idle[queue][place + 1],
            (model->idle_count[queue] - place) * sizeof(agl_page_id));
}

static void on_evict(void *user, agl_page_id page)
{
    pool_model *model = user;
    model->evicted = page;
}

static uint32_t model_free(const pool_model *model)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < PAGES; i++) count += model->refs[i] == 0 && !model->kept[i];
    return count;
}

static void try_acquire(agl_page_pool *pool, pool_model *model)
{
    agl_page_id page = AGL_PAGE_NONE, expected = AGL_PAGE_NONE;
    uint32_t free_pages = model_free(model);
    model->evicted = AGL_PAGE_NONE;
    if (free_pages == 0 && model->idle_count[0] > 0) expected = model->idle[0][0];
    else if (free_pages == 0 && model->idle_count[1] > 0) expected = model->idle[1][0];
    agl_status status = agl_page_acquire(&page, pool);
    if (free_pages == 0 && expected == AGL_PAGE_NONE) {
        assert_int_equal(status, AGL_ERR_LIMIT);
        return;
    }
    assert_int_equal(status, AGL_OK);
    assert_int_equal(model->evicted, expected);
    if (expected != AGL_PAGE_NONE) {
        assert_int_equal(page, expected);
        model_idle_remove(model, page);
        model->kept[page] = false;
    }
    assert_int_equal(model->refs[page], 0);
    assert_false(model->kept[page]);
    model->refs[page] = 1;
}

static void change_page(agl_page_pool *pool, pool_model *model, agl_page_id page, uint32_t kind,
                        bool cold)
{
    bool held = model->refs[page] > 0;
    if (kind == 0 && (held || model->kept[page])) {
        if (!held) model_idle_remove(model, page);
        model->refs[page]++;
        agl_page_retain(pool, page);
    } else if (kind <= 2 && held) {
        agl_page_release(pool, page);
        if (--model->refs[page] == 0 && model->kept[page]) {
            uint32_t queue = !model->cold[page];
            model->idle[queue][model->idle_count[queue]++] = page;
        }
    } else if (kind == 3 && held && !model->kept[page]) {
        agl_page_keep(pool, page, cold);
        model->kept[page] = true;
        model->cold[page] = cold;
    } else if (kind == 4 && model->kept[page] && cold) {
        if (!held) model_idle_remove(model, page);
        agl_page_forget(pool, page);
        model->kept[page] = false;
    }
}

static void pool_agrees_with_a_simple_model(void **state)
{
    (void)state;
    agl_page_pool *pool;
    pool_model model = {0};
    uint64_t seed = 7;
    assert_int_equal(agl_page_pool_create(&pool, PAGES, NULL), AGL_OK);
    agl_page_pool_on_evict(pool, on_evict, &model);
    for (int i = 0; i < OPERATIONS; i++) {
        uint64_t dice = test_random(&seed);
        agl_page_id page = (agl_page_id)(dice >> 8) % PAGES;
        uint32_t kind = (uint32_t)(dice % 7);
        if (kind >= 5) try_acquire(pool, &model);
        else change_page(pool, &model, page, kind, dice >> 40 & 1);
        assert_int_equal(agl_page_refs(pool, page), model.refs[page]);
        assert_int_equal(agl_page_kept(pool, page), model.kept[page]);
        uint32_t idle = model.idle_count[0] + model.idle_count[1];
        assert_int_equal(agl_page_pool_idle(pool), idle);
        assert_int_equal(agl_page_pool_available(pool), model_free(&model) + idle);
    }
    agl_page_pool_destroy(pool);
}

/* ---- prefix cache ------------------------------------------------------ */

#define PAGE_TOKENS 4
#define SEQUENCE_PAGES 5
#define HELD_MAX 6

/* A sequence over an alphabet of two tokens, so that prefixes meet all the time. */
typedef struct {
    agl_page_id pages[SEQUENCE_PAGES];
    int32_t tokens[SEQUENCE_PAGES * PAGE_TOKENS];
    agl_digest digests[SEQUENCE_PAGES];
    uint32_t page_count;
} held_sequence;

/* contents[page]: the tokens from the start of the sequence that its keys depend on. */
typedef struct {
    agl_page_pool *pool;
    agl_prefix_cache *cache;
    int32_t contents[PAGES][SEQUENCE_PAGES * PAGE_TOKENS];
    uint32_t lengths[PAGES];
    uint64_t found, partly_found;
} cache_world;

static void digest_all(held_sequence *sequence)
{
    agl_digest parent = agl_prefix_root("salt");
    for (uint32_t i = 0; i < SEQUENCE_PAGES; i++) {
        parent = agl_prefix_extend(&parent, sequence->tokens + i * PAGE_TOKENS, i * PAGE_TOKENS,
                                   PAGE_TOKENS, NULL, 0);
        sequence->digests[i] = parent;
    }
}

static agl_digest parent_of(const held_sequence *sequence, uint32_t page)
{
    return page == 0 ? agl_prefix_root("salt") : sequence->digests[page - 1];
}

/* Take what is known, compute the rest, make it known. false: the pool is exhausted. */
static bool open_sequence(cache_world *world, held_sequence *sequence, uint64_t *seed)
{
    uint64_t bits = test_random(seed) & test_random(seed);
    for (uint32_t i = 0; i < SEQUENCE_PAGES * PAGE_TOKENS; i++) sequence->tokens[i] = bits >> i & 1;
    digest_all(sequence);
    sequence->page_count = 0;
    bool matching = true;
    for (uint32_t i = 0; i < SEQUENCE_PAGES; i++) {
        uint32_t end = (i + 1) * PAGE_TOKENS;
        agl_page_id page = matching ? agl_prefix_cache_find(world->cache, &sequence->digests[i])
                                    : AGL_PAGE_NONE;
        if (page != AGL_PAGE_NONE) {
            /* What was found must hold exactly these tokens behind exactly this prefix. */
            assert_int_equal(world->lengths[page], end);
            assert_memory_equal(world->contents[page], sequence->tokens, end * sizeof(int32_t));
            agl_page_retain(world->pool, page);
            sequence->pages[sequence->page_count++] = page;
            world->found++;
            continue;
        }
        if (matching) {
            uint32_t matched;
            agl_digest parent = parent_of(sequence, i);
            agl_page_id part = agl_prefix_cache_find_partial(
                world->cache, &parent, sequence->tokens + i * PAGE_TOKENS, PAGE_TOKENS, &matched);
            if (part != AGL_PAGE_NONE) {
                uint32_t common = i * PAGE_TOKENS + matched;
                assert_true(matched > 0 && world->lengths[part] >= common);
                assert_memory_equal(world->contents[part], sequence->tokens, common * sizeof(int32_t));
                world->partly_found++;
            }
        }
        matching = false;
        if (agl_page_acquire(&page, world->pool) != AGL_OK) return false;
        sequence->pages[sequence->page_count++] = page;
        memcpy(world->contents[page], sequence->tokens, end * sizeof(int32_t));
        world->lengths[page] = end;
        agl_prefix_entry entry = {.parent = parent_of(sequence, i), .digest = sequence->digests[i],
                                  .tokens = sequence->tokens + i * PAGE_TOKENS,
                                  .count = PAGE_TOKENS, .cold = bits >> 60 & 1};
        agl_page_id known = agl_prefix_cache_insert(world->cache, page, &entry);
        if (known == page) continue;
        agl_page_retain(world->pool, known);
        agl_page_release(world->pool, page);
        sequence->pages[i] = known;
    }
    return true;
}

static void close_sequence(cache_world *world, held_sequence *sequence)
{
    while (sequence->page_count > 0) {
        agl_page_release(world->pool, sequence->pages[--sequence->page_count]);
    }
}

static void prefix_cache_finds_only_what_is_there(void **state)
{
    (void)state;
    cache_world *world = calloc(1, sizeof *world);
    held_sequence held[HELD_MAX] = {0};
    uint64_t seed = 11;
    assert_int_equal(agl_page_pool_create(&world->pool, PAGES, NULL), AGL_OK);
    assert_int_equal(agl_prefix_cache_create(&world->cache, world->pool, PAGE_TOKENS, NULL), AGL_OK);
    for (int i = 0; i < 200000; i++) {
        held_sequence *sequence = &held[test_random(&seed) % HELD_MAX];
        close_sequence(world, sequence);
        if (!open_sequence(world, sequence, &seed)) close_sequence(world, sequence);
        if (i % 5000 == 4999) agl_prefix_cache_reset(world->cache);
    }
    assert_true(world->found > 10000 && world->partly_found > 1000);
    for (int i = 0; i < HELD_MAX; i++) close_sequence(world, &held[i]);
    assert_int_equal(agl_page_pool_available(world->pool), PAGES);
    assert_int_equal(agl_page_pool_idle(world->pool), agl_prefix_cache_pages(world->cache));
    agl_prefix_cache_reset(world->cache);
    assert_int_equal(agl_prefix_cache_pages(world->cache), 0);
    assert_int_equal(agl_page_pool_idle(world->pool), 0);
    agl_prefix_cache_destroy(world->cache);
    agl_page_pool_destroy(world->pool);
    free(world);
}

static void digests_tell_apart(void **state)
{
    (void)state;
    int32_t tokens[4] = {1, 9, 9, 9};
    agl_digest root = agl_prefix_root(NULL), salted = agl_prefix_root("a");
    assert_memory_not_equal(root.bytes, salted.bytes, sizeof root.bytes);
    agl_prefix_image image = {.first_token = 1, .rows = 1, .columns = 3};
    agl_prefix_image tall = {.first_token = 1, .rows = 3, .columns = 1};
    agl_prefix_image other = image;
    other.digest.bytes[0] = 1;
    agl_digest digests[] = {
        agl_prefix_extend(&root, tokens, 0, 4, NULL, 0),
        agl_prefix_extend(&salted, tokens, 0, 4, NULL, 0),
        agl_prefix_extend(&root, tokens, 0, 4, &image, 1),
        agl_prefix_extend(&root, tokens, 0, 4, &tall, 1),
        agl_prefix_extend(&root, tokens, 0, 4, &other, 1),
        agl_prefix_extend(&root, tokens, 0, 3, NULL, 0),
    };
    for (size_t i = 0; i < sizeof digests / sizeof digests[0]; i++) {
        for (size_t j = 0; j < i; j++) {
            assert_memory_not_equal(digests[i].bytes, digests[j].bytes, sizeof root.bytes);
        }
    }
    /* An image elsewhere is none of this page's business. */
    agl_prefix_image far = {.first_token = 4, .rows = 1, .columns = 3};
    agl_digest same = agl_prefix_extend(&root, tokens, 0, 4, &far, 1);
    assert_memory_equal(same.bytes, digests[0].bytes, sizeof root.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pool_agrees_with_a_simple_model),
        cmocka_unit_test(prefix_cache_finds_only_what_is_there),
        cmocka_unit_test(digests_tell_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
