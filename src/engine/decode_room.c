/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/decode_room.h"

#include <assert.h>

void agl_decode_room_init(agl_decode_room *room, uint64_t bytes_max)
{
    *room = (agl_decode_room){.bytes_max = bytes_max};
    pthread_mutex_init(&room->lock, NULL);
    pthread_cond_init(&room->left, NULL);
}

void agl_decode_room_deinit(agl_decode_room *room)
{
    assert(room->bytes == 0);
    pthread_cond_destroy(&room->left);
    pthread_mutex_destroy(&room->lock);
}

static uint64_t share_of(const agl_decode_room *room, uint64_t bytes)
{
    return bytes < room->bytes_max ? bytes : room->bytes_max;
}

void agl_decode_room_enter(agl_decode_room *room, uint64_t bytes)
{
    uint64_t share = share_of(room, bytes);
    pthread_mutex_lock(&room->lock);
    while (room->bytes > room->bytes_max - share) pthread_cond_wait(&room->left, &room->lock);
    room->bytes += share;
    pthread_mutex_unlock(&room->lock);
}

void agl_decode_room_leave(agl_decode_room *room, uint64_t bytes)
{
    pthread_mutex_lock(&room->lock);
    assert(room->bytes >= share_of(room, bytes));
    room->bytes -= share_of(room, bytes);
    pthread_cond_broadcast(&room->left);
    pthread_mutex_unlock(&room->lock);
}
