/* SPDX-License-Identifier: Apache-2.0
 *
 * fiber.h - a stack of its own and a switch to it, without a system call. */
#ifndef AGL_TESTS_CUDA_EMULATOR_FIBER_H
#define AGL_TESTS_CUDA_EMULATOR_FIBER_H

#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMU_ASAN 1
#endif
#endif

#ifdef EMU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

/* Instrumented frames are several times larger. */
#ifdef EMU_ASAN
#define EMU_STACK_BYTES ((size_t)256 << 10)
#else
#define EMU_STACK_BYTES ((size_t)64 << 10)
#endif

struct emu_fiber {
    void *sp;                   /* while it does not run                              */
    char *stack;                /* lowest address; a page below it cannot be touched  */
    size_t stack_bytes;
    void *sanitizer_stack;      /* the sanitizer's own notes                          */
};

/* Let `entry` be what runs when the fiber is entered next; it must never return. The stack is made
 * on the first call and kept. `color` moves its top, so that many stacks share a cache well. */
void emu_fiber_prepare(emu_fiber *fiber, void (*entry)(void), unsigned color);

/* Leave the running fiber, whose place is kept in `from`, for another; `ends` says that `from`
 * will not be entered again before the next prepare. */
static inline void emu_fiber_switch(emu_fiber *from, emu_fiber *to, bool ends);

/* First statement of an entry; `thread` is the fiber that this OS thread began with. */
void emu_fiber_entered(emu_fiber *thread);

/* Save the registers that a call must keep, exchange the stacks, restore. */
extern "C" void emu_stack_switch(void **save, void *load);

static inline void emu_fiber_switch(emu_fiber *from, emu_fiber *to, bool ends)
{
#ifdef EMU_ASAN
    __sanitizer_start_switch_fiber(ends ? NULL : &from->sanitizer_stack, to->stack, to->stack_bytes);
#else
    (void)ends;
#endif
    emu_stack_switch(&from->sp, to->sp);
#ifdef EMU_ASAN
    __sanitizer_finish_switch_fiber(from->sanitizer_stack, NULL, NULL);
#endif
}

#endif
