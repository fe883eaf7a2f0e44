/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"
#include "server/histogram.h"
#include "server/metrics.h"

static const char *route_name(size_t route)
{
    static const char *const NAMES[] = {"/chat/completions", "/models"};
    return route < 2 ? NAMES[route] : NULL;
}

static void buckets_are_cumulative(void **state)
{
    static const double EDGES[] = {0.5, 1, 2};
    static const double VALUES[] = {0, 0.5, 0.6, 1.5, 2.0, 7, -1};
    (void)state;
    agl_histogram histogram;
    agl_buffer out;
    agl_buffer_init(&out, 0);
    agl_histogram_init(&histogram, EDGES, 3, 1e-9);
    for (size_t i = 0; i < AGL_COUNT(VALUES); i++) agl_histogram_observe(&histogram, VALUES[i]);
    agl_histogram_write(&out, &histogram, "h", "a=\"b\"");
    assert_string_equal(out.data, "h_bucket{a=\"b\",le=\"0.5\"} 3\nh_bucket{a=\"b\",le=\"1\"} 4\n"
                                  "h_bucket{a=\"b\",le=\"2\"} 6\nh_bucket{a=\"b\",le=\"+Inf\"} 7\n"
                                  "h_sum{a=\"b\"} 11.6\nh_count{a=\"b\"} 7\n");
    agl_buffer_deinit(&out);
}

/* Queries that name one of vLLM's edges must find it. */
static void the_edges_of_vllm_are_there(void **state)
{
    static const struct {
        const char *name, *edges;
    } CASES[] = {
        {"vllm:time_to_first_token_seconds", "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 20 "
         "40 80 160 640 2560"},
        {"vllm:inter_token_latency_seconds", "0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1 2.5 5 7.5 10 20 40 80"},
        {"vllm:request_time_per_output_token_seconds", "0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1 2.5 5 7.5 10"},
        {"vllm:e2e_request_latency_seconds", "0.3 0.5 0.8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680"},
        {"vllm:request_queue_time_seconds", "0.3 0.5 0.8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680"},
        {"vllm:request_prompt_tokens", "1 2 5 10 20 50 100 200 500 1000 2000 5000 10000 20000"},
        {"vllm:request_params_n", "1 2 5 10 20"},
    };
    (void)state;
    agl_metrics *metrics = agl_metrics_create();
    agl_buffer out;
    agl_buffer_init(&out, 0);
    agl_metrics_write(&out, metrics, &(agl_metrics_snapshot){.model = "a\"b\\c"}, route_name);
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        char edges[256], line[256];
        snprintf(edges, sizeof edges, "%s", CASES[i].edges);
        for (char *edge = strtok(edges, " "); edge != NULL; edge = strtok(NULL, " ")) {
            snprintf(line, sizeof line, "%s_bucket{model_name=\"a\\\"b\\\\c\",engine=\"0\",le=\"%s\"} 0\n", CASES[i].name, edge);
            if (strstr(out.data, line) == NULL) fail_msg("%s is missing", line);
        }
    }
    agl_buffer_deinit(&out);
    agl_metrics_destroy(metrics);
}

/* The text format: one TYPE line per name, samples right after it. */
static void every_name_is_declared_once(void **state)
{
    (void)state;
    agl_metrics *metrics = agl_metrics_create();
    agl_usage usage = {.prompt_tokens = 10, .completion_tokens = 5, .image_count = 1, .image_tokens = 3};
    agl_metrics_request(metrics, &(agl_request_record){.usage = &usage, .n = 1, .max_tokens = 7});
    agl_metrics_http(metrics, 1, 200, 0.1);
    agl_metrics_http(metrics, 0, 418, 0.1);
    agl_metrics_reject(metrics, AGL_REJECT_BUSY);
    agl_metrics_finish(metrics, AGL_FINISH_LENGTH);
    agl_buffer out;
    agl_buffer_init(&out, 0);
    agl_metrics_write(&out, metrics, &(agl_metrics_snapshot){.model = "m"}, route_name);
    assert_non_null(strstr(out.data, "http_requests_total{handler=\"/models\",status=\"200\"} 1\n"));
    assert_non_null(strstr(out.data, "http_requests_total{handler=\"/chat/completions\",status=\"other\"} 1\n"));
    assert_non_null(strstr(out.data, "finished_reason=\"length\"} 1\n"));
    assert_non_null(strstr(out.data, "reason=\"busy\"} 1\n"));
    assert_non_null(strstr(out.data, "vllm:request_prompt_tokens_bucket{model_name=\"m\",engine=\"0\",le=\"10\"} 1\n"));

    char declared[128] = "", name[128];
    for (char *line = strtok(out.data, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        if (sscanf(line, "# TYPE %127s", declared) == 1 || line[0] == '#') continue;
        assert_int_equal(sscanf(line, "%127[^{ ]", name), 1);
        if (strncmp(name, declared, strlen(declared)) != 0) fail_msg("%s follows the declaration of %s", line, declared);
    }
    agl_buffer_deinit(&out);
    agl_metrics_destroy(metrics);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buckets_are_cumulative),
        cmocka_unit_test(the_edges_of_vllm_are_there),
        cmocka_unit_test(every_name_is_declared_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
