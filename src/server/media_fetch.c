/* SPDX-License-Identifier: Apache-2.0 */
#include "server/media_fetch.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/buffer.h"
#include "base/clock.h"

#define URL_BYTES_MAX 8192      /* of file: and http(s): URLs */
#define REDIRECTS_MAX 3

static agl_status no_memory(agl_api_error *err)
{
    return agl_api_fail(err, AGL_ERR_MEMORY, NULL, "no memory for the image");
}

static agl_status too_large(const agl_media_policy *policy, const char *where, agl_api_error *err)
{
    return agl_api_fail(err, AGL_ERR_LIMIT, where, "%s: the image is larger than %llu bytes", where,
                        (unsigned long long)policy->bytes_max);
}

/* ---- data: ----------------------------------------------------------- */

/* data:[type][;parameter]*;base64,<data> - the type is not trusted and not read. */
static agl_status fetch_data(const void **data, size_t *bytes, agl_arena *arena,
                             const agl_media_policy *policy, const char *url, size_t url_bytes,
                             const char *where, agl_api_error *err)
{
    static const char MARK[] = ";base64";
    const size_t mark_bytes = sizeof MARK - 1;
    const char *comma = memchr(url, ',', url_bytes < 1024 ? url_bytes : 1024);
    if (comma == NULL || (size_t)(comma - url) < mark_bytes ||
        strncasecmp(comma - mark_bytes, MARK, mark_bytes) != 0) {
        return agl_api_fail(err, AGL_ERR_FORMAT, where, "%s: Only base64 data URLs are supported for now.", where);
    }
    const char *text = comma + 1;
    size_t text_bytes = url_bytes - (size_t)(text - url);
    if (text_bytes / 4 * 3 > policy->bytes_max) return too_large(policy, where, err);
    unsigned char *image = agl_arena_alloc(arena, AGL_BASE64_DECODED_MAX(text_bytes));
    if (image == NULL) return no_memory(err);
    agl_error detail;
    if (agl_base64_decode(image, bytes, text, text_bytes, &detail) != AGL_OK) {
        return agl_api_fail(err, AGL_ERR_FORMAT, where, "%s: %s", where, detail.message);
    }
    if (*bytes == 0) return agl_api_fail(err, AGL_ERR_FORMAT, where, "%s: the image is empty", where);
    *data = image;
    return AGL_OK;
}

/* ---- file: ----------------------------------------------------------- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if ((c | 32) >= 'a' && (c | 32) <= 'f') return (c | 32) - 'a' + 10;
    return -1;
}

/* Percent-decode into a path; false for a NUL or a half escape. */
static bool decode_path(char *path, const char *text, size_t bytes)
{
    size_t out = 0;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (c == '%') {
            if (i + 2 >= bytes) return false;
            int high = hex_digit(text[i + 1]), low = hex_digit(text[i + 2]);
            if (high < 0 || low < 0) return false;
            c = (char)(high << 4 | low);
            i += 2;
        }
        if (c == '\0') return false;
        path[out++] = c;
    }
    path[out] = '\0';
    return true;
}

/* Open `path` if it lies below `root`. realpath has removed all links, so the
 * kernel may refuse any that appear in between. */
static int open_beneath(const char *root, const char *path)
{
    char *resolved = realpath(path, NULL);
    if (resolved == NULL) return -1;
    size_t root_bytes = strlen(root);
    while (root_bytes > 0 && root[root_bytes - 1] == '/') root_bytes--;
    int file = -1;
    if (strncmp(resolved, root, root_bytes) == 0 && resolved[root_bytes] == '/') {
        int folder = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
        struct open_how how = {
            .flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK,
            .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
        };
        const char *relative = resolved + root_bytes + 1;
        if (folder >= 0) {
            file = (int)syscall(SYS_openat2, folder, relative, &how, sizeof how);
            if (file < 0 && (errno == ENOSYS || errno == EPERM)) {
                file = openat(folder, relative, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
            }
            close(folder);
        }
    }
    free(resolved);
    return file;
}

static agl_status read_all(const void **data, size_t *bytes, agl_arena *arena, int file,
                           const agl_media_policy *policy, const char *where, agl_api_error *err)
{
    struct stat info;
    if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode)) {
        return agl_api_fail(err, AGL_ERR_NOT_FOUND, where, "%s: not a regular file", where);
    }
    if ((uint64_t)info.st_size > policy->bytes_max) return too_large(policy, where, err);
    if (info.st_size == 0) return agl_api_fail(err, AGL_ERR_FORMAT, where, "%s: the image is empty", where);
    char *image = agl_arena_alloc(arena, (size_t)info.st_size);
    if (image == NULL) return no_memory(err);
    size_t done = 0;
    while (done < (size_t)info.st_size) {
        ssize_t got = read(file, image + done, (size_t)info.st_size - done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return agl_api_fail(err, AGL_ERR_NOT_FOUND, where, "%s: the file cannot be read", where);
        done += (size_t)got;
    }
    *data = image;
    *bytes = done;
    return AGL_OK;
}

static agl_status fetch_file(const void **data, size_t *bytes, agl_arena *arena,
                             const agl_media_policy *policy, const char *rest, size_t rest_bytes,
                             const char *where, agl_api_error *err)
{
    if (policy->local_path == NULL) {
        return agl_api_fail(err, AGL_ERR_DENIED, where,
                            "%s: Cannot load local files without `--allowed-local-media-path`.", where);
    }
    char path[URL_BYTES_MAX + 1];
    if (rest_bytes >= 9 && strncasecmp(rest, "localhost", 9) == 0) {
        rest += 9;
        rest_bytes -= 9;
    }
    bool decoded = rest_bytes <= URL_BYTES_MAX && decode_path(path, rest, rest_bytes);
    int file = decoded && path[0] == '/' ? open_beneath(policy->local_path, path) : -1;
    if (file < 0) {
        /* One message for "absent" and "outside", so that it tells nothing about other folders. */
        return agl_api_fail(err, AGL_ERR_DENIED, where,
                            "%s: The file path must be a readable file below `--allowed-local-media-path`.", where);
    }
    agl_status status = read_all(data, bytes, arena, file, policy, where, err);
    close(file);
    return status;
}

/* ---- http(s): -------------------------------------------------------- */

static bool ipv4_is_public(uint32_t a)
{
    static const struct {
        uint32_t net, bits;
    } SPECIAL[] = {
        {0x00000000, 8},  {0x0a000000, 8},  {0x64400000, 10}, {0x7f000000, 8},  {0xa9fe0000, 16},
        {0xac100000, 12}, {0xc0000000, 24}, {0xc0000200, 24}, {0xc0586300, 24}, {0xc0a80000, 16},
        {0xc6120000, 15}, {0xc6336400, 24}, {0xcb007100, 24}, {0xe0000000, 3},
    };
    for (size_t i = 0; i < AGL_COUNT(SPECIAL); i++) {
        if ((a ^ SPECIAL[i].net) >> (32 - SPECIAL[i].bits) == 0) return false;
    }
    return true;
}

bool agl_address_is_public(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        return ipv4_is_public(ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr));
    }
    if (address->sa_family != AF_INET6) return false;
    const uint8_t *a = ((const struct sockaddr_in6 *)(const void *)address)->sin6_addr.s6_addr;
    /* 2000::/3 is global unicast; in it, Teredo and documentation (2001:0000, 2001:db8) and 6to4
     * (2002) can name other addresses. Everything else, v4-mapped included, is refused. */
    if ((a[0] & 0xe0) != 0x20) return false;
    if (a[0] == 0x20 && a[1] == 0x01 && a[2] < 0x02) return false;
    if (a[0] == 0x20 && a[1] == 0x01 && a[2] == 0x0d && a[3] == 0xb8) return false;
    return !(a[0] == 0x20 && a[1] == 0x02);
}

typedef struct {
    agl_buffer body;
    uint64_t bytes_max;
    uint64_t deadline_ns;   /* of all hops together */
    bool allow_private;     /* the host is listed as an address, or as localhost */
    bool refused_address;
} fetch;

static size_t receive(char *data, size_t size, size_t count, void *user)
{
    fetch *self = user;
    if (self->body.bytes + size * count > self->bytes_max) {
        self->body.failed = true;
        return 0;
    }
    agl_buffer_append(&self->body, data, size * count);
    return self->body.failed ? 0 : size * count;
}

/* Called with the address about to be connected: no second look-up can change it. */
static curl_socket_t open_checked(void *user, curlsocktype purpose, struct curl_sockaddr *address)
{
    fetch *self = user;
    if (purpose != CURLSOCKTYPE_IPCXN) return CURL_SOCKET_BAD;
    if (!self->allow_private && !agl_address_is_public(&address->addr)) {
        self->refused_address = true;
        return CURL_SOCKET_BAD;
    }
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

static bool is_literal_address(const char *host)
{
    struct in6_addr buffer;
    char bare[64];
    size_t bytes = strlen(host);
    if (host[0] == '[' && bytes > 2 && bytes < sizeof bare) {
        memcpy(bare, host + 1, bytes - 2);
        bare[bytes - 2] = '\0';
        return inet_pton(AF_INET6, bare, &buffer) == 1;
    }
    return inet_pton(AF_INET, host, &buffer) == 1 || inet_pton(AF_INET6, host, &buffer) == 1;
}

/* The scheme and host as libcurl itself reads them, so no second parser can disagree. */
static agl_status check_url(CURLU *parsed, fetch *self, const agl_media_policy *policy, const char *url,
                            const char *where, agl_api_error *err)
{
    char *scheme = NULL, *host = NULL, *user = NULL;
    bool valid = curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK &&
                 curl_url_get(parsed, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
                 (strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0) &&
                 curl_url_get(parsed, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
                 curl_url_get(parsed, CURLUPART_USER, &user, 0) == CURLUE_NO_USER;
    agl_status status = AGL_OK;
    if (!valid) {
        status = agl_api_fail(err, AGL_ERR_FORMAT, where, "%s: not a valid http(s) URL", where);
    } else {
        bool listed = false;
        for (size_t i = 0; i < policy->domain_count && !listed; i++) {
            listed = strcasecmp(policy->domains[i], host) == 0;
        }
        self->allow_private = is_literal_address(host) || strcasecmp(host, "localhost") == 0;
        if (!listed) {
            status = agl_api_fail(err, AGL_ERR_DENIED, where,
                                  "%s: The URL must be from one of the allowed domains, '%.100s' is not", where,
                                  host);
        }
    }
    curl_free(scheme);
    curl_free(host);
    curl_free(user);
    return status;
}

/* One hop. *location: where a redirect leads, to be freed with free; NULL: done. */
static agl_status fetch_once(fetch *self, char **location, const agl_media_policy *policy, const char *url,
                             const char *where, agl_api_error *err)
{
    *location = NULL;
    CURL *curl = curl_easy_init();
    CURLU *parsed = curl_url();
    agl_status status = curl != NULL && parsed != NULL ? check_url(parsed, self, policy, url, where, err)
                                                       : no_memory(err);
    if (status != AGL_OK) goto done;
    agl_buffer_clear(&self->body);
    uint64_t now_ns = agl_clock_ns();
    /* At least 1: libcurl takes 0 for no limit. */
    long left_ms = now_ns < self->deadline_ns ? (long)((self->deadline_ns - now_ns) / 1000000) + 1 : 1;
    curl_easy_setopt(curl, CURLOPT_CURLU, parsed);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_PROXY, ""); /* a proxy would connect for us, unchecked */
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, left_ms);
    curl_easy_setopt(curl, CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)policy->bytes_max);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "autoglm/" AGL_VERSION);
    curl_easy_setopt(curl, CURLOPT_OPENSOCKETFUNCTION, open_checked);
    curl_easy_setopt(curl, CURLOPT_OPENSOCKETDATA, self);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, receive);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, self);

    CURLcode code = curl_easy_perform(curl);
    long http_status = 0;
    char *redirect = NULL;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &http_status);
    curl_easy_getinfo(curl, CURLINFO_REDIRECT_URL, &redirect);
    if (self->refused_address) {
        status = agl_api_fail(err, AGL_ERR_DENIED, where, "%s: the host's address is not a public one", where);
    } else if (code == CURLE_FILESIZE_EXCEEDED || self->body.failed) {
        status = too_large(policy, where, err);
    } else if (code != CURLE_OK) {
        status = agl_api_fail(err, AGL_ERR_NOT_FOUND, where, "%s: the image cannot be fetched: %s", where,
                              curl_easy_strerror(code));
    } else if (redirect != NULL) {
        *location = strdup(redirect);
        if (*location == NULL) status = no_memory(err);
    } else if (http_status != 200 || self->body.bytes == 0) {
        status = agl_api_fail(err, AGL_ERR_NOT_FOUND, where,
                              "%s: the image cannot be fetched: the host answered %ld with %zu bytes", where,
                              http_status, self->body.bytes);
    }
done:
    curl_url_cleanup(parsed);
    curl_easy_cleanup(curl);
    return status;
}

static agl_status fetch_http(const void **data, size_t *bytes, agl_arena *arena,
                             const agl_media_policy *policy, const char *url, size_t url_bytes,
                             const char *where, agl_api_error *err)
{
    if (policy->domain_count == 0) {
        return agl_api_fail(err, AGL_ERR_DENIED, where,
                            "%s: Cannot load images from the network without `--allowed-media-domains`; "
                            "send a data: URL instead.", where);
    }
    if (url_bytes > URL_BYTES_MAX) {
        return agl_api_fail(err, AGL_ERR_LIMIT, where, "%s: the URL is longer than %d bytes", where, URL_BYTES_MAX);
    }
    fetch self = {.bytes_max = policy->bytes_max,
                  .deadline_ns = agl_clock_ns() + (uint64_t)policy->timeout_ms * 1000000};
    agl_buffer_init(&self.body, (size_t)policy->bytes_max);
    char *next = strndup(url, url_bytes);
    agl_status status = next != NULL ? AGL_OK : no_memory(err);
    int hops = 0;
    while (status == AGL_OK && next != NULL) {
        char *current = next;
        status = hops++ <= REDIRECTS_MAX ? fetch_once(&self, &next, policy, current, where, err)
                                         : agl_api_fail(err, AGL_ERR_LIMIT, where, "%s: too many redirects", where);
        free(current);
        if (status != AGL_OK) break;
    }
    if (status == AGL_OK) {
        *data = agl_arena_copy(arena, self.body.data, self.body.bytes);
        *bytes = self.body.bytes;
        if (*data == NULL) status = no_memory(err);
    }
    agl_buffer_deinit(&self.body);
    return status;
}

agl_status agl_media_fetch(const void **data, size_t *bytes, agl_arena *arena,
                           const agl_media_policy *policy, const char *url, size_t url_bytes,
                           const char *where, agl_api_error *err)
{
    if (url_bytes >= 5 && strncasecmp(url, "data:", 5) == 0) {
        return fetch_data(data, bytes, arena, policy, url, url_bytes, where, err);
    }
    if (memchr(url, '\0', url_bytes) == NULL) {
        if (url_bytes >= 7 && strncasecmp(url, "file://", 7) == 0) {
            return fetch_file(data, bytes, arena, policy, url + 7, url_bytes - 7, where, err);
        }
        if ((url_bytes >= 7 && strncasecmp(url, "http://", 7) == 0) ||
            (url_bytes >= 8 && strncasecmp(url, "https://", 8) == 0)) {
            return fetch_http(data, bytes, arena, policy, url, url_bytes, where, err);
        }
    }
    return agl_api_fail(err, AGL_ERR_ARGUMENT, where,
                        "%s: The URL must be either a HTTP, data or file URL.", where);
}

agl_status agl_media_init(agl_error *err)
{
    /* Counted by libcurl; never undone, since another user in the process may rely on it. */
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != 0) return agl_fail(err, AGL_ERR_INTERNAL, "libcurl does not start");
    return AGL_OK;
}
