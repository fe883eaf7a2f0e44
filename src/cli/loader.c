/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/loader.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

/* Lines of one long phase where there is no terminal to draw a bar on. */
static const double LINE_EVERY_S = 5;

typedef struct {
    agl_engine **out;
    const agl_engine_options *options;
    agl_error *err;
    agl_status status;
    int done_fd;
} job;

/* ---- progress: called from the loading thread ------------------------- */

static void end_phase(agl_loader *loader, double now)
{
    if (!loader->in_phase) return;
    agl_loader_phase *phase = &loader->phases[loader->phase_count];
    phase->seconds = now - loader->phase_started_s;
    if (!loader->quiet && !loader->console->terminal)
        agl_log_info("Loading: %s done in %.2f s", phase->name, phase->seconds);
    loader->phase_count++;
    loader->in_phase = false;
}

static void begin_phase(agl_loader *loader, const char *name, double now)
{
    /* More phases than fit share the last slot: the sum stays right. */
    if (loader->phase_count == AGL_LOADER_PHASES_MAX) loader->phase_count--;
    agl_loader_phase *phase = &loader->phases[loader->phase_count];
    snprintf(phase->name, sizeof phase->name, "%s", name);
    loader->phase_started_s = loader->line_s = now;
    loader->in_phase = true;
}

static void on_progress(void *user, const char *name, double fraction)
{
    agl_loader *loader = user;
    double now = agl_clock_s();
    const char *current = loader->in_phase ? loader->phases[loader->phase_count].name : "";
    if (strncmp(current, name, sizeof loader->phases[0].name - 1) != 0) {
        end_phase(loader, now);
        begin_phase(loader, name, now);
    }
    if (loader->server != NULL) agl_server_set_progress(loader->server, name, fraction);
    if (loader->quiet) return;
    agl_console_bar(loader->console, name, fraction, now - loader->started_s);
    if (!loader->console->terminal && now - loader->line_s >= LINE_EVERY_S) {
        loader->line_s = now;
        agl_log_info("Loading: %s %.0f %%", name, fraction * 100);
    }
}

static void *load(void *argument)
{
    job *work = argument;
    work->status = agl_engine_create(work->out, work->options, work->err);
    uint64_t one = 1;
    while (write(work->done_fd, &one, sizeof one) < 0 && errno == EINTR) continue;
    return NULL;
}

/* ---- the main thread -------------------------------------------------- */

static agl_status wait_for(job *work, agl_loader *loader, pthread_t thread, int exit_code)
{
    struct pollfd fds[2] = { { work->done_fd, POLLIN, 0 }, { loader->signal_fd, POLLIN, 0 } };
    for (;;) {
        if (poll(fds, 2, -1) < 0 && errno != EINTR) break;
        if (fds[0].revents != 0) break;
        if (fds[1].revents == 0) continue;
        agl_console_bar_clear(loader->console);
        agl_log_info("Stopped while loading");
        fflush(NULL);
        _Exit(exit_code);
    }
    pthread_join(thread, NULL);
    return work->status;
}

agl_status agl_loader_run(agl_engine **out, agl_loader *loader, const agl_engine_options *options, int exit_code,
                          agl_error *err)
{
    agl_engine_options with_progress = *options;
    with_progress.progress = on_progress;
    with_progress.progress_user = loader;
    job work = { out, &with_progress, err, AGL_OK, eventfd(0, EFD_CLOEXEC) };
    if (work.done_fd < 0) return agl_fail(err, AGL_ERR_IO, "eventfd: %s", strerror(errno));
    loader->started_s = agl_clock_s();
    pthread_t thread;
    int failed = pthread_create(&thread, NULL, load, &work);
    agl_status status;
    if (failed != 0) status = agl_fail(err, AGL_ERR_MEMORY, "cannot start a thread: %s", strerror(failed));
    else status = wait_for(&work, loader, thread, exit_code);
    close(work.done_fd);
    double now = agl_clock_s();
    loader->seconds = now - loader->started_s;
    end_phase(loader, now);
    agl_console_bar_clear(loader->console);
    return status;
}

agl_status agl_signals_open(int *fd, agl_error *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    *fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (*fd < 0) return agl_fail(err, AGL_ERR_IO, "signalfd: %s", strerror(errno));
    return AGL_OK;
}

bool agl_signals_take(int fd, int timeout_ms)
{
    struct pollfd poll_fd = { fd, POLLIN, 0 };
    struct signalfd_siginfo info;
    if (poll(&poll_fd, 1, timeout_ms) <= 0) return false;
    return read(fd, &info, sizeof info) == (ssize_t)sizeof info;
}
