/* SPDX-License-Identifier: Apache-2.0
 *
 * Hub ids in the caches of Hugging Face and ModelScope. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "model/checkpoint.h"
#include "support/test_checkpoint.h"

static char folder[256];

static int setup(void **state)
{
    (void)state;
    static const char *const NAMES[] = {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME",
                                        "XDG_CACHE_HOME", "MODELSCOPE_CACHE"};
    for (size_t i = 0; i < AGL_COUNT(NAMES); i++) unsetenv(NAMES[i]);
    if (test_folder_make(folder, sizeof folder, NULL) != AGL_OK) return -1;
    return setenv("HOME", folder, 1);
}

static int teardown(void **state)
{
    (void)state;
    test_folder_remove(folder);
    return 0;
}

/* mkdir -p below the test folder; the result is a static buffer. */
static const char *make(const char *path)
{
    static char full[1024];
    snprintf(full, sizeof full, "%s/%s", folder, path);
    for (char *c = full + strlen(folder) + 1; *c != '\0'; c++) {
        if (*c != '/') continue;
        *c = '\0';
        mkdir(full, 0700);
        *c = '/';
    }
    mkdir(full, 0700);
    return full;
}

static void make_hub(const char *cache, const char *revision)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/models--zai-org--Model-9B/snapshots/%s", cache, revision);
    make(path);
    snprintf(path, sizeof path, "%s/models--zai-org--Model-9B/refs", cache);
    snprintf(path, sizeof path, "%s/main", make(path));
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fputs(revision, file);
    fclose(file);
}

static void expect(const char *ending)
{
    char out[1024];
    agl_error err = {0};
    assert_int_equal(agl_checkpoint_resolve(out, sizeof out, "zai-org/Model-9B", &err), AGL_OK);
    assert_true(strlen(out) > strlen(ending));
    assert_string_equal(out + strlen(out) - strlen(ending), ending);
}

static void test_order(void **state)
{
    (void)state;
    char out[1024], path[1024];
    agl_error err;
    assert_int_equal(agl_checkpoint_resolve(out, sizeof out, "zai-org/Model-9B", &err),
                     AGL_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, ".cache/huggingface/hub/models--zai-org--Model-9B"));
    assert_non_null(strstr(err.message, ".cache/modelscope/hub/models/zai-org/Model-9B"));
    assert_non_null(strstr(err.message, "nothing is downloaded"));

    make(".cache/modelscope/hub/zai-org/Model-9B");
    expect("/.cache/modelscope/hub/zai-org/Model-9B");
    make(".cache/modelscope/hub/models/zai-org/Model-9B");
    expect("/.cache/modelscope/hub/models/zai-org/Model-9B");
    make_hub(".cache/huggingface/hub", "aaa111");
    expect("/.cache/huggingface/hub/models--zai-org--Model-9B/snapshots/aaa111");
    make_hub("home/hub", "bbb222");
    snprintf(path, sizeof path, "%s/home", folder);
    setenv("HF_HOME", path, 1);
    expect("/home/hub/models--zai-org--Model-9B/snapshots/bbb222");
    make_hub("hub", "ccc333\n");
    snprintf(path, sizeof path, "%s/hub", folder);
    setenv("HF_HUB_CACHE", path, 1);
    make("hub/models--zai-org--Model-9B/snapshots/ccc333");
    expect("/hub/models--zai-org--Model-9B/snapshots/ccc333");
    unsetenv("HF_HOME");
    unsetenv("HF_HUB_CACHE");
}

static void test_folder_and_nonsense(void **state)
{
    (void)state;
    char out[1024];
    agl_error err;
    assert_int_equal(agl_checkpoint_resolve(out, sizeof out, folder, &err), AGL_OK);
    assert_string_equal(out, folder);
    assert_int_equal(agl_checkpoint_resolve(out, 4, folder, &err), AGL_ERR_LIMIT);
    static const char *const NAMES[] = {"",       "model", "/no/such/folder", "a/b/c", "../x",
                                        "a/../b", "a/.."};
    for (size_t i = 0; i < AGL_COUNT(NAMES); i++) {
        assert_int_equal(agl_checkpoint_resolve(out, sizeof out, NAMES[i], &err),
                         AGL_ERR_NOT_FOUND);
        assert_non_null(strstr(err.message, "neither a folder nor a hub id"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_folder_and_nonsense),
    };
    return cmocka_run_group_tests_name("model/checkpoint", tests, setup, teardown);
}
