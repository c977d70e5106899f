/* The runner's surroundings under an operating system: standard input and output, and the heap.
 *
 *     runner [LEVEL] */
#include "runner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Stands before each block of memory and names the one taken before it. */
typedef union block {
    union block *before;
    uint8_t room[RUNNER_SLACK];
} block;

static block *last;

_Noreturn void runner_stop(int code, const char *problem)
{
    fprintf(stderr, "runner: %s\n", problem);
    exit(code);
}

int runner_get(void *to, int64_t bytes)
{
    const size_t done = fread(to, 1, (size_t)bytes, stdin);
    if (done && done != (size_t)bytes)
        runner_stop(RUNNER_BROKEN, "a request is incomplete");
    return done == (size_t)bytes ? 0 : -1;
}

void runner_put(const void *from, int64_t bytes)
{
    if (bytes && fwrite(from, 1, (size_t)bytes, stdout) != (size_t)bytes)
        runner_stop(RUNNER_BROKEN, "an answer cannot be written");
}

void runner_flush(void)
{
    fflush(stdout);
}

void *runner_take(int64_t bytes)
{
    const size_t size = ((size_t)bytes + 2 * RUNNER_SLACK - 1) / RUNNER_SLACK * RUNNER_SLACK;
    block *taken = aligned_alloc(RUNNER_SLACK, size + sizeof *taken);
    if (!taken)
        runner_stop(RUNNER_BROKEN, "out of memory");
    taken->before = last;
    last = taken;
    return memset(taken + 1, 0, size);
}

void runner_keep(void)
{
    last = NULL;
}

void runner_release(void)
{
    while (last) {
        block *before = last->before;
        free(last);
        last = before;
    }
}

int main(int argc, char **argv)
{
    return runner_serve(argc > 1 ? argv[1] : NULL);
}
