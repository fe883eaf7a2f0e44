/* SPDX-License-Identifier: Apache-2.0
 *
 * decode_room.h - how much memory all picture decoders together may hold.
 *
 * A few kilobytes of PNG can be 178,956,970 pixels. Every submitting thread enters
 * before it decodes and leaves behind it; who does not fit waits for others to leave.
 * Nobody enters twice, so this ends. Any thread. */
#ifndef AGL_ENGINE_DECODE_ROOM_H
#define AGL_ENGINE_DECODE_ROOM_H

#include <pthread.h>
#include <stdint.h>

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t left;
    uint64_t bytes, bytes_max;
} agl_decode_room;

void agl_decode_room_init(agl_decode_room *room, uint64_t bytes_max);
void agl_decode_room_deinit(agl_decode_room *room);

/* Waits until `bytes` fit; more than bytes_max get in when nobody else is there. */
void agl_decode_room_enter(agl_decode_room *room, uint64_t bytes);
void agl_decode_room_leave(agl_decode_room *room, uint64_t bytes);

#endif
