/* SPDX-License-Identifier: Apache-2.0 */
#include "base/file_map.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static agl_status open_regular(int *out, size_t *bytes, const char *path, agl_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        agl_status status = errno == ENOENT || errno == ENOTDIR ? AGL_ERR_NOT_FOUND
                          : errno == EACCES                     ? AGL_ERR_DENIED
                                                                : AGL_ERR_IO;
        return agl_fail(err, status, "%s: %s", path, strerror(errno));
    }
    struct stat info;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        close(fd);
        return agl_fail(err, AGL_ERR_IO, "%s: not a regular file", path);
    }
    *out = fd;
    *bytes = (size_t)info.st_size;
    return AGL_OK;
}

agl_status agl_file_map_open(agl_file_map *out, const char *path, agl_error *err)
{
    *out = (agl_file_map){0};
    int fd;
    size_t bytes;
    AGL_TRY(open_regular(&fd, &bytes, path, err));
    void *data = NULL;
    if (bytes > 0) {
        data = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
        if (data == MAP_FAILED) {
            int reason = errno;
            close(fd);
            return agl_fail(err, AGL_ERR_IO, "%s: cannot map %zu bytes: %s", path, bytes,
                            strerror(reason));
        }
    }
    close(fd);
    *out = (agl_file_map){.data = data, .bytes = bytes};
    return AGL_OK;
}

void agl_file_map_close(agl_file_map *map)
{
    if (map->data != NULL) munmap((void *)map->data, map->bytes);
    *map = (agl_file_map){0};
}

agl_status agl_file_read(char **out, size_t *bytes, const char *path, size_t limit_bytes,
                         agl_error *err)
{
    *out = NULL;
    *bytes = 0;
    int fd;
    size_t size;
    AGL_TRY(open_regular(&fd, &size, path, err));
    if (size > limit_bytes) {
        close(fd);
        return agl_fail(err, AGL_ERR_LIMIT, "%s: %zu bytes, at most %zu expected", path, size,
                        limit_bytes);
    }
    char *data = malloc(size + 1);
    if (data == NULL) {
        close(fd);
        return agl_fail(err, AGL_ERR_MEMORY, "%s: no memory for %zu bytes", path, size);
    }
    size_t done = 0;
    while (done < size) {
        ssize_t got = read(fd, data + done, size - done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        done += (size_t)got;
    }
    close(fd);
    data[done] = '\0';
    *out = data;
    *bytes = done;
    return AGL_OK;
}
