/* SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "server/call.h"
#include "server/sampling_fields.h"

#define MESSAGES_MAX 4096
#define PARTS_MAX 4096

/* What one messages array is read into. */
typedef struct {
    agl_fields *fields;
    const agl_call_defaults *defaults;
    uint32_t image_count;
} message_reader;

static agl_status no_memory(const agl_fields *fields)
{
    return agl_api_fail(fields->err, AGL_ERR_MEMORY, NULL, "no memory for the request");
}

static agl_status text_part(message_reader *reader, agl_part *part, struct json_object *value,
                            const char *where)
{
    if (!json_object_is_type(value, json_type_string)) {
        return agl_api_fail(reader->fields->err, AGL_ERR_FORMAT, where, "%s: text must be a string", where);
    }
    part->kind = AGL_PART_TEXT;
    part->data = json_object_get_string(value);
    part->bytes = (size_t)json_object_get_string_len(value);
    return AGL_OK;
}

/* `value` is the URL or an object with one: both spellings are in the field. */
static agl_status image_part(message_reader *reader, agl_part *part, struct json_object *value,
                             const char *where)
{
    const agl_fields *fields = reader->fields;
    if (json_object_is_type(value, json_type_object)) value = agl_json_member(value, "url");
    if (value == NULL || !json_object_is_type(value, json_type_string)) {
        return agl_api_fail(fields->err, AGL_ERR_FORMAT, where,
                            "%s: image_url must be a URL or an object with a url", where);
    }
    if (reader->image_count == reader->defaults->media->count_max) {
        return agl_api_fail(fields->err, AGL_ERR_LIMIT, where,
                            "At most %u image(s) may be provided in one prompt.", reader->image_count);
    }
    reader->image_count++;
    part->kind = AGL_PART_IMAGE;
    return agl_media_fetch(&part->data, &part->bytes, fields->arena, reader->defaults->media,
                           json_object_get_string(value), (size_t)json_object_get_string_len(value), where,
                           fields->err);
}

static const struct {
    const char *type;       /* of the part                        */
    const char *member;     /* that holds its value               */
    bool is_image;
} PART_TYPES[] = {
    {"text", "text", false},           {"input_text", "text", false},  {"output_text", "text", false},
    {"refusal", "refusal", false},     {"thinking", "thinking", false},
    {"image_url", "image_url", true},  {"input_image", "image_url", true}, {"image", "image", true},
};

static agl_status unknown_part(message_reader *reader, const char *type, const char *where)
{
    static const char *const OTHER_MEDIA[] = {"input_audio", "audio_url", "audio", "video_url", "video", "file"};
    for (size_t i = 0; i < AGL_COUNT(OTHER_MEDIA); i++) {
        if (strcmp(type, OTHER_MEDIA[i]) != 0) continue;
        return agl_api_fail(reader->fields->err, AGL_ERR_UNSUPPORTED, where,
                            "%s: content of type '%s' is not supported by this model", where, type);
    }
    return agl_api_fail(reader->fields->err, AGL_ERR_ARGUMENT, where, "%s: Unknown part type: '%.60s'", where,
                        type);
}

static agl_status parse_part(message_reader *reader, agl_part *part, struct json_object *object,
                             const char *where)
{
    part->where = where;
    if (json_object_is_type(object, json_type_string)) return text_part(reader, part, object, where);
    struct json_object *type = agl_json_member(object, "type");
    if (!json_object_is_type(object, json_type_object) ||
        (type != NULL && !json_object_is_type(type, json_type_string))) {
        return agl_api_fail(reader->fields->err, AGL_ERR_FORMAT, where,
                            "%s: a content part must be an object with a type", where);
    }
    const char *name = type != NULL ? json_object_get_string(type) : NULL;
    for (size_t i = 0; i < AGL_COUNT(PART_TYPES); i++) {
        struct json_object *value = agl_json_member(object, PART_TYPES[i].member);
        /* Without a type the member speaks for itself. */
        if (name != NULL ? strcmp(name, PART_TYPES[i].type) != 0 : value == NULL) continue;
        if (value == NULL) {
            return agl_api_fail(reader->fields->err, AGL_ERR_FORMAT, where, "%s: %s is missing", where,
                                PART_TYPES[i].member);
        }
        return PART_TYPES[i].is_image ? image_part(reader, part, value, where)
                                      : text_part(reader, part, value, where);
    }
    return unknown_part(reader, name != NULL ? name : "", where);
}

static const char *path_of(const agl_fields *fields, size_t message, size_t part, bool has_part)
{
    char path[64];
    int bytes = has_part ? snprintf(path, sizeof path, "messages[%zu].content[%zu]", message, part)
                         : snprintf(path, sizeof path, "messages[%zu].content", message);
    return agl_arena_string(fields->arena, path, (size_t)bytes);
}

static agl_status parse_content(message_reader *reader, agl_message *message, struct json_object *content,
                                size_t index)
{
    const agl_fields *fields = reader->fields;
    if (content == NULL) return AGL_OK; /* an assistant turn that only called tools */
    bool is_array = json_object_is_type(content, json_type_array);
    if (!is_array && !json_object_is_type(content, json_type_string)) {
        return agl_api_fail(fields->err, AGL_ERR_FORMAT, path_of(fields, index, 0, false),
                            "messages[%zu].content must be a string or a list of parts", index);
    }
    size_t count = is_array ? json_object_array_length(content) : 1;
    if (count > PARTS_MAX) {
        return agl_api_fail(fields->err, AGL_ERR_LIMIT, path_of(fields, index, 0, false),
                            "messages[%zu].content: at most %d parts are allowed", index, PARTS_MAX);
    }
    agl_part *parts = agl_arena_alloc(fields->arena, (count + 1) * sizeof *parts);
    if (parts == NULL) return no_memory(fields);
    for (size_t i = 0; i < count; i++) {
        const char *where = path_of(fields, index, i, is_array);
        if (where == NULL) return no_memory(fields);
        struct json_object *part = is_array ? json_object_array_get_idx(content, i) : content;
        AGL_TRY(parse_part(reader, &parts[i], part, where));
    }
    message->parts = parts;
    message->part_count = count;
    return AGL_OK;
}

static agl_status parse_role(const agl_fields *fields, agl_message *message, struct json_object *object,
                             size_t index)
{
    static const struct {
        const char *name, *role;
    } ROLES[] = {
        {"user", "user"}, {"assistant", "assistant"}, {"system", "system"}, {"developer", "system"},
        {"tool", "tool"}, {"function", "tool"},
    };
    struct json_object *role = agl_json_member(object, "role");
    char path[48];
    snprintf(path, sizeof path, "messages[%zu].role", index);
    if (role == NULL || !json_object_is_type(role, json_type_string)) {
        return agl_api_fail(fields->err, AGL_ERR_FORMAT, path, "%s is missing or not a string", path);
    }
    for (size_t i = 0; i < AGL_COUNT(ROLES); i++) {
        if (strcmp(json_object_get_string(role), ROLES[i].name) != 0) continue;
        message->role = ROLES[i].role;
        return AGL_OK;
    }
    return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, path,
                        "%s: '%.40s' is not one of system, developer, user, assistant, tool", path,
                        json_object_get_string(role));
}

static agl_status parse_messages(agl_call *call, message_reader *reader)
{
    const agl_fields *fields = reader->fields;
    struct json_object *array = agl_json_member(fields->object, "messages");
    if (array == NULL || !json_object_is_type(array, json_type_array)) {
        return agl_api_fail(fields->err, AGL_ERR_FORMAT, "messages", "messages: %s",
                            array == NULL ? "Field required" : "Input should be a valid list");
    }
    size_t count = json_object_array_length(array);
    if (count == 0) {
        return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "messages", "messages: at least one message is needed");
    }
    if (count > MESSAGES_MAX) {
        return agl_api_fail(fields->err, AGL_ERR_LIMIT, "messages", "messages: at most %d are allowed, got %zu",
                            MESSAGES_MAX, count);
    }
    agl_message *messages = agl_arena_alloc(fields->arena, count * sizeof *messages);
    if (messages == NULL) return no_memory(fields);
    for (size_t i = 0; i < count; i++) {
        struct json_object *object = json_object_array_get_idx(array, i);
        if (!json_object_is_type(object, json_type_object)) {
            return agl_api_fail(fields->err, AGL_ERR_FORMAT, "messages", "messages[%zu] must be an object", i);
        }
        AGL_TRY(parse_role(fields, &messages[i], object, i));
        AGL_TRY(parse_content(reader, &messages[i], agl_json_member(object, "content"), i));
    }
    call->options.messages = messages;
    call->options.message_count = count;
    return AGL_OK;
}

/* enable_thinking stands at the top level, in chat_template_kwargs, or in the server's defaults. */
static agl_status parse_thinking(agl_call *call, const agl_fields *fields, const agl_call_defaults *defaults)
{
    bool thinking = true;
    agl_fields inner = {.object = defaults->template_kwargs, .arena = fields->arena, .err = fields->err};
    AGL_TRY(agl_field_bool(&inner, "enable_thinking", &thinking));

    const char *effort = NULL;
    AGL_TRY(agl_field_text(fields, "reasoning_effort", &effort));
    if (effort != NULL) thinking = strcmp(effort, "none") != 0;

    struct json_object *kwargs = NULL;
    AGL_TRY(agl_field_object(fields, "chat_template_kwargs", &kwargs));
    if (kwargs != NULL) {
        inner.object = kwargs;
        AGL_TRY(agl_field_bool(&inner, "enable_thinking", &thinking));
        AGL_TRY(agl_field_bool(&inner, "return_reasoning", &call->split_reasoning));
    }
    struct json_object *anthropic = agl_json_member(fields->object, "thinking");
    if (json_object_is_type(anthropic, json_type_object)) { /* {"type": "disabled"}: Zhipu's own service */
        struct json_object *type = agl_json_member(anthropic, "type");
        if (json_object_is_type(type, json_type_string)) {
            thinking = strcmp(json_object_get_string(type), "disabled") != 0;
        }
    }
    AGL_TRY(agl_field_bool(fields, "enable_thinking", &thinking));
    call->options.chat.disable_thinking = !thinking;
    return AGL_OK;
}

agl_status agl_messages_parse(agl_call *call, agl_fields *fields, const agl_call_defaults *defaults)
{
    if (agl_field_present(fields, "chat_template")) {
        return agl_api_fail(fields->err, AGL_ERR_DENIED, "chat_template",
                            "Chat template is passed with request, but this server does not run templates "
                            "from requests.");
    }
    bool add_prompt = true, continue_last = false;
    AGL_TRY(agl_field_bool(fields, "add_generation_prompt", &add_prompt));
    AGL_TRY(agl_field_bool(fields, "continue_final_message", &continue_last));
    /* The default of add_generation_prompt gives way; only both set by the client clash. */
    if (continue_last && add_prompt && agl_field_present(fields, "add_generation_prompt")) {
        return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "continue_final_message",
                            "Cannot set both `continue_final_message` and `add_generation_prompt` to True.");
    }
    call->options.chat.continue_final_message = continue_last;
    call->options.chat.no_generation_prompt = continue_last || !add_prompt;
    call->options.chat.content_format = &defaults->content_format;

    message_reader reader = {.fields = fields, .defaults = defaults};
    AGL_TRY(parse_messages(call, &reader));

    const agl_message *last = &call->options.messages[call->options.message_count - 1];
    bool is_assistant = strcmp(last->role, "assistant") == 0;
    if (continue_last && !is_assistant) {
        return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "continue_final_message",
                            "continue_final_message needs a last message of role assistant, it is %s", last->role);
    }
    if (is_assistant && last->part_count == 1 && last->parts[0].kind == AGL_PART_TEXT) {
        call->echo_text = last->parts[0].data;
        call->echo_bytes = last->parts[0].bytes;
    }
    return parse_thinking(call, fields, defaults);
}

static agl_status parse_tools(const agl_fields *fields)
{
    static atomic_flag warned = ATOMIC_FLAG_INIT;
    struct json_object *choice = agl_json_member(fields->object, "tool_choice");
    bool is_text = json_object_is_type(choice, json_type_string);
    if (choice != NULL && !(is_text && (strcmp(json_object_get_string(choice), "auto") == 0 ||
                                        strcmp(json_object_get_string(choice), "none") == 0))) {
        return agl_api_fail(fields->err, AGL_ERR_UNSUPPORTED, "tool_choice",
                            "tool_choice '%.60s' is not supported; only \"auto\" and \"none\" are",
                            is_text ? json_object_get_string(choice) : "(named function)");
    }
    struct json_object *tools = agl_json_member(fields->object, "tools");
    if (tools != NULL && !json_object_is_type(tools, json_type_array)) {
        return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "tools", "tools must be a list");
    }
    if (tools != NULL && !atomic_flag_test_and_set(&warned)) {
        agl_log_warning("a request carries tools: they are ignored, this model answers in text");
    }
    return AGL_OK;
}

/* logprobs: true with top_logprobs: k. */
static agl_status parse_logprobs(agl_call *call, const agl_fields *fields)
{
    int64_t top = 0;
    AGL_TRY(agl_field_bool(fields, "logprobs", &call->logprobs));
    AGL_TRY(agl_field_integer(fields, "top_logprobs", &top));
    if (top < 0 || top > INT32_MAX) {
        return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "top_logprobs",
                            "`top_logprobs` must be a positive value.");
    }
    if (top > 0 && !call->logprobs) {
        return agl_api_fail(fields->err, AGL_ERR_ARGUMENT, "top_logprobs",
                            "when using `top_logprobs`, `logprobs` must be set to true.");
    }
    if (call->logprobs) call->options.sampling.logprobs = (int32_t)top;
    return AGL_OK;
}

/* max_completion_tokens wins over max_tokens, as in vLLM; null is no limit. */
static agl_status parse_max_tokens(agl_call *call, const agl_fields *fields)
{
    agl_sampling *sampling = &call->options.sampling;
    int64_t value = 0;
    AGL_TRY(agl_field_integer(fields, "max_completion_tokens", &value));
    if (agl_field_present(fields, "max_completion_tokens")) {
        if (value < 1) return agl_max_tokens_refuse(fields, "max_completion_tokens", value);
        sampling->max_tokens = value > INT32_MAX ? INT32_MAX : (uint32_t)value;
    } else if (agl_field_present(fields, "max_tokens") && sampling->max_tokens == 0) {
        return agl_max_tokens_refuse(fields, "max_tokens", 0);
    }
    return AGL_OK;
}

agl_status agl_chat_request_parse(agl_call *call, agl_fields *fields, const agl_call_defaults *defaults)
{
    *call = (agl_call){.is_chat = true, .prompt_count = 1, .response_role = defaults->response_role};
    AGL_TRY(agl_call_common_parse(call, fields, defaults));
    AGL_TRY(parse_max_tokens(call, fields));
    AGL_TRY(parse_logprobs(call, fields));
    AGL_TRY(parse_tools(fields));
    return agl_messages_parse(call, fields, defaults);
}
