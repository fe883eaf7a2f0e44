/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/results.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

#define FILE_BYTES_MAX ((size_t)16 << 20)
#define RESULTS_MAX 64          /* of one file */

void agl_result_init(agl_result *result)
{
    *result = (agl_result){.complete = true, .count = 1,
                           .device_memory_bytes = NAN, .read_rate = NAN,
                           .multiply_rate = NAN, .parameters = NAN};
}

static agl_result_time unknown_time(void)
{
    return (agl_result_time){.mean = NAN, .deviation = NAN, .median = NAN, .p99 = NAN};
}

const agl_result_point *agl_result_point_of(const agl_result_run *run, uint32_t batch)
{
    for (size_t i = 0; i < run->point_count; i++) {
        if (run->points[i].batch == batch) return &run->points[i];
    }
    return NULL;
}

/* ---- reading ------------------------------------------------------------ */

static agl_status get_number(double *out, json_object *object, const char *key, const char *name,
                             agl_error *err)
{
    *out = NAN;
    return agl_json_get_double(out, object, key, 0, 1e30, false, name, err);
}

static agl_status get_count(uint32_t *out, json_object *object, const char *key, int64_t max,
                            const char *name, agl_error *err)
{
    int64_t value = *out;
    AGL_TRY(agl_json_get_int(&value, object, key, 0, max, false, name, err));
    *out = (uint32_t)value;
    return AGL_OK;
}

static agl_status get_text(char *out, size_t size, json_object *object, const char *key,
                           bool required, const char *name, agl_error *err)
{
    const char *text = "";
    AGL_TRY(agl_json_get_string(&text, object, key, required, name, err));
    snprintf(out, size, "%s", text);
    return AGL_OK;
}

static agl_status get_time(agl_result_time *out, json_object *object, const char *key,
                           const char *name, agl_error *err)
{
    json_object *time = agl_json_member(object, key);
    *out = unknown_time();
    AGL_TRY(get_number(&out->mean, time, "mean", name, err));
    AGL_TRY(get_number(&out->deviation, time, "std", name, err));
    AGL_TRY(get_number(&out->median, time, "median", name, err));
    AGL_TRY(get_number(&out->p99, time, "p99", name, err));
    AGL_TRY(get_count(&out->count, time, "count", UINT32_MAX, name, err));
    if (out->count == 1) out->deviation = NAN; /* one value has none, also in older files */
    return AGL_OK;
}

static agl_status get_point(agl_result_point *out, json_object *object, const char *name,
                            agl_error *err)
{
    int64_t batch = 0;
    *out = (agl_result_point){0};
    AGL_TRY(agl_json_get_int(&batch, object, "batch", 1, 1 << 20, true, name, err));
    out->batch = (uint32_t)batch;
    AGL_TRY(get_count(&out->iterations, object, "iterations", UINT32_MAX, name, err));
    AGL_TRY(get_time(&out->ttft, object, "ttft_ms", name, err));
    AGL_TRY(get_time(&out->itl, object, "itl_ms", name, err));
    AGL_TRY(get_number(&out->output_throughput, object, "output_throughput", name, err));
    json_object *floor = agl_json_member(object, "floor");
    AGL_TRY(get_number(&out->floor_ttft_ms, floor, "ttft_ms", name, err));
    return get_number(&out->floor_itl_ms, floor, "itl_ms", name, err);
}

static size_t list_of(json_object **list, json_object *object, const char *key)
{
    *list = agl_json_member(object, key);
    return json_object_is_type(*list, json_type_array) ? json_object_array_length(*list) : 0;
}

static agl_status get_run(agl_result_run *out, json_object *object, const char *name,
                          agl_error *err)
{
    json_object *list;
    size_t count = list_of(&list, object, "points");
    *out = (agl_result_run){0};
    AGL_TRY(get_text(out->format, sizeof out->format, object, "format", true, name, err));
    AGL_TRY(get_text(out->dtype, sizeof out->dtype, object, "dtype", false, name, err));
    const struct { const char *key; double *value;
    } numbers[] = {
        {"load_s", &out->load_s},
        {"weight_bytes", &out->weight_bytes},
        {"kv_bytes", &out->kv_bytes},
        {"kv_tokens", &out->kv_tokens},
        {"batch_max", &out->batch_max},
        {"max_throughput", &out->max_throughput},
        {"image_ttft_ms", &out->image_ttft_ms},
        {"image_floor_ms", &out->image_floor_ms},
    };
    for (size_t i = 0; i < AGL_COUNT(numbers); i++) {
        AGL_TRY(get_number(numbers[i].value, object, numbers[i].key, name, err));
    }
    if (count > AGL_RESULT_POINTS_MAX) {
        return agl_fail(err, AGL_ERR_LIMIT, "%s: %zu points in a run, at most %d expected", name,
                        count, AGL_RESULT_POINTS_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        AGL_TRY(get_point(&out->points[out->point_count++], json_object_array_get_idx(list, i),
                          name, err));
    }
    return AGL_OK;
}

static agl_status get_machine(agl_result *out, json_object *object, const char *name,
                              agl_error *err)
{
    json_object *machine = agl_json_member(object, "machine"),
                *device = agl_json_member(object, "device");
    json_object *rates = agl_json_member(object, "rates");
    char kind[16] = "";
    int64_t bytes = 0;
    AGL_TRY(get_text(out->machine.cpu, sizeof out->machine.cpu, machine, "cpu", false, name, err));
    AGL_TRY(get_text(out->machine.system, sizeof out->machine.system, machine, "system", false,
                     name, err));
    AGL_TRY(get_text(out->machine.driver, sizeof out->machine.driver, machine, "driver", false,
                     name, err));
    AGL_TRY(get_count(&out->machine.cpus, machine, "cpus", 1 << 20, name, err));
    AGL_TRY(agl_json_get_int(&bytes, machine, "memory_bytes", 0, INT64_MAX, false, name, err));
    out->machine.memory_bytes = (uint64_t)bytes;
    AGL_TRY(get_text(kind, sizeof kind, device, "kind", true, name, err));
    out->gpu = strcmp(kind, "gpu") == 0;
    AGL_TRY(get_text(out->device, sizeof out->device, device, "name", false, name, err));
    AGL_TRY(get_count(&out->count, device, "count", 1024, name, err));
    AGL_TRY(get_number(&out->device_memory_bytes, device, "memory_bytes", name, err));
    AGL_TRY(get_number(&out->read_rate, rates, "read_bytes_per_s", name, err));
    return get_number(&out->multiply_rate, rates, "flops", name, err);
}

static agl_status get_result(agl_result *out, json_object *object, const char *name, agl_error *err)
{
    char schema[32];
    json_object *list, *protocol = agl_json_member(object, "protocol"),
                       *model = agl_json_member(object, "model");
    size_t count = list_of(&list, object, "runs");
    agl_result_init(out);
    snprintf(out->file, sizeof out->file, "%s", name);
    AGL_TRY(get_text(schema, sizeof schema, object, "schema", true, name, err));
    if (strcmp(schema, AGL_RESULT_SCHEMA) != 0) {
        return agl_fail(err, AGL_ERR_FORMAT, "%s: schema is \"%s\", \"%s\" expected", name, schema,
                        AGL_RESULT_SCHEMA);
    }
    const struct { const char *key; char *text; size_t size; bool required;
    } texts[] = {
        {"platform", out->platform, sizeof out->platform, true},
        {"note", out->note, sizeof out->note, false},
        {"reported_by", out->reported_by, sizeof out->reported_by, false},
        {"created", out->created, sizeof out->created, false},
        {"program", out->program, sizeof out->program, false},
    };
    for (size_t i = 0; i < AGL_COUNT(texts); i++) {
        AGL_TRY(get_text(texts[i].text, texts[i].size, object, texts[i].key, texts[i].required,
                         name, err));
    }
    AGL_TRY(agl_json_get_bool(&out->complete, object, "complete", false, name, err));
    AGL_TRY(get_machine(out, object, name, err));
    AGL_TRY(get_text(out->model, sizeof out->model, model, "name", false, name, err));
    AGL_TRY(get_number(&out->parameters, model, "parameters", name, err));
    AGL_TRY(agl_json_get_bool(&out->dummy, model, "dummy", false, name, err));
    AGL_TRY(get_count(&out->input_tokens, protocol, "input_tokens", 1 << 24, name, err));
    AGL_TRY(get_count(&out->output_tokens, protocol, "output_tokens", 1 << 24, name, err));
    AGL_TRY(get_count(&out->image_width, protocol, "image_width", 1 << 16, name, err));
    AGL_TRY(get_count(&out->image_height, protocol, "image_height", 1 << 16, name, err));
    AGL_TRY(get_count(&out->image_tokens, protocol, "image_tokens", 1 << 24, name, err));
    if (count > AGL_RESULT_RUNS_MAX) {
        return agl_fail(err, AGL_ERR_LIMIT, "%s: %zu runs, at most %d expected", name, count,
                        AGL_RESULT_RUNS_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        AGL_TRY(
            get_run(&out->runs[out->run_count++], json_object_array_get_idx(list, i), name, err));
    }
    return AGL_OK;
}

agl_status agl_results_load(agl_result **results, size_t *count, const char *path, agl_error *err)
{
    json_object *root;
    *results = NULL;
    *count = 0;
    AGL_TRY(agl_json_load(&root, path, FILE_BYTES_MAX, err));
    bool is_list = json_object_is_type(root, json_type_array);
    size_t total = is_list ? json_object_array_length(root) : 1;
    agl_status status = AGL_OK;
    if (total > RESULTS_MAX)
        status = agl_fail(err, AGL_ERR_LIMIT, "%s: more than %d platforms", path, RESULTS_MAX);
    agl_result *all = status == AGL_OK ? calloc(total + 1, sizeof *all) : NULL;
    if (status == AGL_OK && all == NULL)
        status = agl_fail(err, AGL_ERR_MEMORY, "%s: no memory", path);
    for (size_t i = 0; status == AGL_OK && i < total; i++) {
        json_object *object = is_list ? json_object_array_get_idx(root, i) : root;
        if (!json_object_is_type(object, json_type_object)) {
            status = agl_fail(err, AGL_ERR_FORMAT, "%s: a result (JSON object) expected", path);
        } else {
            status = get_result(&all[i], object, path, err);
        }
    }
    json_object_put(root);
    if (status != AGL_OK) {
        free(all);
        return status;
    }
    *results = all;
    *count = total;
    return AGL_OK;
}

/* ---- writing ------------------------------------------------------------ */

static void put_number(agl_buffer *out, const char *key, double value)
{
    if (isfinite(value)) agl_buffer_append_format(out, "\"%s\":%.15g,", key, value);
    else agl_buffer_append_format(out, "\"%s\":null,", key);
}

static void put_text(agl_buffer *out, const char *key, const char *text)
{
    agl_buffer_append_format(out, "\"%s\":\"", key);
    agl_buffer_append_json(out, text, strlen(text));
    agl_buffer_append_text(out, "\",");
}

/* Objects are written with a comma behind every member; this takes the last one back. */
static void close_object(agl_buffer *out, char bracket)
{
    if (out->bytes > 0 && out->data[out->bytes - 1] == ',') out->data[--out->bytes] = '\0';
    agl_buffer_append_char(out, bracket);
}

static void put_time(agl_buffer *out, const char *key, const agl_result_time *time)
{
    agl_buffer_append_format(out, "\"%s\":{", key);
    put_number(out, "mean", time->mean);
    put_number(out, "std", time->deviation);
    put_number(out, "median", time->median);
    put_number(out, "p99", time->p99);
    agl_buffer_append_format(out, "\"count\":%u},", time->count);
}

static void put_point(agl_buffer *out, const agl_result_point *point)
{
    agl_buffer_append_format(out, "\n    {\"batch\":%u,\"iterations\":%u,", point->batch,
                             point->iterations);
    put_time(out, "ttft_ms", &point->ttft);
    put_time(out, "itl_ms", &point->itl);
    put_number(out, "output_throughput", point->output_throughput);
    agl_buffer_append_text(out, "\"floor\":{");
    put_number(out, "ttft_ms", point->floor_ttft_ms);
    put_number(out, "itl_ms", point->floor_itl_ms);
    close_object(out, '}');
    agl_buffer_append_text(out, ",\"achieved\":{");
    put_number(out, "ttft", point->floor_ttft_ms / point->ttft.mean);
    put_number(out, "itl", point->floor_itl_ms / point->itl.mean);
    close_object(out, '}');
    agl_buffer_append_text(out, "},");
}

static void put_run(agl_buffer *out, const agl_result_run *run)
{
    agl_buffer_append_text(out, "\n  {");
    put_text(out, "format", run->format);
    put_text(out, "dtype", run->dtype);
    put_number(out, "load_s", run->load_s);
    put_number(out, "weight_bytes", run->weight_bytes);
    put_number(out, "kv_bytes", run->kv_bytes);
    put_number(out, "kv_tokens", run->kv_tokens);
    put_number(out, "batch_max", run->batch_max);
    put_number(out, "max_throughput", run->max_throughput);
    put_number(out, "image_ttft_ms", run->image_ttft_ms);
    put_number(out, "image_floor_ms", run->image_floor_ms);
    agl_buffer_append_text(out, "\"points\":[");
    for (size_t i = 0; i < run->point_count; i++) put_point(out, &run->points[i]);
    close_object(out, ']');
    agl_buffer_append_text(out, "},");
}

void agl_result_append_json(agl_buffer *out, const agl_result *r)
{
    agl_buffer_append_char(out, '{');
    put_text(out, "schema", AGL_RESULT_SCHEMA);
    put_text(out, "platform", r->platform);
    if (r->reported_by[0] != '\0') put_text(out, "reported_by", r->reported_by);
    if (r->note[0] != '\0') put_text(out, "note", r->note);
    put_text(out, "created", r->created);
    put_text(out, "program", r->program);
    agl_buffer_append_format(out,
                             "\"complete\":%s,\n \"machine\":", r->complete ? "true" : "false");
    agl_machine_append_json(out, &r->machine);
    agl_buffer_append_format(out, ",\n \"device\":{\"kind\":\"%s\",", r->gpu ? "gpu" : "cpu");
    put_text(out, "name", r->device);
    agl_buffer_append_format(out, "\"count\":%u,", r->count);
    put_number(out, "memory_bytes", r->device_memory_bytes);
    close_object(out, '}');
    agl_buffer_append_text(out, ",\n \"rates\":{");
    put_number(out, "read_bytes_per_s", r->read_rate);
    put_number(out, "flops", r->multiply_rate);
    close_object(out, '}');
    agl_buffer_append_text(out, ",\n \"model\":{");
    put_text(out, "name", r->model);
    put_number(out, "parameters", r->parameters);
    agl_buffer_append_format(
        out,
        "\"dummy\":%s},\n \"protocol\":{\"input_tokens\":%u,\"output_tokens\":%u,"
        "\"image_width\":%u,\"image_height\":%u,\"image_tokens\":%u},\n \"runs\":[",
        r->dummy ? "true" : "false", r->input_tokens, r->output_tokens, r->image_width,
        r->image_height, r->image_tokens);
    for (size_t i = 0; i < r->run_count; i++) put_run(out, &r->runs[i]);
    close_object(out, ']');
    agl_buffer_append_text(out, "}\n");
}

agl_status agl_result_save(const agl_result *result, const char *path, agl_error *err)
{
    agl_buffer out;
    agl_buffer_init(&out, 0);
    agl_result_append_json(&out, result);
    agl_status status = AGL_OK;
    if (out.failed) {
        status = agl_fail(err, AGL_ERR_MEMORY, "no memory for the results");
    } else {
        /* Beside the file, then over it: a machine that dies leaves the last state whole. */
        char temporary[4352];
        int bytes = snprintf(temporary, sizeof temporary, "%s.tmp", path);
        FILE *file = bytes > 0 && (size_t)bytes < sizeof temporary ? fopen(temporary, "w") : NULL;
        bool written = file != NULL && fwrite(out.data, 1, out.bytes, file) == out.bytes;
        if (file != NULL && fclose(file) != 0) written = false;
        if (written && rename(temporary, path) != 0) written = false;
        if (!written) status = agl_fail(err, AGL_ERR_IO, "%s: cannot be written", path);
    }
    agl_buffer_deinit(&out);
    return status;
}
