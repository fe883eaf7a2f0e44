/* SPDX-License-Identifier: Apache-2.0 */
#include "fiber.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "emulator.h"

#if defined(__x86_64__)
#define SAVED_WORDS 6
#define ENTRY_WORD 6
asm(".text\n.p2align 4\n.globl emu_stack_switch\n.hidden emu_stack_switch\n"
    ".type emu_stack_switch, @function\n"
    "emu_stack_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\n"
    "ret\n.size emu_stack_switch, . - emu_stack_switch\n");
#elif defined(__aarch64__)
#define SAVED_WORDS 20
#define ENTRY_WORD 11
asm(".text\n.p2align 4\n.globl emu_stack_switch\n.hidden emu_stack_switch\n"
    ".type emu_stack_switch, %function\n"
    "emu_stack_switch:\n"
    "sub sp, sp, #160\n"
    "stp x19, x20, [sp]\nstp x21, x22, [sp, #16]\nstp x23, x24, [sp, #32]\n"
    "stp x25, x26, [sp, #48]\nstp x27, x28, [sp, #64]\nstp x29, x30, [sp, #80]\n"
    "stp d8, d9, [sp, #96]\nstp d10, d11, [sp, #112]\n"
    "stp d12, d13, [sp, #128]\nstp d14, d15, [sp, #144]\n"
    "mov x9, sp\nstr x9, [x0]\nmov sp, x1\n"
    "ldp x19, x20, [sp]\nldp x21, x22, [sp, #16]\nldp x23, x24, [sp, #32]\n"
    "ldp x25, x26, [sp, #48]\nldp x27, x28, [sp, #64]\nldp x29, x30, [sp, #80]\n"
    "ldp d8, d9, [sp, #96]\nldp d10, d11, [sp, #112]\n"
    "ldp d12, d13, [sp, #128]\nldp d14, d15, [sp, #144]\n"
    "add sp, sp, #160\nret\n.size emu_stack_switch, . - emu_stack_switch\n");
#else
#error "the emulator has no stack switch for this processor"
#endif

void emu_fiber_prepare(emu_fiber *fiber, void (*entry)(void), unsigned color)
{
    if (fiber->stack == NULL) {
        size_t page = (size_t)sysconf(_SC_PAGESIZE);
        void *memory = mmap(NULL, EMU_STACK_BYTES + page, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) emu_fail("no memory for stacks");
        fiber->stack = (char *)memory + page;
        fiber->stack_bytes = EMU_STACK_BYTES;
    }
#ifdef EMU_ASAN
    /* The last use ended inside a frame, whose marks are still there. */
    __asan_unpoison_memory_region(fiber->stack, fiber->stack_bytes);
#endif
    void **top = (void **)(void *)(fiber->stack + fiber->stack_bytes - 64 - color % 16 * 512);
    void **sp = top - SAVED_WORDS - 2;
    for (void **word = sp; word < top; word++) *word = NULL;
    sp[ENTRY_WORD] = (void *)entry;
    fiber->sp = sp;
    fiber->sanitizer_stack = NULL;
}

void emu_fiber_entered(emu_fiber *thread)
{
#ifdef EMU_ASAN
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(NULL, &bottom, &bytes);
    /* The first fiber of all is entered from the thread's own stack. */
    if (thread->stack == NULL) thread->stack = (char *)bottom, thread->stack_bytes = bytes;
#else
    (void)thread;
#endif
}
