/* Startup of a Cortex-M processor without an operating system: vector table, floating point, memory, faults.
 *
 * A fault ends the program through semihosting with exit code 5, after a line that says where it was. */
#include "semihosting.h"

#include <stdint.h>

/* From the linker script. */
extern uint32_t machine_stack_end[], machine_data_from[], machine_data[], machine_data_end[], machine_bss[],
    machine_bss_end[];

int main(void);
_Noreturn void machine_start(void);
_Noreturn void machine_report(const uint32_t *frame);

/* CPACR: coprocessors 10 and 11, which are floating point and vectors, before any code that may use them. */
__attribute__((naked)) static void reset(void)
{
    __asm__("ldr r0, =0xE000ED88\n"
            "ldr r1, [r0]\n"
            "orr r1, r1, #0xF00000\n"
            "str r1, [r0]\n"
            "dsb\n"
            "isb\n"
            "b machine_start\n");
}

_Noreturn void machine_start(void)
{
    const volatile uint32_t *from = machine_data_from;
    for (volatile uint32_t *to = machine_data; to < machine_data_end; to++)
        *to = *from++;
    for (volatile uint32_t *to = machine_bss; to < machine_bss_end; to++)
        *to = 0;
    semihosting_exit(main());
}

static char *append(char *at, const char *text)
{
    while (*text)
        *at++ = *text++;
    *at = 0;
    return at;
}

static char *append_hex(char *at, uint32_t value)
{
    at = append(at, "0x");
    for (int bit = 28; bit >= 0; bit -= 4)
        *at++ = "0123456789abcdef"[value >> bit & 15];
    *at = 0;
    return at;
}

/* The processor has stored r0 to r3, r12, lr, pc and xpsr at `frame`. */
_Noreturn void machine_report(const uint32_t *frame)
{
    const uint32_t why = *(const volatile uint32_t *)0xE000ED28; /* CFSR */
    char line[160], *at = append(line, "fault: ");
    if (why & 0x00090000)
        at = append(at, "an instruction that the processor lacks, or that is not switched on");
    else if (why & 0x01000000)
        at = append(at, "a misaligned address");
    else if (why & 0x00008080)
        at = append(at, "no memory at an address");
    else
        at = append(at, "an exception");
    at = append_hex(append(at, " at pc "), frame[6]);
    at = append_hex(append(at, ", lr "), frame[5]);
    at = append_hex(append(at, ", CFSR "), why);
    if (why & 0x00008080)
        at = append_hex(append(at, ", address "), *(const volatile uint32_t *)(why & 0x80 ? 0xE000ED34 : 0xE000ED38));
    append(at, "\n");
    semihosting_print(line);
    semihosting_exit(5);
}

__attribute__((naked)) static void fault(void)
{
    __asm__("mrs r0, msp\n"
            "b machine_report\n");
}

typedef union {
    const uint32_t *stack;
    void (*handler)(void);
} vector;

__attribute__((section(".vectors"), used)) static const vector vectors[16] = {
    {.stack = machine_stack_end}, {.handler = reset}, {.handler = fault}, {.handler = fault},
    {.handler = fault},           {.handler = fault}, {.handler = fault}, {.handler = fault},
};
