/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/backend.h"

int64_t agl_weight_out(const agl_weight *weight)
{
    return weight->out;
}

int64_t agl_weight_in(const agl_weight *weight)
{
    return weight->in;
}
