/* SPDX-License-Identifier: Apache-2.0
 *
 * The OpenAI surface: forms of the answers, every field, every refusal. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/status.h"
#include "unit/server/fake_engine.h"
#include "unit/server/http_client.h"

#define CHAT "/v1/chat/completions"
#define TEXT "/v1/completions"
#define ONE_PIXEL "iVBORw0KGgo="     /* the server does not look inside */

static test_service service;

static int start(void **state)
{
    (void)state;
    service = test_service_start(&(agl_server_options){.model_names = {(const char *const[]){"m"}, 1}}, false);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    test_service_stop(&service);
    return 0;
}

static struct json_object *post(const char *path, const char *body)
{
    struct json_object *value = NULL;
    agl_error err;
    test_reply reply = test_post(&service, path, body);
    if (reply.status != 200) fail_msg("%s\n%s", body, reply.all);
    if (agl_json_parse(&value, reply.body, reply.body_bytes, "answer", &err) != AGL_OK) {
        fail_msg("%s\n%s", err.message, reply.body);
    }
    test_reply_free(&reply);
    return value;
}

/* "choices.0.message.content" as JSON text. */
static const char *at(struct json_object *value, const char *path)
{
    char key[64];
    while (*path != '\0' && value != NULL) {
        size_t bytes = strcspn(path, ".");
        memcpy(key, path, bytes);
        key[bytes] = '\0';
        struct json_object *next = NULL;
        if (json_object_is_type(value, json_type_array)) {
            next = json_object_array_get_idx(value, strtoul(key, NULL, 10));
        } else if (!json_object_object_get_ex(value, key, &next)) {
            return "(absent)";
        }
        value = next;
        path += bytes + (path[bytes] == '.');
    }
    return json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
}

#define USER(text) "\"messages\":[{\"role\":\"user\",\"content\":\"" text "\"}]"

static void a_chat_answer_has_the_openai_form(void **state)
{
    (void)state;
    struct json_object *answer = post(CHAT, "{\"model\":\"m\"," USER("[say:Hi \\\"you\\\" 你好 😀]") "}");
    assert_string_equal(at(answer, "object"), "\"chat.completion\"");
    assert_string_equal(at(answer, "model"), "\"m\"");
    assert_string_equal(at(answer, "choices.0.index"), "0");
    assert_string_equal(at(answer, "choices.0.message.role"), "\"assistant\"");
    assert_string_equal(at(answer, "choices.0.message.content"), "\"Hi \\\"you\\\" 你好 😀\"");
    assert_string_equal(at(answer, "choices.0.finish_reason"), "\"stop\"");
    assert_string_equal(at(answer, "choices.0.stop_reason"), "null");
    assert_string_equal(at(answer, "choices.0.logprobs"), "null");
    assert_string_equal(at(answer, "choices.0.message.reasoning_content"), "(absent)");
    assert_string_equal(at(answer, "usage.completion_tokens"), "20");
    assert_string_equal(at(answer, "usage.prompt_tokens_details.cached_tokens"), "2");
    assert_memory_equal(at(answer, "id"), "\"chatcmpl-", 10);
    json_object_put(answer);
}

/* vLLM: null for the tokenizer's own end of text, unless it was asked for as a stop token. */
static void stop_reason_names_what_was_asked_for(void **state)
{
    (void)state;
    static const char *const CASES[][2] = {
        {USER("[say:a][stop=257]"), "257"},
        {USER("[say:a][stop=258]"), "null"},
        {"\"ignore_eos\":true,\"stop_token_ids\":[258]," USER("[say:a][stop=258]"), "258"},
    };
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        char body[256];
        snprintf(body, sizeof body, "{%s}", CASES[i][0]);
        struct json_object *answer = post(CHAT, body);
        assert_string_equal(at(answer, "choices.0.finish_reason"), "\"stop\"");
        assert_string_equal(at(answer, "choices.0.stop_reason"), CASES[i][1]);
        json_object_put(answer);
    }
}

static void choices_come_by_n_and_by_prompt(void **state)
{
    (void)state;
    struct json_object *answer = post(CHAT, "{\"n\":3,\"max_tokens\":2," USER("[say:abc]") "}");
    assert_string_equal(at(answer, "choices.2.message.content"), "\"ab\"");
    assert_string_equal(at(answer, "choices.2.finish_reason"), "\"length\"");
    assert_string_equal(at(answer, "usage.completion_tokens"), "6");
    json_object_put(answer);

    answer = post(TEXT, "{\"prompt\":[\"[say:one]\",\"[say:two]\"],\"n\":2}");
    assert_string_equal(at(answer, "object"), "\"text_completion\"");
    assert_string_equal(at(answer, "choices.1.text"), "\"one\"");
    assert_string_equal(at(answer, "choices.2.text"), "\"two\"");
    assert_string_equal(at(answer, "choices.3.index"), "3");
    assert_string_equal(at(answer, "usage.completion_tokens"), "12");
    json_object_put(answer);

    answer = post(TEXT, "{\"prompt\":[[91,92],[93]],\"return_token_ids\":true}");
    assert_string_equal(at(answer, "choices.1.prompt_token_ids"), "[93]");
    json_object_put(answer);
}

static void a_stream_is_role_with_first_token_to_done(void **state)
{
    (void)state;
    test_reply reply = test_post(&service, CHAT, "{\"stream\":true,\"stream_options\":{\"include_usage\":true},"
                                 USER("[say:a你\\n]") "}");
    assert_int_equal(reply.status, 200);
    assert_non_null(strstr(reply.all, "Content-Type: text/event-stream"));
    static const char *const EVENTS[] = {
        "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"a\"},\"logprobs\":null,\"finish_reason\":null}]}",
        "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]}", /* of 3 bytes */
        "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]}",
        "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"你\"},\"logprobs\":null,\"finish_reason\":null}]}",
        "\"delta\":{\"content\":\"\\n\"},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null}]}",
        "\"choices\":[],\"usage\":{\"prompt_tokens\":",
        "data: [DONE]",
    };
    char *rest = reply.body;
    for (size_t i = 0; i < AGL_COUNT(EVENTS); i++) {
        char *end = strstr(rest, "\n\n");
        if (end == NULL) fail_msg("%s", rest);
        *end = '\0';
        assert_memory_equal(rest, "data: ", 6);
        if (strstr(rest, EVENTS[i]) == NULL) fail_msg("event %zu is %s", i, rest);
        rest = end + 2;
    }
    assert_string_equal(rest, "");
    test_reply_free(&reply);

    reply = test_post(&service, CHAT, "{\"stream\":true,\"stream_interval\":4," USER("[say:0123456789]") "}");
    assert_non_null(strstr(reply.body, "\"content\":\"0\"}"));
    assert_non_null(strstr(reply.body, "\"content\":\"1234\"}"));
    assert_non_null(strstr(reply.body, "\"content\":\"9\"}"));
    assert_null(strstr(reply.body, "\"usage\""));
    test_reply_free(&reply);

    reply = test_post(&service, TEXT, "{\"stream\":true,\"prompt\":\"[say:xy]\",\"stream_options\":"
                      "{\"include_usage\":true,\"continuous_usage_stats\":true}}");
    assert_non_null(strstr(reply.body, "\"object\":\"text_completion\""));
    assert_non_null(strstr(reply.body, "{\"index\":0,\"text\":\"x\",\"logprobs\":null,\"finish_reason\":null}],\"usage\":{"));
    test_reply_free(&reply);
}

static void thinking_is_split_on_request(void **state)
{
    (void)state;
#define THOUGHT "[say:<think>why\\n</think>\\n<answer>do(1)]"
    struct json_object *answer = post(CHAT, "{" USER(THOUGHT) "}");
    assert_string_equal(at(answer, "choices.0.message.content"), "\"<think>why\\n</think>\\n<answer>do(1)\"");
    json_object_put(answer);
    answer = post(CHAT, "{\"return_reasoning\":true," USER(THOUGHT) "}");
    assert_string_equal(at(answer, "choices.0.message.content"), "\"<answer>do(1)\"");
    assert_string_equal(at(answer, "choices.0.message.reasoning_content"), "\"why\\n\"");
    assert_string_equal(at(answer, "choices.0.message.reasoning"), "\"why\\n\"");
    assert_string_equal(at(answer, "usage.completion_tokens_details.reasoning_tokens"), "6");
    json_object_put(answer);
    answer = post(CHAT, "{\"return_reasoning\":true,\"include_reasoning\":false," USER(THOUGHT) "}");
    assert_string_equal(at(answer, "choices.0.message.reasoning"), "null");
    json_object_put(answer);

    test_reply reply = test_post(&service, CHAT, "{\"stream\":true,\"chat_template_kwargs\":{\"return_reasoning\":true},"
                                 USER(THOUGHT) "}");
    assert_non_null(strstr(reply.body, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}")); /* the tag */
    assert_non_null(strstr(reply.body, "\"delta\":{\"reasoning_content\":\"w\",\"reasoning\":\"w\"}"));
    assert_non_null(strstr(reply.body, "\"delta\":{\"content\":\"<answer>\"}"));
    assert_null(strstr(reply.body, "think>"));
    test_reply_free(&reply);

    /* Thinking that is left out makes no chunk: the role comes with the answer. */
    reply = test_post(&service, CHAT, "{\"stream\":true,\"return_reasoning\":true,\"include_reasoning\":false,"
                      USER(THOUGHT) "}");
    assert_non_null(strstr(reply.body, "\"delta\":{\"role\":\"assistant\",\"content\":\"<answer>\"}"));
    assert_null(strstr(reply.body, "\"content\":\"\""));
    test_reply_free(&reply);
}

static void logprobs_have_both_forms(void **state)
{
    (void)state;
    struct json_object *answer = post(CHAT, "{\"logprobs\":true,\"top_logprobs\":2," USER("[say:ab]") "}");
    assert_string_equal(at(answer, "choices.0.logprobs.content.1.token"), "\"b\"");
    assert_string_equal(at(answer, "choices.0.logprobs.content.1.bytes"), "[98]");
    assert_string_equal(at(answer, "choices.0.logprobs.content.1.logprob"), "-0.5");
    assert_string_equal(at(answer, "choices.0.logprobs.content.1.top_logprobs.1"),
                        "{\"token\":\"c\",\"logprob\":-1,\"bytes\":[99]}");
    json_object_put(answer);

    answer = post(TEXT, "{\"prompt\":\"[say:ab]\",\"logprobs\":1,\"echo\":true}");
    assert_string_equal(at(answer, "choices.0.text"), "\"[say:ab]ab\"");
    assert_string_equal(at(answer, "choices.0.logprobs.tokens.8"), "\"a\"");
    assert_string_equal(at(answer, "choices.0.logprobs.text_offset.9"), "9");
    assert_string_equal(at(answer, "choices.0.logprobs.token_logprobs.0"), "null");
    assert_string_equal(at(answer, "choices.0.logprobs.top_logprobs.9"), "{\"b\":-0.5}");
    json_object_put(answer);

    answer = post(TEXT, "{\"prompt\":\"[say:ab]\",\"logprobs\":0,\"echo\":true,\"max_tokens\":0}");
    assert_string_equal(at(answer, "choices.0.text"), "\"[say:ab]\"");
    assert_string_equal(at(answer, "usage.completion_tokens"), "0");
    json_object_put(answer);

    answer = post(CHAT, "{\"prompt_logprobs\":1,\"return_tokens_as_token_ids\":true,\"logprobs\":true," USER("[say:a]") "}");
    assert_string_equal(at(answer, "prompt_logprobs.0"), "null");
    assert_string_equal(at(answer, "prompt_logprobs.1.115.decoded_token"), "\"s\"");
    assert_string_equal(at(answer, "choices.0.logprobs.content.0.token"), "\"token_id:97\"");
    json_object_put(answer);
}

static void fields_reach_the_engine(void **state)
{
    (void)state;
    json_object_put(post(CHAT, "{\"temperature\":0.8500000238418579,\"top_p\":0.5,\"top_k\":7,\"min_p\":0.1,"
                         "\"repetition_penalty\":1.1,\"frequency_penalty\":0.2,\"presence_penalty\":-2,\"seed\":42,"
                         "\"max_tokens\":9,\"max_completion_tokens\":11,\"min_tokens\":3,\"ignore_eos\":true,"
                         "\"include_stop_str_in_output\":true,\"skip_special_tokens\":false,"
                         "\"stop\":[\"a\",\"b\"],\"stop_token_ids\":[5],\"logit_bias\":{\"7\":-100,\"8\":1.5},"
                         "\"bad_words\":[\"x\"],\"allowed_token_ids\":[1,2],\"unknown_field\":{\"a\":1},\"user\":\"u\","
                         "\"mm_processor_kwargs\":{\"max_pixels\":5000000},\"tools\":[{}],\"tool_choice\":\"auto\","
                         "\"enable_thinking\":false," USER("[say:x]") "}"));
    const agl_sampling *s = &test_fake()->sampling;
    assert_true(s->temperature == 0.85f && s->top_p == 0.5f && s->min_p == 0.1f && s->repetition_penalty == 1.1f);
    assert_true(s->frequency_penalty == 0.2f && s->presence_penalty == -2);
    assert_int_equal(s->top_k, 7);
    assert_true(s->has_seed && s->seed == 42);
    assert_int_equal(s->max_tokens, 11);
    assert_int_equal(s->min_tokens, 3);
    assert_true(s->ignore_eos && s->include_stop_str && s->keep_special_tokens);
    assert_int_equal(s->stop_count, 2);
    assert_int_equal(s->stop_token_count, 1);
    assert_int_equal(s->logit_bias_count, 2);
    assert_int_equal(s->bad_word_count, 1);
    assert_int_equal(s->allowed_token_count, 2);
    assert_int_equal(test_fake()->max_pixels, 5000000);
    assert_true(test_fake()->chat.disable_thinking);

    /* Absent and null are the model's defaults. */
    json_object_put(post(CHAT, "{\"temperature\":null,\"stop\":null,\"max_tokens\":null,\"seed\":-1,"
                         "\"chat_template_kwargs\":{\"enable_thinking\":true}," USER("[say:x]") "}"));
    assert_true(isnan(s->temperature) && isnan(s->top_p) && isnan(s->repetition_penalty));
    assert_int_equal(s->top_k, INT32_MIN);
    assert_int_equal(s->max_tokens, 0);
    assert_false(s->has_seed);
    assert_false(test_fake()->chat.disable_thinking);
    json_object_put(post(CHAT, "{\"reasoning_effort\":\"none\"," USER("[say:x]") "}"));
    assert_true(test_fake()->chat.disable_thinking);
    json_object_put(post(TEXT, "{\"prompt\":\"[say:x]\"}"));
    assert_int_equal(s->max_tokens, 16);
    json_object_put(post(CHAT, "{\"mm_processor_kwargs\":{\"size\":{\"longest_edge\":4000000}}," USER("x") "}"));
    assert_int_equal(test_fake()->max_pixels, 2000000);
}

static void messages_of_every_shape_are_read(void **state)
{
    static const struct {
        const char *messages, *prompt;
    } CASES[] = {
        {"{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"developer\",\"content\":\"d\"},"
         "{\"role\":\"user\",\"content\":\"u\"}", "system:s\nsystem:d\nuser:u\n"},
        {"{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"image_url\",\"image_url\":"
         "{\"url\":\"data:image/png;base64," ONE_PIXEL "\",\"detail\":\"high\"}},{\"type\":\"text\",\"text\":\"b\"}]}",
         "user:a<image 8 bytes>b\n"},
        {"{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":\"data:;base64," ONE_PIXEL "\"}]}",
         "user:<image 8 bytes>\n"},
        {"{\"role\":\"user\",\"content\":[{\"type\":\"input_image\",\"image_url\":\"DATA:x/y;base64," ONE_PIXEL "\"},"
         "{\"type\":\"input_text\",\"text\":\"t\"}]}", "user:<image 8 bytes>t\n"},
        {"{\"role\":\"user\",\"content\":[{\"image_url\":{\"url\":\"data:image/png;base64," ONE_PIXEL "\"}},\"plain\"]}",
         "user:<image 8 bytes>plain\n"},
        {"{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\"}]},"
         "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"r\"},{\"role\":\"user\",\"content\":\"u\"}",
         "assistant:\ntool:r\nuser:u\n"},
        {"{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":[]}", "user:a\nuser:\n"},
        {"{\"role\":\"user\"}", "user:\n"},
    };
    (void)state;
    for (size_t i = 0; i < AGL_COUNT(CASES); i++) {
        char body[2048];
        snprintf(body, sizeof body, "{\"messages\":[%s]}", CASES[i].messages);
        json_object_put(post(CHAT, body));
        assert_string_equal(test_fake()->prompt, CASES[i].prompt);
    }
    struct json_object *answer = post(CHAT, "{\"continue_final_message\":true,\"add_generation_prompt\":false,\"echo\":true,"
        "\"messages\":[{\"role\":\"user\",\"content\":\"[say:two]\"},{\"role\":\"assistant\",\"content\":\"one \"}]}");
    assert_string_equal(at(answer, "choices.0.message.content"), "\"one two\"");
    assert_true(test_fake()->chat.continue_final_message && test_fake()->chat.no_generation_prompt);
    json_object_put(answer);
}

static void tokens_go_both_ways(void **state)
{
    (void)state;
    struct json_object *answer = post("/tokenize", "{\"prompt\":\"ab\",\"return_token_strs\":true}");
    assert_string_equal(at(answer, ""), "{\"count\":2,\"max_model_len\":4096,\"tokens\":[97,98],\"token_strs\":[\"a\",\"b\"]}");
    json_object_put(answer);
    answer = post("/v1/tokenize", "{" USER("x") "}");
    assert_string_equal(at(answer, "count"), "7");
    json_object_put(answer);
    answer = post("/detokenize", "{\"tokens\":[97,256]}");
    assert_string_equal(at(answer, "prompt"), "\"a<think>\"");
    json_object_put(answer);
    answer = post("/apply-template", "{" USER("x") "}");
    assert_string_equal(at(answer, "prompt"), "\"user:x\\n\"");
    json_object_put(answer);
}

static void engine_statuses_become_http_statuses(void **state)
{
    static const int HTTP[AGL_STATUS_COUNT] = {
        [AGL_ERR_ARGUMENT] = 400, [AGL_ERR_FORMAT] = 400, [AGL_ERR_UNSUPPORTED] = 400, [AGL_ERR_NOT_FOUND] = 400,
        [AGL_ERR_DENIED] = 400, [AGL_ERR_LIMIT] = 400, [AGL_ERR_CONTEXT] = 400, [AGL_ERR_BUSY] = 429,
        [AGL_ERR_MEMORY] = 503, [AGL_ERR_IO] = 500, [AGL_ERR_CANCELLED] = 503, [AGL_ERR_TIMEOUT] = 504,
        [AGL_ERR_DEVICE] = 503, [AGL_ERR_INTERNAL] = 500,
    };
    (void)state;
    for (int status = 1; status < AGL_STATUS_COUNT; status++) {
        char body[128];
        snprintf(body, sizeof body, "{\"stream\":true," USER("[status=%d]") "}", status);
        test_reply reply = test_post(&service, CHAT, body);
        assert_int_equal(reply.status, HTTP[status]);
        assert_non_null(strstr(reply.body, "\"message\":\"fake status"));
        test_reply_free(&reply);
    }
}

static void late_errors_reach_the_client(void **state)
{
    (void)state;
    /* Before the first token the status line is still ours. */
    test_reply reply = test_post(&service, CHAT, "{\"stream\":true," USER("[error=0][count=9]") "}");
    assert_int_equal(reply.status, 503);
    test_reply_free(&reply);
    reply = test_post(&service, CHAT, "{\"stream\":true," USER("[error=2][delay=5][count=9]") "}");
    assert_int_equal(reply.status, 200);
    assert_non_null(strstr(reply.body, "data: {\"error\":{\"message\":\"fake device failure\","
                           "\"type\":\"ServiceUnavailableError\",\"param\":null,\"code\":503}}\n\ndata: [DONE]\n\n"));
    test_reply_free(&reply);
    reply = test_post(&service, CHAT, "{" USER("[error=2][count=9]") "}");
    assert_int_equal(reply.status, 503);
    test_reply_free(&reply);
}

#define M "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]"
#define PART(part) "{\"messages\":[{\"role\":\"user\",\"content\":[" part "]}]}"

static const struct {
    const char *path, *body;
    int status;
    const char *message;
} REFUSED[] = {
    /* not JSON */
    {CHAT, "", 400, "invalid JSON"},
    {CHAT, "{", 400, "invalid JSON"},
    {CHAT, "{" M ",}", 400, "invalid JSON"},
    {CHAT, "{messages:[]}", 400, "invalid JSON"},
    {CHAT, "{'n':1," M "}", 400, "invalid JSON at byte 1: double quotes expected"},
    {CHAT, "{\"n\":NaN," M "}", 400, "invalid JSON at byte 5: a value expected"},
    {CHAT, "{" M "} x", 400, "invalid JSON"},
    {CHAT, "[]", 400, "a JSON object is expected"},
    {CHAT, "\"x\"", 400, "a JSON object is expected"},
    {CHAT, "null", 400, "a JSON object is expected"},
    {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}", 400, "invalid JSON"},
    {CHAT, "{" M ",\"temperature\":NaN}", 400, ""},
    {CHAT, "{" M ",\"temperature\":Infinity}", 400, ""},
    {CHAT, "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", 400, "invalid JSON"},
    /* messages */
    {CHAT, "{}", 400, "messages: Field required"},
    {CHAT, "{\"messages\":null}", 400, "messages: Field required"},
    {CHAT, "{\"messages\":\"hi\"}", 400, "messages: Input should be a valid list"},
    {CHAT, "{\"messages\":[]}", 400, "at least one message"},
    {CHAT, "{\"messages\":[5]}", 400, "messages[0] must be an object"},
    {CHAT, "{\"messages\":[{}]}", 400, "messages[0].role is missing"},
    {CHAT, "{\"messages\":[{\"role\":5,\"content\":\"x\"}]}", 400, "messages[0].role"},
    {CHAT, "{\"messages\":[{\"role\":\"root\",\"content\":\"x\"}]}", 400, "'root' is not one of"},
    {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":5}]}", 400, "messages[0].content must be a string or a list"},
    {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":{}}]}", 400, "messages[0].content"},
    {CHAT, PART("5"), 400, "messages[0].content[0]: a content part must be an object"},
    {CHAT, PART("{}"), 400, "Unknown part type"},
    {CHAT, PART("{\"type\":7}"), 400, "messages[0].content[0]"},
    {CHAT, PART("{\"type\":\"text\"}"), 400, "messages[0].content[0]: text is missing"},
    {CHAT, PART("{\"type\":\"text\",\"text\":5}"), 400, "text must be a string"},
    {CHAT, PART("{\"type\":\"hologram\"}"), 400, "Unknown part type: 'hologram'"},
    {CHAT, PART("{\"type\":\"input_audio\",\"input_audio\":{}}"), 400, "'input_audio' is not supported"},
    {CHAT, PART("{\"type\":\"video_url\",\"video_url\":{}}"), 400, "'video_url' is not supported"},
    {CHAT, PART("{\"type\":\"file\",\"file\":{}}"), 400, "'file' is not supported"},
    /* images */
    {CHAT, PART("{\"type\":\"image_url\"}"), 400, "image_url is missing"},
    {CHAT, PART("{\"type\":\"image_url\",\"image_url\":5}"), 400, "must be a URL"},
    {CHAT, PART("{\"type\":\"image_url\",\"image_url\":{}}"), 400, "must be a URL"},
    {CHAT, PART("{\"type\":\"image_url\",\"image_url\":{\"url\":null}}"), 400, "must be a URL"},
    {CHAT, PART("{\"type\":\"image_url\",\"image_url\":{\"url\":\"\"}}"), 400, "either a HTTP, data or file URL"},
    {CHAT, PART("{\"type\":\"image_url\",\"image_url\":\"iVBORw0KGgo=\"}"), 400, "either a HTTP, data or file URL"},
    {CHAT, PART("{\"type\":\"image_url\",\"image_url\":\"ftp://h/a.png\"}"), 400, "either a HTTP, data or file URL"},
    {CHAT, PART("{\"type\":\"image_url\",\"image_url\":\"data:image/png;base64\"}"), 400, "Only base64 data URLs"},
    {CHAT, PART("{\"type\":\"image_url\",\"image_url\":\"data:image/png,abc\"}"), 400, "Only base64 data URLs"},
    {CHAT, PART("{\"type\":\"image_url\",\"image_url\":\"data:image/png;base64,\"}"), 400, "the image is empty"},
    {CHAT, PART("{\"type\":\"image_url\",\"image_url\":\"data:image/png;base64,!!!!\"}"), 400, "invalid base64 at offset 0"},
    {CHAT, PART("{\"type\":\"image_url\",\"image_url\":\"data:image/png;base64,abcde\"}"), 400, "invalid base64"},
    {CHAT, PART("{\"type\":\"image_url\",\"image_url\":\"http://example.com/a.png\"}"), 400, "--allowed-media-domains"},
    {CHAT, PART("{\"type\":\"image_url\",\"image_url\":\"https://127.0.0.1/a.png\"}"), 400, "--allowed-media-domains"},
    {CHAT, PART("{\"type\":\"image_url\",\"image_url\":\"file:///etc/passwd\"}"), 400, "--allowed-local-media-path"},
    {CHAT, PART("{\"type\":\"image_url\",\"image_url\":\"http://a\\u0000b/\"}"), 400, "either a HTTP, data or file URL"},
    /* numbers */
    {CHAT, "{" M ",\"temperature\":-0.1}", 400, "temperature must be non-negative, got -0.1."},
    {CHAT, "{" M ",\"temperature\":2.01}", 400, "temperature must be in [0, 2], got 2.01."},
    {CHAT, "{" M ",\"temperature\":1e999}", 400, "temperature"},
    {CHAT, "{" M ",\"temperature\":\"0.5\"}", 400, "temperature: Input should be a valid number"},
    {CHAT, "{" M ",\"temperature\":true}", 400, "temperature: Input should be a valid number"},
    {CHAT, "{" M ",\"temperature\":[1]}", 400, "temperature: Input should be a valid number"},
    {CHAT, "{" M ",\"top_p\":0}", 400, "top_p must be in (0, 1], got 0."},
    {CHAT, "{" M ",\"top_p\":1.5}", 400, "top_p must be in (0, 1], got 1.5."},
    {CHAT, "{" M ",\"top_p\":-1}", 400, "top_p must be in (0, 1]"},
    {CHAT, "{" M ",\"min_p\":-0.5}", 400, "min_p must be in [0, 1], got -0.5."},
    {CHAT, "{" M ",\"min_p\":2}", 400, "min_p must be in [0, 1], got 2."},
    {CHAT, "{" M ",\"top_k\":-2}", 400, "top_k must be 0 (disable), or at least 1, got -2."},
    {CHAT, "{" M ",\"top_k\":1.5}", 400, "top_k: Input should be a valid integer"},
    {CHAT, "{" M ",\"top_k\":99999999999999999999}", 400, "top_k must be"},
    {CHAT, "{" M ",\"repetition_penalty\":0}", 400, "repetition_penalty must be greater than zero, got 0."},
    {CHAT, "{" M ",\"repetition_penalty\":-1}", 400, "repetition_penalty must be greater than zero"},
    {CHAT, "{" M ",\"repetition_penalty\":1e30}", 400, "repetition_penalty must be at most 100"},
    {CHAT, "{" M ",\"frequency_penalty\":2.5}", 400, "frequency_penalty must be in [-2, 2], got 2.5."},
    {CHAT, "{" M ",\"presence_penalty\":-2.5}", 400, "presence_penalty must be in [-2, 2], got -2.5."},
    {CHAT, "{" M ",\"presence_penalty\":\"x\"}", 400, "presence_penalty: Input should be a valid number"},
    {CHAT, "{" M ",\"n\":0}", 400, "n must be at least 1, got 0."},
    {CHAT, "{" M ",\"n\":-5}", 400, "n must be at least 1"},
    {CHAT, "{" M ",\"n\":1000000}", 400, "n must be at most 128"},
    {CHAT, "{" M ",\"n\":\"2\"}", 400, "n: Input should be a valid integer"},
    {CHAT, "{" M ",\"best_of\":4}", 400, "best_of is not supported"},
    {CHAT, "{" M ",\"max_tokens\":-1}", 400, "max_tokens must be at least 1, got -1."},
    {CHAT, "{" M ",\"max_tokens\":1.5}", 400, "max_tokens: Input should be a valid integer"},
    {CHAT, "{" M ",\"max_tokens\":\"9\"}", 400, "max_tokens: Input should be a valid integer"},
    {CHAT, "{" M ",\"max_completion_tokens\":-1}", 400, "max_tokens must be at least 1, got -1."},
    {CHAT, "{" M ",\"max_tokens\":0}", 400, "max_tokens must be at least 1, got 0."},
    {CHAT, "{" M ",\"max_completion_tokens\":0}", 400, "max_tokens must be at least 1, got 0."},
    {TEXT, "{\"prompt\":\"x\",\"max_tokens\":0}", 400, "max_tokens must be at least 1, got 0."},
    {CHAT, "{" M ",\"min_tokens\":-1}", 400, "min_tokens must be greater than or equal to 0, got -1."},
    {CHAT, "{" M ",\"min_tokens\":9,\"max_tokens\":5}", 400, "min_tokens must be less than or equal to max_tokens=5, got 9."},
    {CHAT, "{" M ",\"seed\":\"x\"}", 400, "seed: Input should be a valid integer"},
    {CHAT, "{" M ",\"priority\":99999999999}", 400, "priority is out of range"},
    {CHAT, "{" M ",\"truncate_prompt_tokens\":0}", 400, "truncate_prompt_tokens must be an integer >= 1"},
    {CHAT, "{" M ",\"truncate_prompt_tokens\":-5}", 400, "truncate_prompt_tokens must be an integer >= 1"},
    {CHAT, "{" M ",\"stream_interval\":0}", 400, "stream_interval must be at least 1"},
    /* lists */
    {CHAT, "{" M ",\"stop\":5}", 400, "stop: Input should be a valid string or list of strings"},
    {CHAT, "{" M ",\"stop\":[5]}", 400, "stop: Input should be a valid string"},
    {CHAT, "{" M ",\"stop\":\"\"}", 400, "stop cannot contain an empty string."},
    {CHAT, "{" M ",\"stop\":[\"a\",\"\"]}", 400, "stop cannot contain an empty string."},
    {CHAT, "{" M ",\"stop\":\"a\\u0000b\"}", 400, "NUL characters are not allowed"},
    {CHAT, "{" M ",\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\",\"h\"]}", 400,
     "stop: at most 16 items are allowed, got 17"},
    {CHAT, "{" M ",\"stop_token_ids\":5}", 400, "stop_token_ids: Input should be a valid list of integers"},
    {CHAT, "{" M ",\"stop_token_ids\":[\"a\"]}", 400, "stop_token_ids: item 0 should be a valid integer"},
    {CHAT, "{" M ",\"stop_token_ids\":[-1]}", 400, "stop_token_ids: item 0 is -1"},
    {CHAT, "{" M ",\"stop_token_ids\":[1,99999999999]}", 400, "stop_token_ids: item 1"},
    {CHAT, "{" M ",\"allowed_token_ids\":[]}", 400, "allowed_token_ids is not None and empty!"},
    {CHAT, "{" M ",\"allowed_token_ids\":{}}", 400, "allowed_token_ids: Input should be a valid list"},
    {CHAT, "{" M ",\"bad_words\":\"x\"}", 400, "bad_words: Input should be a valid list of strings"},
    {CHAT, "{" M ",\"bad_words\":[\"\"]}", 400, "bad_words cannot contain an empty string."},
    {CHAT, "{" M ",\"logit_bias\":[]}", 400, "logit_bias: Input should be a valid object"},
    {CHAT, "{" M ",\"logit_bias\":{\"a\":1}}", 400, "logit_bias: key 'a' is not a token id"},
    {CHAT, "{" M ",\"logit_bias\":{\"-1\":1}}", 400, "logit_bias: key '-1' is not a token id"},
    {CHAT, "{" M ",\"logit_bias\":{\"\":1}}", 400, "logit_bias: key '' is not a token id"},
    {CHAT, "{" M ",\"logit_bias\":{\"99999999999999999999\":1}}", 400, "is not a token id"},
    {CHAT, "{" M ",\"logit_bias\":{\"1\":101}}", 400, "must be a number in [-100, 100]"},
    {CHAT, "{" M ",\"logit_bias\":{\"1\":\"x\"}}", 400, "must be a number in [-100, 100]"},
    {CHAT, "{" M ",\"logit_bias\":{\"1\":null}}", 400, "must be a number in [-100, 100]"},
    /* logprobs */
    {CHAT, "{" M ",\"logprobs\":5}", 400, "logprobs: Input should be a valid boolean"},
    {CHAT, "{" M ",\"top_logprobs\":5}", 400, "when using `top_logprobs`, `logprobs` must be set to true."},
    {CHAT, "{" M ",\"logprobs\":true,\"top_logprobs\":-1}", 400, "`top_logprobs` must be a positive value."},
    {CHAT, "{" M ",\"prompt_logprobs\":-1}", 400, "`prompt_logprobs` must be a positive value."},
    {CHAT, "{" M ",\"prompt_logprobs\":1,\"stream\":true}", 400, "`prompt_logprobs` are not available when `stream=True`."},
    /* flags */
    {CHAT, "{" M ",\"stream\":\"yes\"}", 400, "stream: Input should be a valid boolean"},
    {CHAT, "{" M ",\"stream\":1}", 400, "stream: Input should be a valid boolean"},
    {CHAT, "{" M ",\"stream_options\":{\"include_usage\":true}}", 400, "Stream options can only be defined when `stream=True`."},
    {CHAT, "{" M ",\"stream\":true,\"stream_options\":5}", 400, "stream_options: Input should be a valid object"},
    {CHAT, "{" M ",\"stream\":true,\"stream_options\":{\"include_usage\":5}}", 400, "include_usage: Input should be a valid boolean"},
    {CHAT, "{" M ",\"echo\":5}", 400, "echo: Input should be a valid boolean"},
    {CHAT, "{" M ",\"ignore_eos\":\"x\"}", 400, "ignore_eos: Input should be a valid boolean"},
    {CHAT, "{" M ",\"skip_special_tokens\":0}", 400, "skip_special_tokens: Input should be a valid boolean"},
    {CHAT, "{" M ",\"return_reasoning\":\"x\"}", 400, "return_reasoning: Input should be a valid boolean"},
    {CHAT, "{" M ",\"enable_thinking\":\"false\"}", 400, "enable_thinking: Input should be a valid boolean"},
    {CHAT, "{" M ",\"chat_template_kwargs\":{\"enable_thinking\":\"false\"}}", 400, "enable_thinking: Input should be a valid boolean"},
    {CHAT, "{" M ",\"chat_template_kwargs\":[]}", 400, "chat_template_kwargs: Input should be a valid object"},
    {CHAT, "{" M ",\"add_generation_prompt\":true,\"continue_final_message\":true}", 400,
     "Cannot set both `continue_final_message` and `add_generation_prompt` to True."},
    {CHAT, "{" M ",\"continue_final_message\":true}", 400, "needs a last message of role assistant"},
    {CHAT, "{" M ",\"cache_salt\":\"\"}", 400, "'cache_salt' must be a non-empty string"},
    {CHAT, "{" M ",\"cache_salt\":5}", 400, "cache_salt: Input should be a valid string"},
    {CHAT, "{" M ",\"mm_processor_kwargs\":[]}", 400, "mm_processor_kwargs: Input should be a valid object"},
    {CHAT, "{" M ",\"mm_processor_kwargs\":{\"max_pixels\":-5}}", 400, "must be positive"},
    {CHAT, "{" M ",\"mm_processor_kwargs\":{\"size\":5}}", 400, "size: Input should be a valid object"},
    /* models and what is not built */
    {CHAT, "{\"model\":\"gpt-4\"," M "}", 404, "The model `gpt-4` does not exist. This server has `m`."},
    {CHAT, "{\"model\":5," M "}", 400, "model: Input should be a valid string"},
    {TEXT, "{\"model\":\"gpt-4\",\"prompt\":\"x\"}", 404, "The model `gpt-4` does not exist"},
    {"/tokenize", "{\"model\":\"gpt-4\",\"prompt\":\"x\"}", 404, "The model `gpt-4` does not exist"},
    {CHAT, "{" M ",\"chat_template\":\"{{x}}\"}", 400, "Chat template is passed with request"},
    {CHAT, "{" M ",\"tool_choice\":\"required\"}", 400, "tool_choice 'required' is not supported"},
    {CHAT, "{" M ",\"tool_choice\":{\"type\":\"function\"}}", 400, "tool_choice '(named function)' is not supported"},
    {CHAT, "{" M ",\"response_format\":{\"type\":\"json_object\"}}", 400, "response_format of type 'json_object' is not supported yet"},
    {CHAT, "{" M ",\"response_format\":{}}", 400, "response_format"},
    {CHAT, "{" M ",\"response_format\":\"json\"}", 400, "response_format: Input should be a valid object"},
    {CHAT, "{" M ",\"guided_json\":{}}", 400, "guided_json is not supported yet"},
    {CHAT, "{" M ",\"structured_outputs\":{\"regex\":\"(a+)+$\"}}", 400, "structured_outputs is not supported yet"},
    {CHAT, "{" M ",\"use_beam_search\":true}", 400, "use_beam_search is not supported yet"},
    /* text completions */
    {TEXT, "{}", 400, "prompt: Field required"},
    {TEXT, "{\"prompt\":5}", 400, "prompt must be a string, array of strings"},
    {TEXT, "{\"prompt\":{}}", 400, "prompt must be a string, array of strings"},
    {TEXT, "{\"prompt\":[]}", 400, "please provide at least one prompt"},
    {TEXT, "{\"prompt\":[null]}", 400, "prompt must be"},
    {TEXT, "{\"prompt\":[[]]}", 400, "prompt: it has no tokens"},
    {TEXT, "{\"prompt\":[1,\"a\"]}", 400, "prompt: item 1 should be a valid integer"},
    {TEXT, "{\"prompt\":[-1]}", 400, "prompt: item 0 is -1"},
    {TEXT, "{\"prompt\":[99999999999]}", 400, "prompt: item 0"},
    {TEXT, "{\"prompt\":[\"a\",5]}", 400, "prompt must be"},
    {TEXT, "{\"prompt\":[\"a\",\"b\"],\"n\":65}", 400, "prompts times n must be at most 128"},
    {TEXT, "{\"prompt\":\"x\",\"suffix\":\"y\"}", 400, "suffix is not currently supported"},
    {TEXT, "{\"prompt\":\"x\",\"logprobs\":-1}", 400, "`logprobs` must be a positive value."},
    {TEXT, "{\"prompt\":\"x\",\"logprobs\":true}", 400, "logprobs: Input should be a valid integer"},
    {TEXT, "{\"prompt\":\"x\",\"prompt_embeds\":\"AAAA\"}", 400, "prompt_embeds is not supported yet"},
    {TEXT, "{\"prompt\":[300],\"echo\":true}", 400, "token 300 is not in the vocabulary"},
    /* tokens */
    {"/tokenize", "{}", 400, "prompt or messages: Field required"},
    {"/tokenize", "{\"prompt\":5}", 400, "prompt or messages"},
    {"/tokenize", "{\"messages\":[]}", 400, "at least one message"},
    {"/detokenize", "{}", 400, "tokens: Field required"},
    {"/detokenize", "{\"tokens\":\"x\"}", 400, "tokens: Input should be a valid list of integers"},
    {"/detokenize", "{\"tokens\":[300]}", 400, "token 300 is not in the vocabulary"},
    {"/detokenize", "{\"tokens\":[-1]}", 400, "tokens: item 0 is -1"},
    {"/invocations", "{\"prompt\":5}", 400, "prompt must be"},
    {"/invocations", "{\"messages\":5}", 400, "messages: Input should be a valid list"},
};

static bool is_refused_as_expected(const test_reply *reply, int status, const char *text)
{
    struct json_object *value = NULL;
    agl_error err;
    if (agl_json_parse(&value, reply->body, reply->body_bytes, "answer", &err) != AGL_OK) return false;
    struct json_object *error = agl_json_member(value, "error");
    const char *message = json_object_get_string(agl_json_member(error, "message"));
    bool same = reply->status == status && json_object_get_int(agl_json_member(error, "code")) == status &&
                message != NULL && strstr(message, text) != NULL;
    json_object_put(value);
    return same;
}

static void bad_requests_are_refused_by_name(void **state)
{
    (void)state;
    int submitted = atomic_load(&test_fake()->submitted);
    size_t wrong = 0;
    for (size_t i = 0; i < AGL_COUNT(REFUSED); i++) {
        test_reply reply = test_post(&service, REFUSED[i].path, REFUSED[i].body);
        if (!is_refused_as_expected(&reply, REFUSED[i].status, REFUSED[i].message)) {
            print_error("case %zu: %s\nexpected %d '%s', got %d %s\n", i, REFUSED[i].body, REFUSED[i].status,
                        REFUSED[i].message, reply.status, reply.body);
            wrong++;
        }
        test_reply_free(&reply);
    }
    assert_int_equal(wrong, 0);
    assert_int_equal(atomic_load(&test_fake()->submitted), submitted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chat_answer_has_the_openai_form),
        cmocka_unit_test(stop_reason_names_what_was_asked_for),
        cmocka_unit_test(choices_come_by_n_and_by_prompt),
        cmocka_unit_test(a_stream_is_role_with_first_token_to_done),
        cmocka_unit_test(thinking_is_split_on_request),
        cmocka_unit_test(logprobs_have_both_forms),
        cmocka_unit_test(fields_reach_the_engine),
        cmocka_unit_test(messages_of_every_shape_are_read),
        cmocka_unit_test(tokens_go_both_ways),
        cmocka_unit_test(engine_statuses_become_http_statuses),
        cmocka_unit_test(late_errors_reach_the_client),
        cmocka_unit_test(bad_requests_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
