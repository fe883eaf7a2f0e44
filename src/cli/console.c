/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/console.h"

#include <string.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/status.h"

enum { BAR_CELLS = 24, LINE_MAX_BYTES = 1 << 16 };

static const struct {
    const char *name, *label, *colour;
} LEVELS[] = {
    [AGL_LOG_DEBUG] = { "debug", "DEBUG:", "\033[36m" },
    [AGL_LOG_INFO] = { "info", "INFO:", "\033[32m" },
    [AGL_LOG_WARNING] = { "warning", "WARNING:", "\033[33m" },
    [AGL_LOG_ERROR] = { "error", "ERROR:", "\033[31m" },
};

static void format_json(agl_buffer *out, agl_log_level level, const char *line)
{
    struct timespec now;
    struct tm utc;
    char stamp[32];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
    agl_buffer_append_format(out, "{\"time\":\"%s.%03dZ\",\"level\":\"%s\",\"message\":\"", stamp,
                             (int)(now.tv_nsec / 1000000), LEVELS[level].name);
    agl_buffer_append_json(out, line, strlen(line));
    agl_buffer_append_text(out, "\"}\n");
}

/* The level in ten columns, as uvicorn writes it: people's scripts match these lines. */
static void format_text(agl_buffer *out, const agl_console *console, agl_log_level level, const char *line)
{
    const char *label = LEVELS[level].label;
    agl_buffer_append_format(out, "%s%s%s%*s%s\n", console->colour ? LEVELS[level].colour : "", label,
                             console->colour ? "\033[0m" : "", (int)(10 - strlen(label)), "", line);
}

static void clear_bar(agl_console *console)
{
    if (console->bar_shown) fputs("\r\033[K", stderr);
    console->bar_shown = false;
}

static void write_line(void *user, agl_log_level level, const char *line)
{
    agl_console *console = user;
    if (console->off || level < console->least) return;
    agl_buffer out;
    agl_buffer_init(&out, LINE_MAX_BYTES);
    if (console->json) format_json(&out, level, line);
    else format_text(&out, console, level, line);
    pthread_mutex_lock(&console->lock);
    clear_bar(console);
    if (out.bytes != 0) fwrite(out.data, 1, out.bytes, stderr);
    pthread_mutex_unlock(&console->lock);
    agl_buffer_deinit(&out);
}

bool agl_console_has_colour(FILE *stream)
{
    const char *refused = getenv("NO_COLOR"), *terminal = getenv("TERM");
    if (refused != NULL && *refused != '\0') return false;
    return isatty(fileno(stream)) && terminal != NULL && strcmp(terminal, "dumb") != 0;
}

void agl_console_init(agl_console *console)
{
    *console = (agl_console){ .least = AGL_LOG_INFO };
    pthread_mutex_init(&console->lock, NULL);
    console->terminal = isatty(STDERR_FILENO);
    console->colour = agl_console_has_colour(stderr);
    agl_log_set(write_line, console);
}

void agl_console_deinit(agl_console *console)
{
    agl_log_set(NULL, NULL);
    agl_console_bar_clear(console);
    pthread_mutex_destroy(&console->lock);
}

void agl_console_configure(agl_console *console, const char *level, const char *format)
{
    console->off = strcmp(level, "off") == 0;
    if (strcmp(level, "trace") == 0) console->least = AGL_LOG_DEBUG;
    if (strcmp(level, "critical") == 0) console->least = AGL_LOG_ERROR;
    for (size_t i = 0; i < AGL_COUNT(LEVELS); i++)
        if (strcmp(level, LEVELS[i].name) == 0) console->least = (agl_log_level)i;
    console->json = strcmp(format, "json") == 0;
}

void agl_console_bar(agl_console *console, const char *phase, double fraction, double seconds)
{
    if (!console->terminal || console->json || console->off) return;
    char cells[BAR_CELLS + 1];
    int full = (int)(fraction * BAR_CELLS);
    memset(cells, '.', BAR_CELLS);
    memset(cells, '#', (size_t)(full < 0 ? 0 : full > BAR_CELLS ? BAR_CELLS : full));
    cells[BAR_CELLS] = '\0';
    pthread_mutex_lock(&console->lock);
    fprintf(stderr, "\r\033[K%-10.24s[%s] %3d %% %6.1f s", phase, cells, (int)(fraction * 100), seconds);
    console->bar_shown = true;
    fflush(stderr);
    pthread_mutex_unlock(&console->lock);
}

void agl_console_bar_clear(agl_console *console)
{
    pthread_mutex_lock(&console->lock);
    clear_bar(console);
    pthread_mutex_unlock(&console->lock);
}

static agl_human human(uint64_t value, const char *const *units, size_t unit_count)
{
    agl_human result;
    double scaled = (double)value;
    size_t unit = 0;
    while (scaled >= 999.5 && unit + 1 < unit_count) {
        scaled /= 1000;
        unit++;
    }
    int decimals = unit == 0 || scaled >= 99.95 ? 0 : scaled >= 9.995 ? 1 : 2;
    snprintf(result.text, sizeof result.text, "%.*f%s%s", decimals, scaled, *units[unit] != '\0' ? " " : "",
             units[unit]);
    return result;
}

agl_human agl_human_bytes(uint64_t bytes)
{
    static const char *const UNITS[] = { "B", "kB", "MB", "GB", "TB", "PB" };
    return human(bytes, UNITS, AGL_COUNT(UNITS));
}

agl_human agl_human_count(uint64_t count)
{
    static const char *const UNITS[] = { "", "k", "M", "B", "T" };
    return human(count, UNITS, AGL_COUNT(UNITS));
}
