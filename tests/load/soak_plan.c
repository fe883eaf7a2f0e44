/* SPDX-License-Identifier: Apache-2.0 */
#include "load/soak_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/random.h"
#include "base/status.h"
#include "bench/workload.h"

#define CHAT "/v1/chat/completions"
#define TEXT "/v1/completions"
#define ABORT_SHARE 0.15
#define COLD_SHARE 0.5
#define HEADER_BYTES 60000          /* the server takes 32 KiB */
#define STOP_A "e"
#define STOP_B "0"

typedef struct {
    bool known;
    char *text[SOAK_CHOICES_MAX];
    size_t bytes[SOAK_CHOICES_MAX];
    char finish[SOAK_CHOICES_MAX][12];
    uint32_t prompt_tokens, completion_tokens;
} reference;

struct soak_material {
    uint64_t state;
    char *images[SOAK_IMAGES];      /* base64 */
    reference references[SOAK_KIND_COUNT][SOAK_VARIANTS];
};

static const struct {
    const char *name;
    uint32_t share;
} KINDS[] = {
#define AGL_X(kind, name, share) {name, share},
    SOAK_KINDS(AGL_X)
#undef AGL_X
};

const char *soak_kind_name(soak_kind kind)
{
    return KINDS[kind].name;
}

/* ---- material ---------------------------------------------------------- */

static uint32_t below(soak_material *material, uint32_t limit)
{
    return agl_random_below(&material->state, limit);
}

double soak_random(soak_material *material)
{
    return below(material, UINT32_MAX) / 4294967296.0;
}

soak_material *soak_material_create(uint64_t seed)
{
    soak_material *material = calloc(1, sizeof *material);
    if (material == NULL) return NULL;
    material->state = seed;
    for (uint32_t i = 0; i < SOAK_IMAGES; i++) {
        unsigned char *png = NULL;
        size_t bytes = 0;
        agl_error err;
        if (agl_screen_draw(&png, &bytes, 56 + 28 * i, 84 + 14 * i, i, &err) != AGL_OK) abort();
        material->images[i] = malloc((bytes + 2) / 3 * 4 + 1);
        if (material->images[i] == NULL) abort();
        agl_base64_encode(material->images[i], png, bytes);
        free(png);
    }
    return material;
}

void soak_material_destroy(soak_material *material)
{
    if (material == NULL) return;
    for (int i = 0; i < SOAK_IMAGES; i++) free(material->images[i]);
    for (int kind = 0; kind < SOAK_KIND_COUNT; kind++) {
        for (int v = 0; v < SOAK_VARIANTS; v++) {
            for (int c = 0; c < SOAK_CHOICES_MAX; c++) free(material->references[kind][v].text[c]);
        }
    }
    free(material);
}

void soak_plan_init(soak_plan *plan)
{
    *plan = (soak_plan){0};
    agl_buffer_init(&plan->request, 8 << 20);
}

void soak_plan_deinit(soak_plan *plan)
{
    agl_buffer_deinit(&plan->request);
}

/* ---- requests ---------------------------------------------------------- */

static void put_request(soak_plan *plan, const char *path, const char *headers, const agl_buffer *body)
{
    agl_buffer_clear(&plan->request);
    agl_buffer_append_format(&plan->request, "POST %s HTTP/1.1\r\nHost: soak\r\nContent-Type: application/json\r\n"
                             "%sContent-Length: %zu\r\n\r\n", path, headers, body->bytes);
    agl_buffer_append(&plan->request, body->data, body->bytes);
    plan->send_bytes = plan->request.bytes;
}

/* Words of a length that differs by variant; the same in every run. */
static void put_words(agl_buffer *body, uint32_t seed, uint32_t words)
{
    static const char *const WORDS[] = {"tap", "screen", "open", "wifi", "scroll", "button", "icon", "red"};
    for (uint32_t i = 0; i < words; i++) {
        agl_buffer_append_format(body, "%s%s", i > 0 ? " " : "", WORDS[(seed * 7 + i * (seed + 3)) % AGL_COUNT(WORDS)]);
    }
}

static void put_image(agl_buffer *body, const soak_material *material, uint32_t index)
{
    agl_buffer_append_text(body, "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,");
    agl_buffer_append_text(body, material->images[index % SOAK_IMAGES]);
    agl_buffer_append_text(body, "\"}},");
}

static void put_messages(agl_buffer *body, const soak_plan *plan, const soak_material *material)
{
    uint32_t v = plan->variant;
    agl_buffer_append_text(body, "\"messages\":[");
    if (plan->kind == SOAK_PREFIX) {
        agl_buffer_append_text(body, "{\"role\":\"system\",\"content\":\"");
        put_words(body, v % 3, 150);
        agl_buffer_append_text(body, "\"},");
    }
    agl_buffer_append_text(body, "{\"role\":\"user\",\"content\":[");
    if (plan->kind == SOAK_IMAGE) {
        put_image(body, material, v);
        if (v % 3 == 0) put_image(body, material, v + 1);
    }
    agl_buffer_append_text(body, "{\"type\":\"text\",\"text\":\"");
    put_words(body, v, 1 + v * v % 60);
    agl_buffer_append_text(body, "\"}]}]");
}

static void put_sampling(agl_buffer *body, const soak_plan *plan)
{
    if (plan->kind == SOAK_CHOICES) {
        agl_buffer_append_format(body, ",\"n\":3,\"temperature\":0.9,\"top_p\":0.95,\"seed\":%u", plan->variant + 1);
    } else {
        agl_buffer_append_text(body, ",\"temperature\":0");
    }
    if (plan->kind == SOAK_STOP) agl_buffer_append_text(body, ",\"stop\":[\"" STOP_A "\",\"" STOP_B "\",\"never there\"]");
    if (plan->kind == SOAK_SLOW) agl_buffer_append_text(body, ",\"logprobs\":true,\"top_logprobs\":10");
    if (plan->variant % 2 == 1) agl_buffer_append_text(body, ",\"ignore_eos\":true");
}

static void make_valid(soak_plan *plan, soak_material *material)
{
    agl_buffer body;
    bool is_text = plan->kind == SOAK_TEXT_STREAM || plan->kind == SOAK_TEXT_WHOLE;
    bool stream = plan->kind != SOAK_TEXT_WHOLE && plan->kind != SOAK_CHAT_WHOLE;
    plan->status = 200;
    plan->choices = plan->kind == SOAK_CHOICES ? 3 : 1;
    if (plan->max_tokens == 0) {
        plan->max_tokens = plan->kind == SOAK_SLOW ? 200 + 20 * plan->variant : 8 + plan->variant * 29 % 120;
    }
    agl_buffer_init(&body, 8 << 20);
    agl_buffer_append_format(&body, "{\"model\":\"soak\",\"max_tokens\":%u,\"return_token_ids\":true,", plan->max_tokens);
    if (stream) agl_buffer_append_text(&body, "\"stream\":true,\"stream_options\":{\"include_usage\":true},");
    if (is_text) {
        agl_buffer_append_text(&body, "\"prompt\":\"");
        put_words(&body, plan->variant, 2 + plan->variant * 5);
        agl_buffer_append_char(&body, '"');
    } else {
        put_messages(&body, plan, material);
    }
    put_sampling(&body, plan);
    /* A salt of its own: nothing of the prompt is in the prefix cache. */
    if (soak_random(material) < COLD_SHARE) {
        agl_buffer_append_format(&body, ",\"cache_salt\":\"%u\"", below(material, UINT32_MAX));
    }
    agl_buffer_append_char(&body, '}');
    put_request(plan, is_text ? TEXT : CHAT, "", &body);
    agl_buffer_deinit(&body);
}

static void make_bad(soak_plan *plan)
{
#define HI "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define PICTURE(url) "{\"model\":\"soak\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"," \
                     "\"image_url\":{\"url\":\"" url "\"}}]}]}"
    static const struct {
        const char *path;
        int status;
        const char *body;
    } BAD[] = {
        {CHAT, 400, "{\"model\":\"soak\"," HI},
        {CHAT, 400, "[]"},
        {CHAT, 400, ""},
        {CHAT, 400, "{\"model\":\"soak\",\"messages\":\"hi\"}"},
        {CHAT, 400, "{\"model\":\"soak\"," HI ",\"temperature\":-3}"},
        {CHAT, 400, "{\"model\":\"soak\"," HI ",\"n\":100000}"},
        {CHAT, 400, "{\"model\":\"soak\"," HI ",\"max_tokens\":\"many\"}"},
        {CHAT, 400, "{\"model\":\"soak\"," HI ",\"stop\":[1,2]}"},
        {CHAT, 400, "{\"model\":\"soak\",\"messages\":[{\"role\":\"user\",\"content\":\"\xff\xfe\"}]}"},
        {CHAT, 400, "{\"model\":\"soak\",\"x\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["},
        {CHAT, 400, PICTURE("data:image/png;base64,!!!!")},
        {CHAT, 400, PICTURE("data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAAB")},
        {CHAT, 400, PICTURE("data:image/jpeg;base64,/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgc")},
        {CHAT, 400, PICTURE("http://127.0.0.1:1/x.png")},
        {CHAT, 404, "{\"model\":\"another\"," HI "}"},
        {TEXT, 400, "{\"model\":\"soak\",\"prompt\":[1,2,-5]}"},
        {TEXT, 400, "{\"model\":\"soak\",\"prompt\":[1,2,999999]}"},
        {"/v1/nothing", 404, "{}"},
        {"/v1/models", 405, "{}"},
    };
    agl_buffer body;
    uint32_t which = plan->variant % AGL_COUNT(BAD);
    agl_buffer_init(&body, 0);
    agl_buffer_append_text(&body, BAD[which].body);
    plan->status = BAD[which].status;
    put_request(plan, BAD[which].path, "", &body);
    agl_buffer_deinit(&body);
}

static void make_large_header(soak_plan *plan)
{
    char *headers = malloc(HEADER_BYTES + 16);
    agl_buffer body;
    if (headers == NULL) abort();
    agl_buffer_init(&body, 0);
    agl_buffer_append_text(&body, "{}");
    memcpy(headers, "X-Large: ", 9);
    memset(headers + 9, 'x', HEADER_BYTES);
    memcpy(headers + 9 + HEADER_BYTES, "\r\n", 3);
    plan->status = 431;
    put_request(plan, CHAT, headers, &body);
    agl_buffer_deinit(&body);
    free(headers);
}

static void clear_plan(soak_plan *plan, soak_kind kind, uint32_t variant)
{
    agl_buffer request = plan->request;
    *plan = (soak_plan){.kind = kind, .variant = variant, .request = request};
}

void soak_plan_make(soak_plan *plan, soak_material *material)
{
    uint32_t total = 0, kind = 0;
    for (size_t i = 0; i < AGL_COUNT(KINDS); i++) total += KINDS[i].share;
    uint32_t drawn = below(material, total);
    while (drawn >= KINDS[kind].share) drawn -= KINDS[kind++].share;
    clear_plan(plan, (soak_kind)kind, below(material, SOAK_VARIANTS));
    switch (plan->kind) {
    case SOAK_BAD:
        plan->variant = below(material, 1000);
        make_bad(plan);
        return;
    case SOAK_HEADER:
        make_large_header(plan);
        return;
    case SOAK_HALF:
        plan->kind = below(material, 2) == 0 ? SOAK_CHAT_STREAM : SOAK_IMAGE;
        make_valid(plan, material);
        plan->kind = SOAK_HALF;
        plan->send_bytes = 1 + below(material, (uint32_t)plan->request.bytes - 1);
        plan->hold_s = 4 * soak_random(material);
        return;
    default:
        plan->has_reference = true;
        make_valid(plan, material);
    }
    if (plan->kind == SOAK_SLOW) plan->slow_s = 5 + 15 * soak_random(material);
    if (soak_random(material) >= ABORT_SHARE) return;
    if (below(material, 2) == 0) plan->abort_s = 1e-4 + soak_random(material) * soak_random(material) * 3;
    else plan->abort_bytes = 1 + below(material, 30000);
}

void soak_plan_make_long(soak_plan *plan, soak_material *material, uint32_t variant, uint32_t max_tokens)
{
    clear_plan(plan, SOAK_CHAT_STREAM, variant | 1); /* odd: no stop token ends it */
    plan->max_tokens = max_tokens;
    make_valid(plan, material);
}

/* ---- checks ------------------------------------------------------------ */

static void keep(reference *expected, const soak_answer *answer, uint32_t choices)
{
    expected->known = true;
    expected->prompt_tokens = answer->prompt_tokens;
    expected->completion_tokens = answer->completion_tokens;
    for (uint32_t i = 0; i < choices; i++) {
        const soak_choice *choice = &answer->choices[i];
        expected->bytes[i] = choice->text.bytes;
        expected->text[i] = malloc(choice->text.bytes + 1);
        if (expected->text[i] == NULL) abort();
        if (choice->text.bytes > 0) memcpy(expected->text[i], choice->text.data, choice->text.bytes);
        memcpy(expected->finish[i], choice->finish, sizeof expected->finish[i]);
    }
}

static bool compare(const soak_plan *plan, const reference *expected, soak_response *response)
{
    const soak_answer *answer = &response->answer;
    if (answer->prompt_tokens != expected->prompt_tokens) {
        return soak_fault(response, "variant %u: %u prompt tokens, before %u", plan->variant, answer->prompt_tokens,
                          expected->prompt_tokens);
    }
    for (uint32_t i = 0; i < plan->choices; i++) {
        const soak_choice *choice = &answer->choices[i];
        size_t same = 0, shorter = choice->text.bytes < expected->bytes[i] ? choice->text.bytes : expected->bytes[i];
        while (same < shorter && choice->text.data[same] == expected->text[i][same]) same++;
        if (same < shorter || choice->text.bytes != expected->bytes[i]) {
            return soak_fault(response, "variant %u choice %u differs from the first answer at byte %zu of %zu", plan->variant,
                              i, same, expected->bytes[i]);
        }
        if (strcmp(choice->finish, expected->finish[i]) != 0) {
            return soak_fault(response, "variant %u: finish_reason %s, before %s", plan->variant, choice->finish,
                              expected->finish[i]);
        }
    }
    return true;
}

static bool check_choice(const soak_plan *plan, soak_response *response, const soak_choice *choice)
{
    if (strcmp(choice->finish, "stop") != 0 && strcmp(choice->finish, "length") != 0) {
        return soak_fault(response, "finish_reason \"%s\"", choice->finish);
    }
    if (choice->tokens > plan->max_tokens) return soak_fault(response, "%u tokens of at most %u", choice->tokens, plan->max_tokens);
    if (choice->tokens != plan->max_tokens && strcmp(choice->finish, "length") == 0) {
        return soak_fault(response, "finish_reason length after %u of %u tokens", choice->tokens, plan->max_tokens);
    }
    if (plan->kind != SOAK_STOP || choice->text.bytes == 0) return true;
    return memmem(choice->text.data, choice->text.bytes, STOP_A, 1) == NULL &&
                   memmem(choice->text.data, choice->text.bytes, STOP_B, 1) == NULL
               ? true : soak_fault(response, "a stop string is in the text");
}

bool soak_plan_check(const soak_plan *plan, soak_material *material, soak_response *response)
{
    const soak_answer *answer = &response->answer;
    if (response->status != plan->status) {
        return soak_fault(response, "status %d, expected %d: %.150s", response->status, plan->status,
                          response->body.data != NULL ? response->body.data : "");
    }
    if (plan->choices == 0) return true;
    if (answer->error_event) return soak_fault(response, "an error instead of the answer");
    if (!answer->usage_seen) return soak_fault(response, "no usage");
    uint32_t tokens = 0;
    for (uint32_t i = 0; i < plan->choices; i++) {
        if (!check_choice(plan, response, &answer->choices[i])) return false;
        tokens += answer->choices[i].tokens;
    }
    if (tokens != answer->completion_tokens) {
        return soak_fault(response, "%u token ids, usage says %u", tokens, answer->completion_tokens);
    }
    if (answer->cached_tokens >= answer->prompt_tokens) return soak_fault(response, "the whole prompt was cached");
    if (!plan->has_reference) return true;
    /* The same request streamed and not has one reference. */
    soak_kind kind = plan->kind == SOAK_CHAT_WHOLE ? SOAK_CHAT_STREAM : plan->kind == SOAK_TEXT_WHOLE ? SOAK_TEXT_STREAM : plan->kind;
    reference *expected = &material->references[kind][plan->variant];
    if (!expected->known) {
        keep(expected, answer, plan->choices);
        return true;
    }
    return compare(plan, expected, response);
}
