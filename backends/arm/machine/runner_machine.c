/* The runner's surroundings on a machine without an operating system: pipes by semihosting, which opens those of
 * the emulator's process, and memory outside of the chip. */
#include "runner.h"
#include "semihosting.h"

#include <string.h>

/* From the linker script. */
extern uint8_t machine_more[], machine_more_end[];

/* Of processor.c. */
int qc_is_supported(void);

static int requests, answers;
static uint8_t *base, *top;

_Noreturn void runner_stop(int code, const char *problem)
{
    semihosting_print("runner: ");
    semihosting_print(problem);
    semihosting_print("\n");
    semihosting_exit(code);
}

static int open_pipe(const char *name, uint32_t mode)
{
    const uint32_t block[] = {(uint32_t)(uintptr_t)name, mode, (uint32_t)strlen(name)};
    const int pipe = semihosting(SEMIHOSTING_OPEN, block);
    if (pipe < 0)
        runner_stop(RUNNER_BROKEN, "the emulator's input or output cannot be opened");
    return pipe;
}

/* Reads or writes once and returns the bytes that are left over. */
static int64_t move(int operation, int pipe, uint8_t *at, int64_t bytes)
{
    const uint32_t some = bytes < 1 << 20 ? (uint32_t)bytes : 1 << 20;
    const uint32_t block[] = {(uint32_t)pipe, (uint32_t)(uintptr_t)at, some};
    const int left = semihosting(operation, block);
    return left < 0 || (uint32_t)left > some ? bytes : bytes - some + left;
}

int runner_get(void *to, int64_t bytes)
{
    for (int64_t left = bytes; left;) {
        const int64_t after = move(SEMIHOSTING_READ, requests, (uint8_t *)to + (bytes - left), left);
        if (after == left && left == bytes)
            return -1;
        if (after == left)
            runner_stop(RUNNER_BROKEN, "a request is incomplete");
        left = after;
    }
    return 0;
}

void runner_put(const void *from, int64_t bytes)
{
    for (int64_t left = bytes; left;) {
        const int64_t after = move(SEMIHOSTING_WRITE, answers, (uint8_t *)from + (bytes - left), left);
        if (after == left)
            runner_stop(RUNNER_BROKEN, "an answer cannot be written");
        left = after;
    }
}

void runner_flush(void)
{
}

void *runner_take(int64_t bytes)
{
    const int64_t size = (bytes + 2 * RUNNER_SLACK - 1) / RUNNER_SLACK * RUNNER_SLACK;
    if (size > machine_more_end - top)
        runner_stop(RUNNER_BROKEN, "out of memory");
    void *taken = top;
    top += size;
    return memset(taken, 0, (size_t)size);
}

void runner_keep(void)
{
    base = top;
}

void runner_release(void)
{
    top = base;
}

int main(void)
{
    enum { READ_BYTES = 1, WRITE_BYTES = 5 };
    /* Nothing of the program runs before, as it may use any of its instructions. */
    if (!qc_is_supported())
        runner_stop(RUNNER_NO_LEVEL, "this processor has none of the instruction sets of the program");
    base = top = machine_more;
    requests = open_pipe("/dev/stdin", READ_BYTES);
    answers = open_pipe("/dev/stdout", WRITE_BYTES);
    return runner_serve(NULL);
}
