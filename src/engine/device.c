/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/device.h"

#include <string.h>

#include "base/log.h"
#include "engine/memory_plan.h"

#define DEVICES_MAX 64

typedef struct {
    bool automatic, cuda;
    int device;
} device_choice;

static agl_status parse_device(device_choice *out, const char *name, agl_error *err)
{
    *out = (device_choice){.automatic = name == NULL || strcmp(name, "auto") == 0};
    if (out->automatic || strcmp(name, "cpu") == 0) return AGL_OK;
    out->cuda = true;
    if (strcmp(name, "cuda") == 0) return AGL_OK;
    const char *digits = name + strlen("cuda:");
    if (strncmp(name, "cuda:", strlen("cuda:")) == 0 && digits[0] >= '0' && digits[0] <= '9') {
        while (*digits >= '0' && *digits <= '9' && out->device < DEVICES_MAX) {
            out->device = 10 * out->device + (*digits++ - '0');
        }
        if (*digits == '\0') return AGL_OK;
    }
    return agl_fail(err, AGL_ERR_ARGUMENT, "device %s is not known: use auto, cpu, cuda or cuda:N",
                    name);
}

static agl_status open_cuda(agl_backend **out, const agl_engine_options *options,
                            const agl_config *config, int device, agl_error *err)
{
    agl_backend_options backend = {.device = device};
    AGL_TRY(agl_memory_plan_activation(&backend.activation, options, config, err));
    return agl_backend_cuda_create(out, &backend, err);
}

agl_status agl_device_open(agl_backend **out, const agl_engine_options *options,
                           const agl_config *config, agl_error *err)
{
    device_choice choice;
    AGL_TRY(parse_device(&choice, options->device, err));
    if (choice.cuda) return open_cuda(out, options, config, choice.device, err);
    if (choice.automatic && agl_backend_cuda_count(NULL, 0) > 0) {
        agl_error cause = {0};
        agl_status status = open_cuda(out, options, config, 0, &cause);
        if (status == AGL_OK) return AGL_OK;
        if (status != AGL_ERR_UNSUPPORTED) return agl_fail(err, status, "%s", cause.message);
        agl_log_warning("The GPU is not used: %s", cause.message);
    }
    agl_backend_options backend = {.threads = options->threads};
    return agl_backend_cpu_create(out, &backend, err);
}
