/* SPDX-License-Identifier: Apache-2.0
 *
 * agl.h - the public interface of libagl: load a GLM-4V checkpoint, submit
 * requests, read their tokens.
 *
 * An engine owns one model on one device group and one thread that runs it.
 * Any number of threads may submit requests at the same time. A request is
 * read by one thread at a time through agl_request_next; text that comes out
 * is whole UTF-8 characters, already cut at stop tokens and stop strings.
 *
 *     agl_engine *engine;
 *     agl_engine_create(&engine, &(agl_engine_options){ .model = "dir" }, &err);
 *     agl_request *request;
 *     agl_request_submit(&request, engine, &options, &err);
 *     do { agl_request_next(request, -1, &event); ... } while (event.kind != AGL_EVENT_DONE);
 *     agl_request_destroy(request);
 *     agl_engine_destroy(engine);
 *
 * Every struct's zero value means "default", but for agl_sampling, which
 * agl_sampling_init fills. The library never exits, aborts on bad input or
 * prints; it logs through the callback of agl_log_set. */
#ifndef AGL_AGL_H
#define AGL_AGL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

#define AGL_VERSION "0.1.0"

/* ---- errors ---------------------------------------------------------- */

#define AGL_STATUS_LIST(X)                                                     \
    X(AGL_OK, "ok")                                                            \
    X(AGL_ERR_ARGUMENT, "invalid argument")       /* the caller's value        */ \
    X(AGL_ERR_FORMAT, "malformed data")           /* bytes that do not parse   */ \
    X(AGL_ERR_UNSUPPORTED, "unsupported")         /* valid, but not built here */ \
    X(AGL_ERR_NOT_FOUND, "not found")                                          \
    X(AGL_ERR_DENIED, "denied")                   /* a policy flag forbids it  */ \
    X(AGL_ERR_LIMIT, "limit exceeded")            /* a stated maximum          */ \
    X(AGL_ERR_CONTEXT, "context length exceeded") /* prompt over the window    */ \
    X(AGL_ERR_BUSY, "overloaded")                 /* queue full: retry later   */ \
    X(AGL_ERR_MEMORY, "out of memory")                                         \
    X(AGL_ERR_IO, "input/output error")                                        \
    X(AGL_ERR_CANCELLED, "cancelled")                                          \
    X(AGL_ERR_TIMEOUT, "timed out")                                            \
    X(AGL_ERR_DEVICE, "device failure")                                        \
    X(AGL_ERR_INTERNAL, "internal error")

typedef enum {
#define AGL_X(name, text) name,
    AGL_STATUS_LIST(AGL_X)
#undef AGL_X
    AGL_STATUS_COUNT
} agl_status;

/* The message is one line that says what is wrong, where, and what would be right. */
typedef struct {
    agl_status status;
    char message[1024];
} agl_error;

const char *agl_status_text(agl_status status);

/* ---- log ------------------------------------------------------------- */

typedef enum { AGL_LOG_DEBUG, AGL_LOG_INFO, AGL_LOG_WARNING, AGL_LOG_ERROR } agl_log_level;
typedef void (*agl_log_fn)(void *user, agl_log_level level, const char *line);

/* Process-wide sink; NULL silences. Called from any thread. */
void agl_log_set(agl_log_fn fn, void *user);

/* ---- engine ---------------------------------------------------------- */

typedef struct agl_engine agl_engine;
typedef struct agl_request agl_request;

/* Called from agl_engine_create's thread: phase name, fraction 0..1 of that phase. */
typedef void (*agl_progress_fn)(void *user, const char *phase, double fraction);

/* How list contents become prompt text: see docs/SERVER.md. */
typedef enum { AGL_CONTENT_STRING, AGL_CONTENT_OPENAI } agl_content_format;

typedef struct {
    const char *model;          /* checkpoint folder, or a hub id in the local hub cache        */
    const char *tokenizer;      /* folder or tokenizer.json; NULL: the model folder             */
    const char *device;         /* NULL/"auto" (a GPU if there is one), "cpu", "cuda", "cuda:N" */
    const char *dtype;          /* NULL/"auto", "float32", "bfloat16", "float16" ("half")        */
    const char *kv_cache_dtype; /* NULL/"auto", "float32", "bfloat16", "float16"                */
    const char *load_format;    /* NULL/"auto", "safetensors", "dummy" (random weights)         */
    const char *quantization;   /* NULL: as the checkpoint says                                 */
    const char *generation_config;          /* NULL/"auto": the checkpoint's; "vllm": none; or a folder */
    const char *override_generation_config; /* JSON object merged over it                        */
    uint32_t max_model_len;          /* tokens; 0: the checkpoint's maximum, as memory allows    */
    uint32_t max_num_seqs;           /* sequences decoded at once; 0: 256 (CPU: 64)              */
    uint32_t max_num_batched_tokens; /* rows of one step; 0: 2048, from 60 GiB on 8192 (CPU: 512) */
    uint32_t block_size;             /* tokens of a KV page; 0: 16                               */
    uint32_t threads;                /* CPU threads; 0: all available                            */
    uint32_t max_queued;             /* waiting requests before AGL_ERR_BUSY; 0: 1024            */
    uint32_t max_images;             /* per request; 0: 10                                       */
    uint32_t tensor_parallel_size;   /* 0: 1                                                     */
    uint32_t max_logprobs;           /* 0: 20                                                    */
    uint64_t max_pixels;             /* cap on the real pixels H*W of a resized image; 0: checkpoint's */
    uint64_t kv_cache_bytes;         /* 0: from memory_utilization (CPU: 4 GiB or what fits)     */
    uint64_t encoder_cache_bytes;    /* vision rows kept by pixel digest; 0: 256 MiB             */
    double memory_utilization;       /* share of device memory; 0: 0.9                           */
    double stall_timeout_s;          /* pending work without a finished step for so long is a stall; 0: 600 */
    uint64_t seed;                   /* of requests without one, and of dummy weights            */
    bool disable_prefix_cache;
    bool disable_chunked_prefill;
    bool priority_scheduling;        /* lower agl_request_options.priority runs first            */
    bool enforce_eager;              /* no CUDA graphs                                           */
    agl_content_format content_format;
    bool no_special_in_user;         /* control tokens in user text stay plain text              */
    agl_progress_fn progress;
    void *progress_user;
} agl_engine_options;

/* Load everything and start the engine thread. Blocks; seconds for a 9B model. */
agl_status agl_engine_create(agl_engine **out, const agl_engine_options *options, agl_error *err);

/* Cancels what still runs, joins the engine thread, frees all. All requests
 * must have been destroyed. NULL is allowed. */
void agl_engine_destroy(agl_engine *engine);

/* Sampling defaults a request inherits: the checkpoint's generation_config. */
typedef struct {
    float temperature, top_p, min_p, repetition_penalty;
    int32_t top_k;              /* 0: off */
    uint32_t max_tokens;        /* 0: none */
} agl_sampling_defaults;

typedef struct {
    const char *root;           /* resolved checkpoint folder                       */
    const char *architecture;   /* "Glm4vForConditionalGeneration"                  */
    const char *template_family;/* "glm-4.1v", ...                                  */
    const char *dtype;          /* of the weights as computed: "bfloat16", ...      */
    const char *device;         /* "cpu (avx512, 2 threads)", ...                   */
    uint64_t parameters;
    uint64_t weight_bytes;
    uint32_t max_model_len;     /* tokens, prompt and answer together               */
    uint32_t vocab;
    int32_t end_token;          /* the tokenizer's eos_token, one of those that end a text; -1: none */
    uint32_t device_count;
    bool has_vision;
    agl_sampling_defaults sampling;
} agl_model_info;

/* Views live as long as the engine. */
agl_model_info agl_engine_model_info(const agl_engine *engine);

/* ---- requests -------------------------------------------------------- */

typedef enum { AGL_PART_TEXT, AGL_PART_IMAGE } agl_part_kind;

typedef struct {
    agl_part_kind kind;
    const void *data;           /* UTF-8 text, or the bytes of a PNG, JPEG or WebP file         */
    size_t bytes;
    const char *where;          /* for messages: "messages[2].content[0]"; NULL allowed         */
} agl_part;

typedef struct {
    const char *role;           /* "system", "user", "assistant", ...                           */
    const agl_part *parts;
    size_t part_count;
} agl_message;

typedef struct {
    bool no_generation_prompt;  /* leave out the opening of the assistant turn                  */
    bool continue_final_message;/* the last (assistant) message is left open to be continued    */
    bool disable_thinking;      /* render the no-think form of the template family              */
    const agl_content_format *content_format; /* NULL: the engine's                             */
} agl_chat_options;

typedef struct {
    int32_t token;
    float bias;
} agl_logit_bias;

/* NaN (floats) means "use the model's default"; agl_sampling_init sets that. */
typedef struct {
    float temperature;          /* 0: arg-max after penalties                                   */
    float top_p;                /* (0, 1]                                                       */
    float min_p;                /* [0, 1]                                                       */
    float repetition_penalty;   /* > 0; prompt and output tokens                                */
    float frequency_penalty;    /* [-2, 2]; output tokens only                                  */
    float presence_penalty;     /* [-2, 2]; output tokens only                                  */
    int32_t top_k;              /* 0 or -1: off; INT32_MIN: default                             */
    uint32_t n;                 /* choices, >= 1                                                */
    uint32_t max_tokens;        /* 0: as many as fit the window                                 */
    uint32_t min_tokens;        /* stop tokens are masked until then                            */
    bool has_seed;
    uint64_t seed;
    bool ignore_eos;
    bool include_stop_str;      /* leave the matched stop string in the text                    */
    bool keep_special_tokens;   /* show special tokens in the text                              */
    int32_t logprobs;           /* -1: none; 0..20 alternatives besides the chosen token        */
    int32_t prompt_logprobs;    /* -1: none                                                     */
    const char *const *stop;    /* stop strings                                                 */
    size_t stop_count;
    const int32_t *stop_tokens;
    size_t stop_token_count;
    const agl_logit_bias *logit_bias;
    size_t logit_bias_count;
    const int32_t *allowed_tokens; /* NULL: all                                                 */
    size_t allowed_token_count;
    const char *const *bad_words;
    size_t bad_word_count;
} agl_sampling;

void agl_sampling_init(agl_sampling *sampling);

/* Exactly one of messages, text, tokens is the prompt. Everything is copied. */
typedef struct {
    const char *id;             /* for the log; NULL allowed                                    */
    const agl_message *messages;
    size_t message_count;
    agl_chat_options chat;
    const char *text;
    size_t text_bytes;
    bool no_special_tokens;     /* text prompts: skip the tokenizer's post-processor            */
    const int32_t *tokens;
    size_t token_count;
    uint32_t truncate_prompt_tokens; /* keep the last that many tokens; 0: off                  */
    /* Tokens of the answer that a broken-off request delivered: this one goes on behind them as
     * if it had never stopped, with the same penalties, random numbers and limits (max_tokens
     * counts them). Events hold only what is new. Needs n = 1 and no prompt_logprobs. */
    const int32_t *resume_tokens;
    size_t resume_token_count;
    agl_sampling sampling;
    int32_t priority;           /* lower runs first under priority scheduling                   */
    const char *cache_salt;     /* separates prefix caches; NULL allowed                        */
    uint32_t deadline_ms;       /* from submit to the last token; 0: none                       */
    uint64_t max_pixels;        /* lowers the engine's cap for this request; 0: engine's        */
    /* Called from the engine thread when agl_request_next would have news; must
     * return at once and not call into the request. NULL allowed. */
    void (*notify)(void *user);
    void *notify_user;
} agl_request_options;

/* Render, tokenise, decode and resize images on the calling thread, then queue.
 * Errors are the client's unless the status is BUSY, MEMORY, DEVICE or INTERNAL. */
agl_status agl_request_submit(agl_request **out, agl_engine *engine,
                              const agl_request_options *options, agl_error *err);

typedef enum {
    AGL_FINISH_NONE,
    AGL_FINISH_STOP,     /* stop token or stop string */
    AGL_FINISH_LENGTH,   /* max_tokens or the window  */
    AGL_FINISH_ABORT     /* cancelled                 */
} agl_finish;

typedef struct {
    int32_t token;
    float logprob;       /* natural log of the probability before temperature and filters */
    int32_t rank;        /* 1: most likely; 0: not computed                                */
} agl_token_logprob;

typedef struct {
    agl_token_logprob chosen;
    const agl_token_logprob *top; /* best first */
    size_t top_count;
} agl_token_event;

typedef struct {
    uint32_t prompt_tokens;     /* resumed ones included                     */
    uint32_t completion_tokens; /* all choices; new ones only                */
    uint32_t cached_tokens;     /* of the prompt, served from the prefix cache */
    uint32_t image_tokens;      /* of the prompt */
    uint32_t image_count;
    uint32_t preemptions;
    /* Seconds. queue: submit to first scheduling; prefill: to first token; decode: to the last. */
    double media_decode_s, media_resize_s, vision_s, queue_s, prefill_s, decode_s, ttft_s, total_s;
} agl_usage;

typedef enum {
    AGL_EVENT_NONE,      /* nothing within the timeout                                      */
    AGL_EVENT_PROMPT,    /* tokens[] are the prompt's logprobs (if asked), before any text   */
    AGL_EVENT_TEXT,      /* new text and/or tokens of one choice                            */
    AGL_EVENT_FINISH,    /* a choice ended; carries its last text and tokens too            */
    AGL_EVENT_ERROR,     /* the request failed: status and message; DONE follows            */
    AGL_EVENT_DONE       /* nothing follows; usage is final                                 */
} agl_event_kind;

/* Views are valid until the next call on the same request. */
typedef struct {
    agl_event_kind kind;
    uint32_t choice;
    const char *text;               /* not terminated; whole UTF-8 characters */
    size_t text_bytes;
    const agl_token_event *tokens;
    size_t token_count;
    agl_finish finish;
    int32_t stop_token;             /* the token that stopped it, or -1             */
    const char *stop_string;        /* the string that stopped it, or NULL          */
    agl_usage usage;                /* so far                                       */
    agl_status status;
    const char *message;
} agl_event;

/* Wait up to timeout_ms (negative: for ever; 0: poll) for the next event. */
void agl_request_next(agl_request *request, int timeout_ms, agl_event *event);

/* Prompt as tokenised (image placeholders expanded); a view. */
const int32_t *agl_request_prompt(const agl_request *request, size_t *count);

/* Stop within one step, from any thread. Events up to DONE still follow. */
void agl_request_cancel(agl_request *request);

/* Cancels if needed. NULL is allowed. */
void agl_request_destroy(agl_request *request);

/* ---- tokens ---------------------------------------------------------- */

/* Both return tokens to be freed with agl_free. Chat images are decoded for their size only. */
agl_status agl_tokenize(agl_engine *engine, const char *text, size_t bytes, bool add_special,
                        int32_t **tokens, size_t *count, agl_error *err);
agl_status agl_tokenize_chat(agl_engine *engine, const agl_message *messages, size_t message_count,
                             const agl_chat_options *chat, int32_t **tokens, size_t *count,
                             agl_error *err);

/* Text of the tokens, special ones included; free with agl_free. Unknown ids are an error. */
agl_status agl_detokenize(agl_engine *engine, const int32_t *tokens, size_t count, char **text,
                          size_t *bytes, agl_error *err);

/* Raw bytes of one token (may be part of a character); a view; NULL for an unknown id. */
const char *agl_token_bytes(const agl_engine *engine, int32_t token, size_t *bytes);

void agl_free(void *memory);

/* ---- operations ------------------------------------------------------ */

typedef struct {
    uint32_t running, waiting;             /* sequences, requests                     */
    uint32_t kv_pages, kv_pages_free, kv_page_tokens, kv_pages_cached;
    uint64_t kv_bytes, weight_bytes, workspace_bytes, encoder_cache_bytes_used;
    uint64_t steps, preemptions;
    uint64_t prompt_tokens, cached_prompt_tokens, generated_tokens;
    uint64_t prefix_queries, prefix_hits;  /* tokens                                  */
    uint64_t encoder_queries, encoder_hits;/* images                                  */
    uint64_t vision_runs, text_only_requests;
    uint64_t aborts_queue, aborts_prefill, aborts_decode;
    uint64_t prompt_steps;                 /* of the steps, those with rows of prompts */
    uint64_t prompt_rows, decode_rows;     /* computed in all steps                   */
    double step_s;                         /* summed over all steps                   */
    double prompt_step_s;                  /* of it, steps with rows of prompts       */
    double schedule_s;                     /* of it, when the device waited for the host */
    double overlapped_s;                   /* of it, work of the host while the device runs */
    double last_step_age_s;                /* since the last finished step            */
    bool stalled;                          /* work pending, no step for too long      */
    agl_status fatal;                      /* AGL_OK unless the device was lost       */
} agl_engine_stats;

agl_engine_stats agl_engine_stats_get(agl_engine *engine);

/* Forget cached prefixes and vision rows that nobody uses. */
void agl_engine_cache_reset(agl_engine *engine);

/* What a checkpoint folder holds, as UTF-8 JSON to be freed with agl_free: architecture,
 * parameters and bytes per part, dtypes, quantisation, template family, and "refused":
 * the reasons this build would not serve it. */
agl_status agl_checkpoint_inspect(const char *model, char **json, agl_error *err);

/* ---- planning ---------------------------------------------------------- */

/* Hardware to plan for; it need not be this machine. */
typedef struct {
    bool gpu;                    /* 16-bit activations; false: a CPU with F32 activations       */
    uint64_t memory_bytes;       /* of one device                                               */
    uint32_t count;              /* devices that share one model; 0: 1                          */
    double layer_bits;           /* stored bits of a weight of the decoder's linear layers;
                                  * 0: the dtype's; 4.125: INT4 in groups of 128                */
    double lm_head_bits;         /* the same of the output layer                                */
    uint32_t image_width, image_height; /* a picture whose tokens are counted; 0: none          */
} agl_plan_options;

typedef struct {
    /* Bytes of one device. */
    uint64_t memory_bytes, budget_bytes;
    uint64_t weight_bytes;
    uint64_t activation_bytes;   /* scratch of the decoder, inputs of a step, workspace           */
    uint64_t vision_bytes;       /* scratch of the vision tower, and the pixels of one image    */
    uint64_t encoder_bytes;      /* kept vision rows                                            */
    uint64_t kv_room_bytes;      /* left of the budget for KV pages; 0: none                    */
    uint64_t kv_bytes;           /* KV pages that an engine would reserve of it                 */
    uint64_t kv_bytes_per_token;
    uint64_t kv_tokens;          /* in kv_bytes                                                 */
    uint32_t max_model_len, max_num_seqs, page_tokens;

    /* The network; all devices together. */
    const char *dtype;           /* of the weights as computed                                  */
    uint64_t parameters, embedding_parameters, layer_parameters, lm_head_parameters, vision_parameters;
    uint64_t decode_weight_bytes;/* read by every decode step: layers and lm_head               */
    double token_flops;          /* linear layers of the decoder, for each token                */
    double lm_head_flops;        /* for each row of logits                                      */
    double attention_flops;      /* for each token and each token of its context                */
    double patch_flops;          /* vision: linear layers, for each patch                       */
    double patch_pair_flops;     /* vision attention: times patches squared                     */
    double cell_flops;           /* vision: merging, for each token that leaves the tower       */
    uint32_t layers, hidden, vision_blocks, vision_hidden;
    uint32_t image_patches, image_tokens;

    const char *not_built;       /* why this build could not run it; NULL: it could             */
} agl_plan;

/* What the device that would serve reaches at best. */
typedef struct {
    char name[128];              /* "NVIDIA H200"; of a CPU the instruction set and threads     */
    bool gpu;
    uint64_t memory_bytes;       /* of the device                                               */
    double read_rate;            /* bytes a second                                              */
    double multiply_rate;        /* FLOP a second of a large product, in the activations' type  */
} agl_device_limits;

/* Open the device that `options` choose (device, dtype, threads; the dtype of model, if any) and
 * measure it: some seconds, up to 2 GiB of its memory and 0.5 GiB of the host's, all given back. */
agl_status agl_device_limits_measure(agl_device_limits *out, const agl_engine_options *options,
                                     agl_error *err);

/* One operation of the forward pass on its own. */
typedef struct {
    const char *name;            /* "gate, up and SwiGLU"                                       */
    char shape[48];              /* "27392 x 4096"                                              */
    int64_t rows;
    double seconds;
    double bytes, flops;         /* at least read and written; multiplied                       */
} agl_kernel_time;

typedef bool (*agl_kernel_fn)(void *user, const agl_kernel_time *time); /* false: enough */

/* Time the operations of options->model (its config.json is enough) on random values, on the
 * device that `options` choose, the best of `rounds`: `tell` hears of each at once, in this
 * thread. A few GiB of memory for the 9B shape. ERR_CANCELLED: `tell` had enough. */
agl_status agl_kernels_measure(const agl_engine_options *options, uint32_t rounds, agl_kernel_fn tell,
                               void *user, agl_error *err);

/* Where every byte would go, by the arithmetic that agl_engine_create uses, without weights:
 * config.json (and preprocessor_config.json) are enough. ERR_MEMORY: it does not fit, the
 * message says what helps, and *out is filled but for the KV cache. Any thread. */
agl_status agl_plan_make(agl_plan *out, const agl_engine_options *options,
                         const agl_plan_options *hardware, agl_error *err);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif

#endif
