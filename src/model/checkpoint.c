/* SPDX-License-Identifier: Apache-2.0 */
#include "model/checkpoint.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buffer.h"
#include "base/file_map.h"

#define PATH_BYTES 4096

static bool is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* False when the path does not fit, which no existing folder can cause. */
__attribute__((format(printf, 2, 3)))
static bool path_print(char out[PATH_BYTES], const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int bytes = vsnprintf(out, PATH_BYTES, format, args);
    va_end(args);
    return bytes >= 0 && bytes < PATH_BYTES;
}

/* One part of org/name: letters, digits, '.', '_', '-', and no leading dot. */
static bool is_hub_part(const char *text, size_t bytes)
{
    static const char ALLOWED[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    return bytes > 0 && bytes <= 96 && text[0] != '.' && strspn(text, ALLOWED) >= bytes;
}

static const char *environment(const char *name)
{
    const char *value = getenv(name);
    return value != NULL && value[0] != '\0' ? value : NULL;
}

/* Folder of the Hugging Face hub cache; false when not even HOME is set. */
static bool hugging_face_cache(char out[PATH_BYTES])
{
    const char *value;
    if ((value = environment("HF_HUB_CACHE")) != NULL) return path_print(out, "%s", value);
    if ((value = environment("HUGGINGFACE_HUB_CACHE")) != NULL) return path_print(out, "%s", value);
    if ((value = environment("HF_HOME")) != NULL) return path_print(out, "%s/hub", value);
    if ((value = environment("XDG_CACHE_HOME")) != NULL)
        return path_print(out, "%s/huggingface/hub", value);
    if ((value = environment("HOME")) != NULL)
        return path_print(out, "%s/.cache/huggingface/hub", value);
    return false;
}

static bool modelscope_cache(char out[PATH_BYTES])
{
    const char *value;
    if ((value = environment("MODELSCOPE_CACHE")) != NULL) return path_print(out, "%s", value);
    if ((value = environment("HOME")) != NULL)
        return path_print(out, "%s/.cache/modelscope/hub", value);
    return false;
}

/* models--org--name/refs/main holds the name of the folder under snapshots/. */
static bool find_hugging_face(char out[PATH_BYTES], agl_buffer *looked, const char *org,
                              int org_bytes, const char *name)
{
    char cache[PATH_BYTES], repository[PATH_BYTES], reference[PATH_BYTES];
    if (!hugging_face_cache(cache)) return false;
    if (!path_print(repository, "%s/models--%.*s--%s", cache, org_bytes, org, name)) return false;
    agl_buffer_append_format(looked, "%s%s", looked->bytes > 0 ? ", " : "", repository);
    if (!path_print(reference, "%s/refs/main", repository)) return false;
    char *revision = NULL;
    size_t bytes;
    if (agl_file_read(&revision, &bytes, reference, 4096, NULL) != AGL_OK) return false;
    revision[strcspn(revision, "\r\n \t")] = '\0';
    bool found = is_hub_part(revision, strlen(revision)) &&
                 path_print(out, "%s/snapshots/%s", repository, revision) && is_folder(out);
    free(revision);
    return found;
}

/* hub/models/org/name today, hub/org/name before; older versions write '.' as "___". */
static bool find_modelscope(char out[PATH_BYTES], agl_buffer *looked, const char *org,
                            int org_bytes, const char *name)
{
    char cache[PATH_BYTES], escaped[512];
    size_t length = 0;
    if (!modelscope_cache(cache)) return false;
    for (const char *c = name; *c != '\0' && length + 4 < sizeof escaped; c++) {
        size_t bytes = *c == '.' ? 3 : 1;
        memcpy(escaped + length, *c == '.' ? "___" : c, bytes);
        length += bytes;
    }
    escaped[length] = '\0';
    const char *names[] = {name, escaped};
    for (size_t i = 0; i < 4; i++) {
        const char *folder = i < 2 ? "/models" : "";
        if (!path_print(out, "%s%s/%.*s/%s", cache, folder, org_bytes, org, names[i % 2])) continue;
        if (is_folder(out)) return true;
    }
    agl_buffer_append_format(looked, "%s%s/models/%.*s/%s", looked->bytes > 0 ? ", " : "", cache,
                             org_bytes, org, name);
    return false;
}

static agl_status copy_out(char *out, size_t size, const char *path, agl_error *err)
{
    size_t bytes = strlen(path);
    if (bytes >= size)
        return agl_fail(err, AGL_ERR_LIMIT, "%.80s...: path is longer than %zu bytes", path, size);
    memcpy(out, path, bytes + 1);
    return AGL_OK;
}

agl_status agl_checkpoint_resolve(char *out, size_t size, const char *model, agl_error *err)
{
    if (is_folder(model)) return copy_out(out, size, model, err);

    const char *slash = strchr(model, '/');
    bool is_id = slash != NULL && is_hub_part(model, (size_t)(slash - model)) &&
                 is_hub_part(slash + 1, strlen(slash + 1));
    if (!is_id) {
        return agl_fail(err, AGL_ERR_NOT_FOUND,
                        "model \"%s\" is neither a folder nor a hub id (org/name)", model);
    }
    char path[PATH_BYTES];
    agl_buffer looked;
    agl_buffer_init(&looked, 4 * PATH_BYTES);
    agl_status status;
    if (find_hugging_face(path, &looked, model, (int)(slash - model), slash + 1) ||
        find_modelscope(path, &looked, model, (int)(slash - model), slash + 1)) {
        status = copy_out(out, size, path, err);
    } else {
        status = agl_fail(err, AGL_ERR_NOT_FOUND,
                          "model \"%s\" is not a folder and not in the local caches (looked at "
                          "%s); nothing is downloaded",
                          model, looked.bytes > 0 ? looked.data : "none: HOME is not set");
    }
    agl_buffer_deinit(&looked);
    return status;
}
