/* Runs a program for another process, which sends requests through one pipe and reads answers from another.
 * Numbers are 64 bits, in the order of the machine's bytes.
 *
 * At first the runner answers the name of the level: its length, then the letters; it gets the constants: their
 * bytes, then they themselves. A request is a header, the symbols, the bytes of each input and of each output,
 * and then the inputs. The answer is a status, the outputs when it is 0, and the nanoseconds of each operator if
 * they are asked for. Exit codes: 0 at the end of the requests, 3 for a processor without the program's
 * instructions, 4 for a problem with memory or pipes. */
#include "runner.h"

#include <stddef.h>
#include <string.h>

enum { RUN = 0, OPERATOR = 1 };

void qc_init(const uint8_t *blob);
int qc_select(const char *name);
const char *qc_level(void);
int64_t qc_arena_size(const int64_t *symbols, int threads);
int qc_run(const int64_t *symbols, const void *const *inputs, void *const *outputs, void *arena, int threads,
           int64_t *times);
int qc_op(int index, const int64_t *symbols, void *const *operands, int threads);

/* `over` is the input over which an operator writes its result, -1 for memory of its own; `times` is the number
 * of operators whose nanoseconds are wanted. */
typedef struct {
    int64_t command, index, threads, symbols, inputs, outputs, over, times;
} request;

/* What count.c looks for: calls of these stand around an operator. */
__attribute__((noinline)) void runner_begin(void);
__attribute__((noinline)) void runner_end(void);

void runner_begin(void)
{
    __asm__ volatile("" ::: "memory");
}

void runner_end(void)
{
    __asm__ volatile("" ::: "memory");
}

static void get(void *to, int64_t bytes)
{
    if (bytes && runner_get(to, bytes))
        runner_stop(RUNNER_BROKEN, "a request is incomplete");
}

/* Returns the status of a request whose values are in place. */
static int64_t compute(const request *r, const int64_t *symbols, void **values, int64_t *times)
{
    if (r->command == OPERATOR) {
        runner_begin();
        const int status = qc_op((int)r->index, symbols, values, (int)r->threads);
        runner_end();
        return status;
    }
    void *arena = runner_take(qc_arena_size(symbols, (int)r->threads));
    return qc_run(symbols, (const void *const *)values, values + r->inputs, arena, (int)r->threads, times);
}

static void answer(const request *r)
{
    const int64_t count = r->inputs + r->outputs;
    int64_t *symbols = runner_take((r->symbols + 1) * (int64_t)sizeof *symbols);
    int64_t *sizes = runner_take((count + 1) * (int64_t)sizeof *sizes);
    int64_t *times = r->times ? runner_take(r->times * (int64_t)sizeof *times) : NULL;
    void **values = runner_take((count + 1) * (int64_t)sizeof *values);
    get(symbols, r->symbols * (int64_t)sizeof *symbols);
    get(sizes, count * (int64_t)sizeof *sizes);
    for (int64_t i = 0; i < count; i++)
        values[i] = i == r->inputs && r->over >= 0 ? values[r->over] : runner_take(sizes[i]);
    for (int64_t i = 0; i < r->inputs; i++)
        get(values[i], sizes[i]);
    const int64_t status = compute(r, symbols, values, times);
    runner_put(&status, sizeof status);
    for (int64_t i = r->inputs; i < count && !status; i++)
        runner_put(values[i], sizes[i]);
    if (times && !status)
        runner_put(times, r->times * (int64_t)sizeof *times);
    runner_flush();
    runner_release();
}

static void read_constants(void)
{
    int64_t bytes;
    get(&bytes, sizeof bytes);
    uint8_t *constants = runner_take(bytes);
    get(constants, bytes);
    runner_keep();
    qc_init(constants);
}

int runner_serve(const char *level)
{
    if (level && qc_select(level))
        runner_stop(RUNNER_NO_LEVEL, "this processor lacks the level asked for, or the program does not carry it");
    if (!qc_level())
        runner_stop(RUNNER_NO_LEVEL, "this processor has none of the instruction sets of the program");
    const int64_t length = (int64_t)strlen(qc_level());
    runner_put(&length, sizeof length);
    runner_put(qc_level(), length);
    runner_flush();
    read_constants();
    request r;
    while (!runner_get(&r, sizeof r))
        answer(&r);
    return 0;
}
