/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/cpu/cpu_ops.h"

void agl_cpu_ops_neon(agl_cpu_ops *ops)
{
    (void)ops;
}
