/* SPDX-License-Identifier: Apache-2.0
 *
 * bench.h - `autoglm bench KIND ...`. */
#ifndef AGL_CLI_BENCH_H
#define AGL_CLI_BENCH_H

/* argv[0] is the kind ("serve", "latency", ...). Returns the exit status of the program. */
int agl_cli_bench(int argc, char **argv);

#endif
