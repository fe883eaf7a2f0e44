/* SPDX-License-Identifier: Apache-2.0
 *
 * serve.c - `autoglm serve`: the port opens first and answers 503 with progress,
 * then the model is loaded, then requests are served until a signal comes.
 *
 *     first SIGINT or SIGTERM    refuse new requests, let the running ones end
 *     second                     end now */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/commands.h"
#include "cli/loader.h"

/* How often the main thread looks whether the device was lost or hangs. */
enum { WATCH_MS = 1000, DRAIN_POLL_MS = 20 };

typedef struct {
    agl_cli_options options;
    agl_console *console;
    agl_loader loader;
    agl_server *server;
    agl_engine *engine;
    int signal_fd;
    atomic_bool drained;
} service;

static void report_model(const service *self)
{
    const agl_cli_options *options = &self->options;
    agl_model_info info = agl_engine_model_info(self->engine);
    agl_engine_stats stats = agl_engine_stats_get(self->engine);
    agl_log_info("Model %s: %s, %s parameters, %s, on %s", info.root, info.architecture,
                 agl_human_count(info.parameters).text, info.dtype, info.device);
    agl_log_info("Memory: weights %s, keys and values %s (%u pages of %u tokens), workspace %s",
                 agl_human_bytes(stats.weight_bytes).text, agl_human_bytes(stats.kv_bytes).text, stats.kv_pages,
                 stats.kv_page_tokens, agl_human_bytes(stats.workspace_bytes).text);
    agl_log_info("Window %u tokens, template %s (%s layout), %s", info.max_model_len, info.template_family,
                 options->engine.content_format == AGL_CONTENT_OPENAI ? "openai" : "string",
                 info.has_vision ? "text and images" : "text only");
    agl_log_info("Sampling defaults: temperature %.6g, top_p %.6g, top_k %d, min_p %.6g, repetition_penalty %.6g",
                 (double)info.sampling.temperature, (double)info.sampling.top_p, info.sampling.top_k,
                 (double)info.sampling.min_p, (double)info.sampling.repetition_penalty);
    for (size_t i = 0; i < options->server.model_names.count; i++)
        agl_log_info("Served as \"%s\"", options->server.model_names.items[i]);
    if (options->demonstration)
        agl_log_warning("No --model was given: this is the small DEMONSTRATION model that comes with the program, "
                        "not AutoGLM-Phone-9B");
}

static void report_times(const agl_loader *loader)
{
    char line[512];
    int used = snprintf(line, sizeof line, "Loaded in %.2f s", loader->seconds);
    for (size_t i = 0; i < loader->phase_count && used < (int)sizeof line; i++)
        used += snprintf(line + used, sizeof line - (size_t)used, "%s %s %.2f s", i == 0 ? ":" : ",",
                         loader->phases[i].name, loader->phases[i].seconds);
    agl_log_info("%s", line);
}

/* The lines that scripts of other servers wait for. */
static void report_ready(const service *self)
{
    agl_model_info info = agl_engine_model_info(self->engine);
    unsigned gpus = strncmp(info.device, "cpu", 3) == 0 ? 0 : info.device_count;
    agl_log_info("Model loaded successfully with %u GPUs enabled.", gpus);
    agl_log_info("Application startup complete.");
    agl_log_info("autoglm running on %s (Press CTRL+C to quit)", agl_server_address(self->server));
}

static agl_status start(service *self, agl_error *err)
{
    AGL_TRY(agl_signals_open(&self->signal_fd, err));
    agl_log_info("Started server process [%ld]", (long)getpid());
    agl_log_info("Waiting for application startup.");
    AGL_TRY(agl_server_create(&self->server, &self->options.server, err));
    AGL_TRY(agl_server_start(self->server, err));
    agl_log_info("Listening on %s; requests get 503 until the model is loaded", agl_server_address(self->server));
    self->loader = (agl_loader){ .console = self->console, .server = self->server, .signal_fd = self->signal_fd,
                                 .quiet = self->options.quiet };
    agl_status status = agl_loader_run(&self->engine, &self->loader, &self->options.engine, AGL_EXIT_OK, err);
    if (status != AGL_OK) agl_server_set_failed(self->server, err != NULL ? err->message : "loading failed");
    return status;
}

/* The health routes say it too; a hung device is for the supervisor to restart, a slow one recovers. */
static void report_stall(const agl_engine_stats *stats, bool *stalled)
{
    if (stats->stalled && !*stalled)
        agl_log_error("The engine has not finished a step for %.1f s: %u sequences run, %u requests wait. "
                      "Health is 503 until it does", stats->last_step_age_s, stats->running, stats->waiting);
    if (!stats->stalled && *stalled) agl_log_warning("The engine finishes steps again");
    *stalled = stats->stalled;
}

/* Until a signal comes: OK. DEVICE if the engine died: a supervisor should start the process anew. */
static agl_status serve_until_signal(service *self, agl_error *err)
{
    bool stalled = false;
    while (!agl_signals_take(self->signal_fd, WATCH_MS)) {
        agl_engine_stats stats = agl_engine_stats_get(self->engine);
        agl_status fatal = stats.fatal;
        report_stall(&stats, &stalled);
        if (fatal != AGL_OK) return agl_fail(err, fatal, "the engine stopped: %s", agl_status_text(fatal));
    }
    return AGL_OK;
}

static void *drain(void *argument)
{
    service *self = argument;
    bool whole = agl_server_drain(self->server, (uint32_t)(self->options.shutdown_timeout_s * 1e3));
    if (!whole) agl_log_warning("Some requests were cut off after %.0f s", self->options.shutdown_timeout_s);
    atomic_store(&self->drained, true);
    return NULL;
}

/* Drain in a thread, so that this one sees a second signal. */
static void shut_down(service *self)
{
    agl_log_info("Shutting down");
    uint32_t active = agl_server_active(self->server);
    if (active > 0)
        agl_log_info("Waiting for %u requests to end, up to %.0f s (CTRL+C again to stop now)", active,
                     self->options.shutdown_timeout_s);
    pthread_t thread;
    if (pthread_create(&thread, NULL, drain, self) != 0) return;
    while (!atomic_load(&self->drained)) {
        if (!agl_signals_take(self->signal_fd, DRAIN_POLL_MS)) continue;
        agl_log_warning("Second signal: stopping now");
        if (self->options.server.uds != NULL) unlink(self->options.server.uds);
        fflush(NULL);
        _Exit(AGL_EXIT_OK); /* requests still run in other threads; they end with the process */
    }
    pthread_join(thread, NULL);
    agl_log_info("Application shutdown complete.");
}

static int run(service *self)
{
    agl_error err = { 0 };
    agl_status status = start(self, &err);
    if (status == AGL_OK) {
        agl_server_set_engine(self->server, self->engine);
        if (!self->options.quiet) {
            report_model(self);
            report_times(&self->loader);
        }
        report_ready(self);
        status = serve_until_signal(self, &err);
        if (status == AGL_OK) shut_down(self);
    }
    if (status != AGL_OK) agl_log_error("%s", err.message);
    agl_server_destroy(self->server);
    agl_engine_destroy(self->engine);
    if (self->signal_fd >= 0) close(self->signal_fd);
    agl_log_info("Finished server process [%ld]", (long)getpid());
    return status == AGL_OK ? AGL_EXIT_OK : AGL_EXIT_FAILED;
}

int agl_command_serve(agl_console *console, int argc, char **argv)
{
    service *self = calloc(1, sizeof *self); /* the options alone are several pages */
    if (self == NULL) {
        fprintf(stderr, "autoglm serve: out of memory\n");
        return AGL_EXIT_FAILED;
    }
    self->console = console;
    self->signal_fd = -1;
    int code = agl_command_begin(console, &self->options, AGL_CLI_SERVE, argc, argv);
    if (code < 0) code = run(self);
    agl_cli_options_deinit(&self->options);
    free(self);
    return code;
}
