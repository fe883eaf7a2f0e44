/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/decode_room.h"

#define ROOM 10u
#define THREADS 8
#define ROUNDS 2000u

typedef struct {
    agl_decode_room room;
    atomic_uint held, held_max, alone_broken, done;
} scene;

/* Sizes 1..14: some fit together, some only alone. */
static void *come_and_go(void *argument)
{
    scene *self = argument;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t bytes = 1 + i * 7 % 14, share = bytes < ROOM ? bytes : ROOM;
        agl_decode_room_enter(&self->room, bytes);
        uint32_t held = atomic_fetch_add(&self->held, share) + share;
        uint32_t most = atomic_load(&self->held_max);
        while (held > most && !atomic_compare_exchange_weak(&self->held_max, &most, held)) { }
        if (bytes > ROOM && held != share) atomic_fetch_add(&self->alone_broken, 1);
        atomic_fetch_sub(&self->held, share);
        agl_decode_room_leave(&self->room, bytes);
    }
    atomic_fetch_add(&self->done, 1);
    return NULL;
}

static void the_bound_holds_and_everybody_gets_in(void **state)
{
    (void)state;
    scene self = {0};
    agl_decode_room_init(&self.room, ROOM);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, come_and_go, &self), 0);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&self.done), THREADS);
    assert_in_range(atomic_load(&self.held_max), 1, ROOM);
    assert_int_equal(atomic_load(&self.alone_broken), 0);
    agl_decode_room_deinit(&self.room);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_bound_holds_and_everybody_gets_in)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
