/* Semihosting: how a program without an operating system asks its debugger, or its emulator, for files and for
 * the end. Arm, Semihosting for AArch32 and AArch64, version 2.0. */
#ifndef SEMIHOSTING_H
#define SEMIHOSTING_H

#include <stdint.h>

enum {
    SEMIHOSTING_OPEN = 0x01,
    SEMIHOSTING_CLOSE = 0x02,
    SEMIHOSTING_WRITE_TEXT = 0x04,
    SEMIHOSTING_WRITE = 0x05,
    SEMIHOSTING_READ = 0x06,
    SEMIHOSTING_EXIT = 0x20
};

static inline int semihosting(int operation, const void *argument)
{
    register int result __asm__("r0") = operation;
    register const void *block __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(result) : "r"(block) : "memory");
    return result;
}

/* Writes text to where the debugger or emulator shows it. */
static inline void semihosting_print(const char *text)
{
    semihosting(SEMIHOSTING_WRITE_TEXT, text);
}

_Noreturn static inline void semihosting_exit(int code)
{
    const uint32_t block[] = {0x20026, (uint32_t)code}; /* the application has ended by itself */
    for (;;)
        semihosting(SEMIHOSTING_EXIT, block);
}

#endif
